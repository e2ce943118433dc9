from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest

from fedcore.algorithms.ditto import Ditto
from fedcore.algorithms.fedavg import FedAvg
from fedcore.algorithms.fedopt import FedOpt
from fedcore.algorithms.incremental import Incremental
from fedcore.algorithms.quantised import Quantised
from fedcore.algorithms.scaffold import Scaffold
from fedcore.algorithms.wrapper import Wrapper, layers
from fedcore.exchanges.base import WithExchange
from fedcore.messages.message import flatten
from tests.fedcore.federating import run, same
from tests.fedcore.toy_exchanges import ShareTotals
from tests.fedcore.toys import Hospitals, Toy, hospitals, local, plain


@dataclass(frozen=True)
class Unchanged(Wrapper):
    """Overrides nothing."""


def sites() -> Hospitals:
    return Hospitals(hospitals("abc"), local(module=Toy(plain)))


@pytest.mark.parametrize("inner", [FedAvg(), Scaffold()])
def test_a_wrapper_that_overrides_nothing_is_exactly_the_wrapped_algorithm(inner: Any) -> None:
    wrapped, alone = sites(), sites()
    assert same(flatten(run(Unchanged(inner), wrapped)), flatten(run(inner, alone)))
    assert all(same(wrapped.memories.get(name), alone.memories.get(name)) for name in "abc")


def test_null_wraps_fedavg() -> None:
    assert Unchanged().inner == FedAvg()
    assert same(run(Unchanged(), sites()).tensors, run(FedAvg(), sites()).tensors)


def test_layers_go_from_the_outermost_algorithm_inwards() -> None:
    inner = Incremental()
    algorithm = WithExchange(Quantised(FedOpt(Ditto(inner))), exchange=ShareTotals())
    assert [type(layer) for layer in layers(algorithm)] == [WithExchange, Quantised, FedOpt, Ditto, Incremental]
    assert list(layers(Quantised())) == [Quantised()]
    assert list(layers(None)) == []


@pytest.mark.parametrize("wrap", [Unchanged, Quantised, FedOpt, Ditto])
def test_the_state_of_the_wrapped_algorithm_is_part_of_the_wrappers(wrap: Any) -> None:
    trainer = sites().local
    wrapper = wrap(FedAvg())
    assert same(wrapper.inner_state(wrapper.start(trainer)).tensors, FedAvg().start(trainer).tensors)
