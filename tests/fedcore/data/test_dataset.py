from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from fedcore.data.dataset import Images


def site(count: int, *, masks: bool = False, pixels: np.ndarray | None = None) -> Images:
    """Image i is filled with i / 1000, its label is i."""
    if pixels is None:
        pixels = np.broadcast_to((np.arange(count) / 1000)[:, None, None, None], (count, 1, 4, 5)).astype(np.float16)
    return Images(
        site="north",
        pixels=pixels,
        splits=np.array(["train" if at % 3 else "test" for at in range(count)]),
        labels=torch.arange(count),
        patients=np.arange(count) // 2,
        masks=np.broadcast_to(np.arange(count, dtype=np.uint8)[:, None, None], (count, 4, 5)) if masks else None,
        rows=np.arange(count) + 2,
    )


def test_subsets_agree_with_the_whole() -> None:
    whole = site(10, masks=True)
    part = whole.select("train").take([2, 0])
    assert part.labels.tolist() == [4, 1]
    assert (part.rows.tolist(), part.patients.tolist()) == ([6, 3], [2, 0])
    assert torch.equal(part.batch([0, 1]), whole.batch([4, 1]))
    assert torch.equal(part.mask_batch([0]), whole.mask_batch(torch.tensor([4])))
    assert part.pixels is whole.pixels
    assert (len(whole.select("test")), len(whole.select("val"))) == (4, 0)


def test_labels_that_a_training_does_not_use_stay_with_their_images() -> None:
    whole = site(6)
    hidden = replace(whole, labels=torch.full((6,), -1), all_labels=whole.labels)
    part = hidden.select("train").take([3, 1])
    assert part.labels.tolist() == [-1, -1]
    assert part.with_all_labels().labels.tolist() == [5, 2]
    assert part.with_all_labels().with_all_labels().labels.tolist() == [5, 2]
    assert whole.with_all_labels() is whole


def test_a_batch_is_a_copy_from_the_file(tmp_path: Path) -> None:
    np.save(tmp_path / "p.npy", site(6).pixels)
    mapped = site(6, pixels=np.load(tmp_path / "p.npy", mmap_mode="r"))
    batch = mapped.batch(np.array([5, 0]))
    assert (batch.dtype, batch.shape) == (torch.float32, (2, 1, 4, 5))
    assert torch.equal(batch, site(6).batch([5, 0]))
    batch.zero_()  # the file does not change
    assert torch.equal(mapped.batch([5]), site(6).batch([5]))


def test_fields_of_different_lengths_are_an_error() -> None:
    with pytest.raises(ValueError, match="has 4 images"):
        Images(
            "s",
            np.zeros((4, 1, 2, 2), np.float16),
            np.array(["train"] * 3),
            torch.zeros(4).long(),
            np.arange(4),
        )
    with pytest.raises(ValueError, match="has no masks"):
        site(3).mask_batch([0])
