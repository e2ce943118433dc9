"""Feature galleries as sites keep them, and damaged ones."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from fedcore.report.sections.feature_gallery import SiteFeatures, class_name, read_features
from fedcore.site.figure_files import FeatureGalleryFile

WriteGallery = Callable[..., None]


@pytest.fixture
def gallery(tmp_path: Path, write_gallery: WriteGallery) -> Callable[..., Path]:
    """`gallery("a", field=...)` writes a gallery of site a and returns the folder of the run."""

    def write(site: str = "a", **other: Any) -> Path:
        folder = tmp_path / "sites" / site
        folder.mkdir(parents=True, exist_ok=True)
        write_gallery(folder, **other)
        return tmp_path

    return write


def read(
    folder: Path, *sites: str, classes: tuple[str, ...] = ("left", "right")
) -> tuple[tuple[SiteFeatures, ...], list[str]]:
    gaps: list[str] = []
    return read_features(folder, sites or ("a",), classes, gaps), gaps


def test_neighbours_know_whether_they_have_the_same_class(gallery: Callable[..., Path]) -> None:
    (found,), gaps = read(gallery(query_labels=np.array([0, 1, -1, 7])))
    assert gaps == []
    assert [row.label for row in found.rows] == ["left", "right", "unlabelled", "class 7"]
    assert [{near.same_class for near in row.neighbours} for row in found.rows] == [{False}, {True}, {None}, {False}]
    assert found.same_class == (5, 15)
    assert found.rows[0].neighbours[0].cosine == pytest.approx(0.9, abs=1e-3)


def test_pixels_are_those_of_the_file(gallery: Callable[..., Path]) -> None:
    pixels = np.arange(256, dtype=np.uint8).reshape(1, 1, 16, 16).repeat(4, 0)
    (found,), _ = read(gallery(queries=pixels))
    encoded = base64.b64decode(found.rows[0].picture.removeprefix("data:image/png;base64,"))
    assert (np.asarray(Image.open(io.BytesIO(encoded))) == pixels[0, 0]).all()


def test_a_site_without_neighbours_still_has_features(gallery: Callable[..., Path]) -> None:
    empty = {
        "neighbours": np.zeros((4, 0, 1, 1, 1), np.uint8),
        "neighbour_labels": np.zeros((4, 0), np.int64),
        "cosines": np.zeros((4, 0), np.float16),
    }
    (found,), gaps = read(gallery(**empty))
    assert (gaps, found.rows, found.features.shape) == ([], (), (40, 8))


@pytest.mark.parametrize(
    "other",
    [
        {"features": np.zeros(3)},
        {"features": np.full((40, 8), np.nan)},
        {"labels": np.zeros(3)},
        {"labels": np.array([{}], dtype=object)},
        {"queries": np.zeros(())},
        {"queries": np.zeros((4, 9), np.uint8)},
        {"neighbours": np.zeros((4, 5), np.uint8)},
        {"neighbour_labels": np.zeros((4, 2), np.int64)},
        {"cosines": np.zeros((1, 5))},
        {"encoder_checksum": np.zeros(3)},
    ],
)
def test_a_malformed_gallery_is_a_gap(gallery: Callable[..., Path], other: dict[str, np.ndarray]) -> None:
    assert read(gallery(**other)) == ((), ["The feature gallery of a cannot be read."])


@pytest.mark.parametrize("text", [b"", b"PK\x03\x04 cut off", b"no archive"])
def test_a_damaged_gallery_is_a_gap(gallery: Callable[..., Path], text: bytes) -> None:
    folder = gallery()
    (folder / "sites" / "a" / FeatureGalleryFile.NAME).write_bytes(text)
    assert read(folder) == ((), ["The feature gallery of a cannot be read."])


def test_a_file_with_features_alone_is_a_gap(tmp_path: Path) -> None:
    (tmp_path / "sites" / "a").mkdir(parents=True)
    np.savez(tmp_path / "sites" / "a" / FeatureGalleryFile.NAME, features=np.zeros((3, 2)), labels=np.zeros(3))
    assert read(tmp_path) == ((), ["The feature gallery of a cannot be read."])


def test_many_sites_show_a_row_each_within_the_pages_bytes(gallery: Callable[..., Path]) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (4, 5, 3, 96, 96), dtype=np.uint8)
    sites = [f"s{n}" for n in range(40)]
    for site in sites:
        folder = gallery(site, neighbours=noise)
    found, gaps = read(folder, *sites)
    assert len(found) == 40
    assert {len(one.rows) for one in found} == {0, 1}
    assert "sites are left out to keep this page small" in gaps[0]
    spent = sum(len(near.picture) for one in found for row in one.rows for near in row.neighbours)
    assert spent < 1_400_000


def test_a_sites_name_cannot_lead_out_of_the_run(gallery: Callable[..., Path], tmp_path: Path) -> None:
    gallery()
    (tmp_path / "run" / "sites").mkdir(parents=True)
    assert read(tmp_path / "run", "../../sites/a", str(tmp_path / "sites/a")) == ((), [])


def test_class_names() -> None:
    assert [class_name(label, ("x",)) for label in (-1, 0, 1)] == ["unlabelled", "x", "class 1"]
