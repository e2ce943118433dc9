from __future__ import annotations

import threading
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.utils.data import DataLoader

from fedcore.data.dataset import AddedImages
from fedcore.data.loader import Batch, Prefetcher, loader
from fedcore.errors import Refused
from tests.fedcore.data.test_dataset import site


@given(st.integers(1, 40), st.integers(1, 12), st.booleans(), st.booleans())
def test_every_image_comes_once(count: int, size: int, shuffle: bool, drop_last: bool) -> None:
    batches = list(loader(site(count), size, shuffle, drop_last, targets="labels"))
    seen = torch.cat([labels for _, labels in batches]).tolist()
    assert len(set(seen)) == len(seen) >= min(count, size)
    assert len(batches) == len(loader(site(count), size, shuffle, drop_last))
    assert all(torch.equal(pixels, site(count).batch(labels)) for pixels, labels in batches)
    left = count - len(seen)
    if drop_last:
        assert left == (count % size if count > size else 0)
    else:
        assert left == int(shuffle and size > 1 and count > size and count % size == 1)
    if not shuffle:
        assert seen == list(range(len(seen)))


def test_the_order_depends_on_the_generator_alone() -> None:
    def orders(seed: int) -> list[list[int]]:
        one = loader(site(30), 8, shuffle=True, targets="labels", generator=torch.Generator().manual_seed(seed))
        return [torch.cat([labels for _, labels in one]).tolist() for _ in range(2)]

    before = torch.random.get_rng_state()
    assert orders(1) == orders(1)
    assert orders(1) != orders(2)
    assert orders(1)[0] != orders(1)[1]
    assert torch.equal(torch.random.get_rng_state(), before)


def test_added_images_are_in_each_batch_and_not_counted() -> None:
    added = AddedImages(replace(site(100), labels=torch.arange(100) + 1000), fraction=0.6)
    images = replace(site(10), added=added)
    batches = list(loader(images, 4, shuffle=True, targets="labels"))
    assert len(images) == 10
    assert [len(pixels) for pixels, _ in batches] == [4 + 6, 4 + 6, 2 + 3]
    own = torch.cat([labels[labels < 1000] for _, labels in batches])
    extra = torch.cat([labels[labels >= 1000] for _, labels in batches])
    assert sorted(own.tolist()) == list(range(10))
    assert len(set(extra.tolist())) > 10
    for pixels, labels in batches:
        assert torch.allclose(pixels[:, 0, 0, 0], (labels % 1000) / 1000, atol=1e-4)


def test_added_images_of_fraction_1_replace_the_own_images() -> None:
    added = AddedImages(replace(site(100), labels=torch.arange(100) + 1000), fraction=1.0)
    images = replace(site(10), added=added)
    labels = [labels for _, labels in loader(images, 4, shuffle=True, targets="labels")]
    assert [len(each) for each in labels] == [4, 4, 2]
    assert torch.cat(labels).min() >= 1000


def test_the_order_of_own_images_does_not_depend_on_added_ones() -> None:
    alone = [b[:4] for b in loader(site(10), 4, shuffle=True, generator=torch.Generator().manual_seed(3))]
    images = replace(site(10), added=AddedImages(site(100), 0.5))
    both = [b[:4] for b in loader(images, 4, shuffle=True, generator=torch.Generator().manual_seed(3))]
    assert torch.equal(alone[0], both[0])


def test_without_shuffling_there_are_no_added_images() -> None:
    images = replace(site(10), added=AddedImages(site(100), 0.5))
    assert [len(batch) for batch in loader(images, 4, shuffle=False)] == [4, 4, 2]


@pytest.mark.parametrize("fraction", [None, 0.5, 1.0])
def test_prefetched_batches_are_identical(fraction: float | None) -> None:
    images = replace(site(11), added=AddedImages(site(100), fraction) if fraction else None)

    def batches(device: str) -> DataLoader[Batch] | Prefetcher:
        order = torch.Generator().manual_seed(5)
        return loader(images, 4, shuffle=True, targets="labels", generator=order, device=torch.device(device))

    def here(batches: DataLoader[Batch] | Prefetcher) -> Prefetcher:
        assert isinstance(batches, Prefetcher)
        return replace(batches, device=torch.device("cpu"))

    assert len(batches("cuda")) == len(batches("cpu")) == 3
    for plain, ahead in zip(batches("cpu"), here(batches("cuda")), strict=True):
        assert [part.dtype for part in ahead] == [torch.float32, torch.int64]
        assert all(torch.equal(a, b) for a, b in zip(plain, ahead, strict=True))


def test_the_prefetcher_stops_its_thread_and_raises_its_errors() -> None:
    def prefetched(**targets: Any) -> Prefetcher:
        batches = loader(site(40), 4, shuffle=True, **targets)
        assert isinstance(batches, DataLoader)
        return Prefetcher(batches, torch.device("cpu"))

    before = threading.active_count()
    for _ in prefetched():
        break
    assert threading.active_count() <= before
    with pytest.raises(Refused, match="no masks"):
        list(prefetched(targets="masks"))


@pytest.mark.gpu
def test_batches_on_a_gpu_are_identical() -> None:
    def batches(device: str) -> list[Tensor]:
        order = torch.Generator().manual_seed(5)
        return [b.cpu() for b in loader(site(11), 4, shuffle=True, generator=order, device=torch.device(device))]

    assert all(torch.equal(a, b) for a, b in zip(batches("cpu"), batches("cuda"), strict=True))
