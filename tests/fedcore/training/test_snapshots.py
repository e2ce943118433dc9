from __future__ import annotations

import random
from collections import OrderedDict, deque, namedtuple
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from monai.transforms import RandFlip
from torch import nn

from fedcore.training.snapshots import snapshot

Pair = namedtuple("Pair", "left right")


@dataclass
class Node:
    value: Any = 0
    next: Any = None


@dataclass(frozen=True)
class Frozen:
    rows: list[int] = field(default_factory=lambda: [1])
    name: str = "a"


def looped() -> list[Any]:
    loop: list[Any] = [1]
    loop.append(loop)
    return loop


MAKE: dict[str, tuple[Callable[[], Any], Callable[[Any], Any]]] = {
    "list": (lambda: [1, 2], lambda v: v.append(3)),
    "nested list": (lambda: [1, [2]], lambda v: v[1].append(3)),
    "dict": (lambda: {"a": 1}, lambda v: v.pop("a")),
    "ordered dict": (lambda: OrderedDict(a=1), lambda v: v.update(a=2)),
    "set": (lambda: {1, 2}, lambda v: v.add(3)),
    "deque": (lambda: deque([1], maxlen=2), lambda v: v.append(2)),
    "tuple with a list": (lambda: (1, [2]), lambda v: v[1].clear()),
    "named tuple with a tensor": (lambda: Pair(1, torch.zeros(2)), lambda v: v.right.add_(1)),
    "tensor": (lambda: torch.tensor([1.0, float("nan")]), lambda v: v.zero_()),
    "tensor through data": (lambda: torch.zeros(3), lambda v: v.data.fill_(1)),
    "tensor of bits": (lambda: torch.tensor([True, False]), lambda v: v.logical_not_()),
    "tensor enlarged": (lambda: torch.zeros(3), lambda v: v.resize_(5)),
    "array": (lambda: np.zeros(3), lambda v: v.fill(1)),
    "object": (Node, lambda v: setattr(v, "value", 1)),
    "object with another attribute": (Node, lambda v: setattr(v, "more", 1)),
    "object in an object": (lambda: Node(next=Node()), lambda v: setattr(v.next, "value", 1)),
    "namespace": (lambda: SimpleNamespace(a=1), lambda v: setattr(v, "a", 2)),
    "list of a frozen dataclass": (Frozen, lambda v: v.rows.append(2)),
    "network": (lambda: nn.Linear(2, 2), lambda v: v.weight.data.zero_()),
    "list that holds itself": (looped, lambda v: v.insert(0, 0)),
}  # fmt: skip


@pytest.mark.parametrize("kind", MAKE)
def test_a_change_is_seen_and_put_back_in_the_same_object(kind: str) -> None:
    make, change = MAKE[kind]
    value = make()
    taken = snapshot(value)
    assert taken.equals(value)
    change(value)
    assert not taken.equals(value)
    assert taken.restored() is value
    assert taken.equals(value)
    change(value)
    assert not taken.equals(value)


@pytest.mark.parametrize("kind", [kind for kind in MAKE if kind != "list that holds itself"])
def test_another_object_of_equal_content_is_no_change(kind: str) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        taken = snapshot(MAKE[kind][0]())
        torch.manual_seed(0)
        assert taken.equals(MAKE[kind][0]())


@pytest.mark.parametrize(("value", "equal", "other"), [
    (1, 1, 2), (0.5, 0.5, 0.25), (float("nan"), float("nan"), 0.0), (None, None, 0), ("a", "a", "b"), (True, True, 1),
    (np.float32(1), np.float32(1), np.float32(2)), (np.int64(3), np.int64(3), 3),
    (torch.device("cpu"), torch.device("cpu"), torch.device("meta")), (torch.float32, torch.float32, torch.float64),
    (looped, looped, snapshot), ([].append, None, [1].append), (torch.zeros(2), torch.zeros(2), np.zeros(2)),
    (torch.zeros(2), torch.zeros(2), torch.zeros(2, dtype=torch.float64)), ([1], [1], (1,)), ((1, 2), (1, 2), (2, 1)),
], ids=lambda value: type(value).__name__)  # fmt: skip
def test_scalars_are_compared_by_type_and_value(value: Any, equal: Any, other: Any) -> None:
    taken = snapshot(value)
    assert taken.equals(value)
    assert equal is None or taken.equals(equal)
    assert not taken.equals(other)


@pytest.mark.parametrize("make", [
    lambda: random.Random(0), lambda: np.random.default_rng(0), torch.Generator, lambda: RandFlip(prob=0.5),
    lambda: partial(print, 1), lambda: Node,
], ids=["Python", "NumPy", "torch", "MONAI", "function", "class"])  # fmt: skip
def test_what_belongs_to_a_library_changes_only_if_another_takes_its_place(make: Callable[[], Any]) -> None:
    value = make()
    taken = snapshot([value])
    for draw in ("random", "seed", "randomize"):
        if hasattr(value, draw):
            getattr(value, draw)(*((torch.zeros(1, 2, 2),) if draw == "randomize" else ()))
    assert taken.equals([value])
    assert not taken.equals([make()]) or make() is value
    assert taken.restored()[0] is value


def test_objects_that_are_saved_elsewhere_are_not_looked_into() -> None:
    weight = torch.zeros(2)
    taken = snapshot([weight], frozenset({id(weight)}))
    weight.add_(1)
    assert taken.equals([weight])
