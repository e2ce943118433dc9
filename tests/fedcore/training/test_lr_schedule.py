from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from torch.optim import SGD

from fedcore.algorithms.fedavg import FedAvg
from fedcore.messages.round import Round
from fedcore.messages.tensors import Tensors
from fedcore.site.site import Site
from fedcore.training.lr_schedule import Cosine
from fedcore.training.visit import Visit
from tests.fedcore.federating import same
from tests.fedcore.toys import Toy, central, images, local


def factors(schedule: Cosine, count: int) -> list[float]:
    return [schedule.factor(Round(index, count, 0)) for index in range(count)]


def test_factors_by_hand() -> None:
    assert factors(Cosine(), 4) == pytest.approx([1, (1 + 0.5**0.5) / 2, 0.5, (1 - 0.5**0.5) / 2])
    assert factors(Cosine(warmup=2), 4) == pytest.approx([1 / 3, 2 / 3, 1, 0.5])
    assert factors(Cosine(floor=0.2), 2) == pytest.approx([1, 0.6])


@given(count=st.integers(1, 60), warmup=st.integers(0, 70), floor=st.floats(0, 1))
def test_it_rises_then_falls_and_stays_in_its_range(count: int, warmup: int, floor: float) -> None:
    f = factors(Cosine(warmup, floor), count)
    rise, fall = f[:warmup], f[warmup:]
    assert rise == sorted(rise)
    assert fall == sorted(fall, reverse=True)
    assert all(0 < value <= 1 for value in rise)
    assert all(floor - 1e-9 <= value <= 1 + 1e-9 for value in fall)


@pytest.mark.parametrize("index", [0, 2])
def test_a_visit_trains_with_the_rate_of_its_round(index: int) -> None:
    visit = Visit(batch_size=4, max_epochs=2, accelerator="cpu", callbacks=(Cosine(),))
    site = Site("a", images())
    algorithm, trainer, turn = FedAvg(), local(visit), Round(index, 4, 0)
    up = algorithm.visit(site, algorithm.start(trainer), trainer, turn).message.tensors

    def at_rate(factor: float) -> Tensors:
        module = Toy(lambda p: SGD(p, lr=0.1 * factor, momentum=0.9))
        state = central(module, images(), visit, rounds=index + 1, begin=index)
        return {name: state[name] for name in up}

    assert same(up, at_rate(Cosine().factor(turn)))
    assert not same(up, at_rate(0.7))
