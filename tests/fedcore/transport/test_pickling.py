from __future__ import annotations

import io
import pickle
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from fedcore.algorithms.fedavg import FedAvg
from fedcore.data.dataset import Images
from fedcore.transport.pickling import pack, unpack
from fedssl.methods.simclr import SimCLR
from fedtune.classification.classifier import Classifier
from tests.fedcore.federating import same
from tests.fedcore.toys import Toy, images

SCALE = 3


def sent(thing: object) -> object:
    return unpack(pack(thing))


def shifted(by: int) -> Callable[..., int]:
    return lambda x, y=2, *, z=5: SCALE * x + y + z + by


@pytest.mark.parametrize("method", [SimCLR, Classifier])
def test_a_module_with_its_default_optimizer_travels(method: type, toy: Callable[..., torch.nn.Module]) -> None:
    module = method(toy(), *([3] if method is Classifier else []))
    arrived = sent(module)
    assert isinstance(arrived, method)
    assert same(arrived.state_dict(), module.state_dict())
    here, there = module.configure_optimizers(), arrived.configure_optimizers()
    assert type(there) is type(here)
    assert there.defaults == here.defaults


def test_a_function_without_a_name_keeps_all_it_needs() -> None:
    """Its module's names, its defaults, and what it closes over."""
    function = shifted(10)
    arrived = sent(function)
    assert callable(arrived)
    assert arrived is not function
    assert arrived(1) == function(1) == 20
    assert arrived(1, 0, z=0) == function(1, 0, z=0) == 13
    assert sent(partial(function, 1))() == 20  # type: ignore[operator]


@pytest.mark.parametrize("thing", [shifted, FedAvg, torch.nn.functional.relu], ids=lambda thing: thing.__name__)
def test_what_has_a_name_travels_by_it(thing: object) -> None:
    assert sent(thing) is thing


def test_a_map_of_a_file_travels_as_its_place(tmp_path: Path) -> None:
    whole = images(count=100)
    np.save(tmp_path / "a.npy", whole.pixels)
    mapped = np.load(tmp_path / "a.npy", mmap_mode="r")
    site = Images("a", mapped, whole.splits, whole.labels, whole.patients).take([5, 3])
    parcel = pack(site)
    assert len(parcel) < mapped.nbytes / 4
    arrived = unpack(parcel)
    assert isinstance(arrived.pixels, np.memmap)
    assert arrived.pixels.mode == "r"
    assert torch.equal(arrived.batch([0, 1]), site.batch([0, 1]))
    assert torch.equal(arrived.labels, site.labels)


def test_two_parts_of_a_map_are_one_map_there(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.zeros((4, 2)))
    mapped = np.load(tmp_path / "a.npy", mmap_mode="r")
    one, two = unpack(pack((mapped, mapped)))
    assert one is two


@pytest.mark.parametrize("order", ["C", "F"])
def test_the_layout_of_a_map_is_kept(tmp_path: Path, order: str) -> None:
    numbers = np.asarray(np.arange(24.0).reshape(2, 3, 4), order=order)  # type: ignore[call-overload]
    np.save(tmp_path / "a.npy", numbers)
    arrived = sent(np.load(tmp_path / "a.npy", mmap_mode="r"))
    assert isinstance(arrived, np.memmap)
    assert np.array_equal(arrived, numbers)
    assert arrived.strides == numbers.strides


@pytest.mark.parametrize("part", [np.s_[2:], np.s_[::2], np.s_[1]], ids=repr)
def test_a_slice_of_a_map_has_no_place_of_its_own_and_is_copied(tmp_path: Path, part: object) -> None:
    np.save(tmp_path / "a.npy", np.arange(12.0).reshape(4, 3))
    mapped = np.load(tmp_path / "a.npy", mmap_mode="r")
    assert np.array_equal(sent(mapped[part]), mapped[part])


def test_a_map_that_may_be_written_is_copied(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.zeros(3))
    mapped = np.load(tmp_path / "a.npy", mmap_mode="c")
    mapped[0] = 7
    assert np.array_equal(sent(mapped), [7, 0, 0])


NUMBERS = torch.arange(24.0).reshape(4, 1, 3, 2)


@pytest.mark.parametrize(
    "t",
    [
        NUMBERS.contiguous(memory_format=torch.channels_last),
        NUMBERS.permute(2, 0, 3, 1),
        NUMBERS[1:3],
        NUMBERS[:, :, ::2],
        NUMBERS.expand(2, 4, 1, 3, 2),
        NUMBERS.bfloat16(),
        NUMBERS > 3,
        NUMBERS.long()[0, 0, 0, 0],
        NUMBERS[:0],
        torch.complex(NUMBERS, NUMBERS).conj(),
        torch.nn.Parameter(NUMBERS.clone()),
    ],
    ids=["channels last", "turned", "part", "gaps", "expanded", "bf16", "bool", "scalar", "empty", "conj", "parameter"],
)
def test_tensors_keep_values_types_and_layout(t: Tensor) -> None:
    """The layout decides on kernels, and so on the last bit."""
    arrived = sent(t)
    assert type(arrived) is type(t)
    assert isinstance(arrived, Tensor)
    assert (arrived.dtype, arrived.shape, arrived.requires_grad) == (t.dtype, t.shape, t.requires_grad)
    assert arrived.stride() == t.stride()
    assert torch.equal(arrived, t)
    assert t.numel() == 0 or arrived.data_ptr() != t.data_ptr()
    assert arrived.data_ptr() % 64 == 0


def test_a_part_of_a_bank_does_not_take_the_bank_along() -> None:
    assert len(pack(torch.zeros(100_000)[:10])) < 1000


def test_what_arrived_can_be_written() -> None:
    arrived = sent(torch.zeros(3))
    assert isinstance(arrived, Tensor)
    arrived.add_(1)


def test_what_nobody_could_find_is_refused() -> None:
    class Hidden(Toy):
        pass

    with pytest.raises((AttributeError, pickle.PicklingError)):
        pack(Hidden())
    with pytest.raises(TypeError):
        pack(io.BufferedReader(io.BytesIO()))  # type: ignore[arg-type]
