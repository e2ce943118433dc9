"""Views of any size are shown, and damaged files never stop the report."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from fedcore.report.sections.augmented_views import read_views
from fedcore.site.figure_files import AugmentedViewsFile


def save(folder: Path, **arrays: np.ndarray) -> Path:
    site = folder / "sites" / "a"
    site.mkdir(parents=True)
    np.savez(site / AugmentedViewsFile.NAME, **arrays)
    return folder


@pytest.mark.parametrize("text", [b"", b"PK\x03\x04 cut off", b"no archive"])
def test_damaged_files_are_a_gap(tmp_path: Path, text: bytes) -> None:
    (save(tmp_path, images=np.zeros(1)) / "sites" / "a" / AugmentedViewsFile.NAME).write_bytes(text)
    gaps: list[str] = []
    assert read_views(tmp_path, ["a"], gaps) == ()
    assert gaps == ["The augmented views of a cannot be read."]


def test_files_of_objects_or_other_shapes_are_a_gap(tmp_path: Path) -> None:
    for at, images in enumerate((np.array([{}], dtype=object), np.zeros((2, 3)), np.zeros(()))):
        gaps: list[str] = []
        assert read_views(save(tmp_path / str(at), images=images), ["a"], gaps) == ()
        assert gaps == ["The augmented views of a cannot be read."]


def test_views_may_have_another_size_or_be_missing(tmp_path: Path) -> None:
    images = np.zeros((2, 1, 8, 8), dtype=np.float16)
    (bare,) = read_views(save(tmp_path / "x", images=images), ["a"], [])
    (seen,) = read_views(save(tmp_path / "y", images=images, views=np.zeros((2, 3, 1, 4, 4), np.float16)), ["a"], [])
    assert [len(row) for row in bare.rows] == [1, 1]
    assert [len(row) for row in seen.rows] == [4, 4]


def test_a_sites_name_cannot_lead_out_of_the_run(tmp_path: Path) -> None:
    save(tmp_path / "elsewhere", images=np.zeros((1, 1, 4, 4), dtype=np.float16))
    (tmp_path / "run" / "sites").mkdir(parents=True)
    assert read_views(tmp_path / "run", ["../../elsewhere/sites/a", str(tmp_path / "elsewhere/sites/a")], []) == ()
