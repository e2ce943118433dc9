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


def printed(part: Images) -> str:
    return fingerprint(Cohort({"a": part}, ("x", "y", "z")))


@pytest.mark.parametrize("at", [0, 1, 17, COUNT - 1])
@pytest.mark.parametrize("name", ["pixels", "masks", "positions", "spacing", "patients", "labels"])
def test_a_bit_of_any_image_counts(name: str, at: int) -> None:
    one, other = images(), images()
    value: Any = getattr(other, name)
    flat = (value.numpy() if isinstance(value, torch.Tensor) else value)[at : at + 1].reshape(-1).view(np.uint8)
    flat[0] ^= 1
    assert printed(one) != printed(other)


@pytest.mark.parametrize("name", ["masks", "positions", "spacing"])
def test_what_is_not_known_counts(name: str) -> None:
    assert printed(images()) != printed(replace(images(), **{name: None}))


@pytest.mark.parametrize("size", [1, 60, 100, 1 << 20])
def test_it_is_the_same_however_much_is_read_at_once(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = printed(images())
    chunks: Callable[..., Any] = module._chunks
    monkeypatch.setattr(module, "_chunks", lambda stored, index: chunks(stored, index, size))
    assert printed(images()) == whole


def test_a_part_is_that_of_its_images_wherever_they_are_stored(tmp_path: Path) -> None:
    at = [3, 1, 7, 30]
    part = images().take(at)
    masks = images().masks
    assert masks is not None
    copied = replace(part, pixels=part.pixels[at], masks=masks[at], index=None)
    assert printed(part) == printed(copied) != printed(images().take(sorted(at)))
    np.save(tmp_path / "pixels.npy", images().pixels)
    assert printed(images()) == printed(replace(images(), pixels=np.load(tmp_path / "pixels.npy", mmap_mode="r")))


def test_images_that_accompany_tell_in_a_part_of_their_own() -> None:
    first, plus, second = printed(replace(images(), added=AddedImages(images(), 0.5))).partition("+")
    assert (first, plus, bool(second)) == (printed(images()), "+", True)
    changed = images()
    changed.pixels[11] += 1
    assert printed(replace(images(), added=AddedImages(changed, 0.5))).split("+")[1] != second
