"""Segmentations as sites keep them, and damaged ones."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedcore.report.sections.segmentation_gallery import SiteSegmentations, outline, read_segmentations
from fedcore.site.figure_files import SegmentationGalleryFile


def write(folder: Path, site: str = "a", n: int = 3, side: int = 16, **other: Any) -> Path:
    draw = np.random.default_rng(0)
    arrays = {
        "images": draw.integers(0, 256, (n, 1, side, side), dtype=np.uint8),
        "true_masks": draw.integers(0, 2, (n, side, side), dtype=np.uint8),
        "predicted_masks": draw.integers(0, 3, (n, side, side), dtype=np.uint8),
        "dice": np.linspace(0.9, 0.1, n).astype(np.float32),
    }
    (folder / "sites" / site).mkdir(parents=True, exist_ok=True)
    np.savez(folder / "sites" / site / SegmentationGalleryFile.NAME, **(arrays | other))
    return folder


def read(folder: Path, *sites: str) -> tuple[tuple[SiteSegmentations, ...], list[str]]:
    gaps: list[str] = []
    return read_segmentations(folder, sites or ("a",), gaps), gaps


def edges(path: str) -> set[tuple[str, int, int]]:
    """Single steps of a path: along a line of pixels, or across."""
    found = set()
    for x, y, way, end in re.findall(r"M(\d+),(\d+)([HV])(\d+)", path):
        steps = range(int(x if way == "H" else y), int(end))
        found |= {(way, at, int(y)) if way == "H" else (way, int(x), at) for at in steps}
    return found


def test_an_outline_runs_between_pixels_of_different_classes() -> None:
    mask = np.random.default_rng(0).integers(0, 3, (7, 5), dtype=np.uint8)
    expected = set()
    framed = np.pad(mask, 1)
    for y in range(8):
        expected |= {("H", x, y) for x in range(5) if framed[y, x + 1] != framed[y + 1, x + 1]}
    for x in range(6):
        expected |= {("V", x, y) for y in range(7) if framed[y + 1, x] != framed[y + 1, x + 1]}
    assert edges(outline(mask)) == expected


def test_a_square_has_four_strokes_and_an_empty_mask_none() -> None:
    mask = np.zeros((6, 8), np.uint8)
    assert outline(mask) == ""
    mask[1:4, 2:7] = 1
    assert outline(mask) == "M2,1H7M2,4H7M2,1V4M7,1V4"


@pytest.mark.parametrize(("n", "ranks"), [(1, ["only one"]), (2, ["best", "worst"]), (3, ["best", "median", "worst"])])
def test_images_have_their_rank(tmp_path: Path, n: int, ranks: list[str]) -> None:
    (found,), gaps = read(write(tmp_path, n=n))
    assert gaps == []
    assert [image.rank for image in found.images] == ranks
    assert found.images[0].dice == pytest.approx(0.9)
    assert (found.images[0].width, found.images[0].height) == (16, 16)


@pytest.mark.parametrize(
    "other",
    [
        {"dice": np.zeros(2)},
        {"true_masks": np.zeros((3, 8, 8), np.uint8)},
        {"predicted_masks": np.zeros((2, 16, 16), np.uint8)},
        {"images": np.zeros((3, 16, 16), np.uint8)},
        {"images": np.zeros((0, 1, 16, 16), np.uint8)},
        {"dice": np.array([{}, {}, {}], dtype=object)},
    ],
)
def test_a_malformed_file_is_a_gap(tmp_path: Path, other: dict[str, np.ndarray]) -> None:
    assert read(write(tmp_path, **other)) == ((), ["The segmentations of a cannot be read."])


def test_a_file_without_images_is_a_gap(tmp_path: Path) -> None:
    assert read(write(tmp_path, n=0)) == ((), ["The segmentations of a cannot be read."])


def test_many_sites_stay_within_the_pages_bytes(tmp_path: Path) -> None:
    sites = [f"s{n:02}" for n in range(40)]
    for site in sites:
        write(tmp_path, site, side=128)
    found, gaps = read(tmp_path, *sites)
    assert sum(image.size for one in found for image in one.images) < 2_500_000
    assert gaps == [f"The segmentations of {40 - len(found)} sites are left out to keep this page small."]
