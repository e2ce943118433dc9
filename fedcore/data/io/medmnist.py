"""The images and labels of an .npz file in MedMNIST's layout (Yang et al. 2023, arXiv 2110.14795)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from fedcore.data.findings import NO_FINDING, SEPARATOR
from fedcore.data.io import npz
from fedcore.data.manifest.cells import is_missing, whole

SPLITS = ("train", "val", "test")


def members(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, str]:
    """The split of each array of images, by its name.

    Raises:
        ValueError: There is none.
    """
    found = {f"{split}_images": split for split in SPLITS if f"{split}_images" in shapes}
    if not found:
        raise ValueError(f"no train_images, val_images or test_images; found {', '.join(shapes)}")
    return found


def labels_of(path: Path, split: str, shapes: Mapping[str, tuple[int, ...]], warnings: list[str]) -> list[str | None]:
    """One label per image: class numbers of shape (n,) or (n, 1); for (n, k) of zeros and ones, as in ChestMNIST, the
    set of findings `0` to `k - 1` that are 1, or `No Finding`. For anything else images have no label, with a warning.

    Args:
        path: The .npz.
        split: train, val or test.
        shapes: The shapes of all arrays in the file.
        warnings: To which warnings are appended.

    Raises:
        ValueError: The numbers of labels and images differ, or the labels cannot be read.
    """
    count, member = shapes[f"{split}_images"][0], f"{split}_labels"
    shape = shapes.get(member, ())
    if not shape:
        return [None] * count
    if shape[0] != count:
        raise ValueError(f"{count} {split}_images, but {shape[0]} {member}")
    if len(shape) > 2:
        warnings.append(f"{path.name}: {member} has shape {shape}, not (n, 1) or (n, k); its images have no label")
        return [None] * count
    found = npz.labels(path, member)
    if found.size == count:
        return [_class(value) for value in found.reshape(-1).tolist()]
    if found.dtype.kind not in "biuf" or not np.isin(found, (0, 1)).all():
        warnings.append(
            f"{path.name}: {member} has shape {shape} and values other than 0 and 1, which are not findings; its "
            "images have no label"
        )
        return [None] * count
    warnings.append(f"{path.name}: {shape[1]} findings per image, named 0 to {shape[1] - 1}")
    return list(_findings(found != 0))


def _class(value: object) -> str | None:
    text = value.decode(errors="replace") if isinstance(value, bytes) else str(value)
    text = str(int(value)) if isinstance(value, float) and value.is_integer() else whole(text.strip())
    return None if is_missing(text) else text


def _findings(table: np.ndarray) -> Iterator[str]:
    for row in table:
        yield SEPARATOR.join(sorted(map(str, np.flatnonzero(row).tolist()))) or NO_FINDING
