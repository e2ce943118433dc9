from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fedcore.data import fingerprint as module
from fedcore.data.cohort import Cohort
from fedcore.data.dataset import AddedImages, Images
from fedcore.data.fingerprint import fingerprint

COUNT = 40


def images() -> Images:
    rng = np.random.default_rng(3)
    return Images(
        site="a",
        pixels=rng.random((COUNT, 1, 6, 5)).astype(np.float16),
        splits=np.array(["train", "val", "test", "train"] * (COUNT // 4)),
        labels=torch.arange(COUNT) % 3,
        patients=np.arange(COUNT) // 2,
        masks=rng.integers(0, 3, (COUNT, 6, 5)).astype(np.uint8),
        positions=rng.random(COUNT).astype(np.float32),
        spacing=np.where(rng.random((COUNT, 2)) < 0.2, np.nan, 1.5).astype(np.float32),
    )


def digest_of(part: Images) -> str:
    return fingerprint(Cohort({"a": part}, ("x", "y", "z")))


@pytest.mark.parametrize("at", [0, 1, 17, COUNT - 1])
@pytest.mark.parametrize("name", ["pixels", "masks", "positions", "spacing", "patients", "labels"])
def test_each_bit_of_an_image_changes_it(name: str, at: int) -> None:
    one, other = images(), images()
    value: Any = getattr(other, name)
    flat = (value.numpy() if isinstance(value, torch.Tensor) else value)[at : at + 1].reshape(-1).view(np.uint8)
    flat[0] ^= 1
    assert digest_of(one) != digest_of(other)


@pytest.mark.parametrize("name", ["masks", "positions", "spacing"])
def test_missing_arrays_change_it(name: str) -> None:
    assert digest_of(images()) != digest_of(replace(images(), **{name: None}))


@pytest.mark.parametrize("size", [1, 60, 100, 1 << 20])
def test_it_does_not_depend_on_the_chunk_size(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = digest_of(images())
    chunks: Callable[..., Any] = module._chunks
    monkeypatch.setattr(module, "_chunks", lambda stored, index: chunks(stored, index, size))
    assert digest_of(images()) == whole


def test_a_subset_equals_a_copy_of_its_images(tmp_path: Path) -> None:
    at = [3, 1, 7, 30]
    part = images().take(at)
    masks = images().masks
    assert masks is not None
    copied = replace(part, pixels=part.pixels[at], masks=masks[at], index=None)
    assert digest_of(part) == digest_of(copied) != digest_of(images().take(sorted(at)))
    np.save(tmp_path / "pixels.npy", images().pixels)
    assert digest_of(images()) == digest_of(replace(images(), pixels=np.load(tmp_path / "pixels.npy", mmap_mode="r")))


def test_added_images_have_a_part_of_their_own() -> None:
    first, plus, second = digest_of(replace(images(), added=AddedImages(images(), 0.5))).partition("+")
    assert (first, plus, bool(second)) == (digest_of(images()), "+", True)
    changed = images()
    changed.pixels[11] += 1
    assert digest_of(replace(images(), added=AddedImages(changed, 0.5))).split("+")[1] != second
