from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from fedcore.data.io import npz
from fedcore.data.io.medmnist import labels_of


def read(folder: Path, labels: np.ndarray) -> tuple[list[str | None], list[str]]:
    path, warnings = folder / "m.npz", list[str]()
    np.savez(path, train_images=np.zeros((len(labels), 4, 4), np.uint8), train_labels=labels)
    return labels_of(path, "train", npz.shapes(path), warnings), warnings


@pytest.mark.parametrize("dtype", [np.uint8, np.int64, np.float32, "U3"])
@pytest.mark.parametrize("shape", [(3, 1), (3,)])
def test_class_numbers_are_written_in_one_way_whatever_their_type(
    tmp_path: Path, dtype: str, shape: tuple[int, ...]
) -> None:
    assert read(tmp_path, np.array([0, 1, 10]).astype(dtype).reshape(shape)) == (["0", "1", "10"], [])


def test_nan_and_empty_labels_are_missing(tmp_path: Path) -> None:
    assert read(tmp_path, np.array([[0.0], [np.nan], [2.0]])) == (["0", None, "2"], [])
    assert read(tmp_path, np.array(["a", "nan", ""])) == (["a", None, None], [])


def test_columns_of_zeros_and_ones_are_findings(tmp_path: Path) -> None:
    table = np.zeros((3, 14), np.uint8)
    table[0, [2, 11]] = table[1, 5] = 1
    labels, warnings = read(tmp_path, table)
    assert labels == ["11|2", "5", "No Finding"]
    assert warnings == ["m.npz: 14 findings per image, named 0 to 13"]
    assert read(tmp_path, table.astype(bool))[0] == read(tmp_path, table.astype(np.float64))[0] == labels


@pytest.mark.parametrize("labels", [np.full((3, 14), 0.5), np.full((3, 4), -1), np.full((3, 4), np.nan),
                                    np.zeros((3, 4, 4)), np.full((3, 2), "a")])  # fmt: skip
def test_labels_of_unknown_meaning_are_ignored_with_a_warning(tmp_path: Path, labels: np.ndarray) -> None:
    found, warnings = read(tmp_path, labels)
    assert found == [None] * 3
    assert "its images have no label" in warnings[0]


def test_a_table_of_one_image_is_a_table(tmp_path: Path) -> None:
    assert read(tmp_path, np.array([[0, 1, 1]]))[0] == ["1|2"]
