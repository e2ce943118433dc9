from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.optim import SGD, Adam, AdamW

from fedcore.algorithms.fedavg import FedAvg
from fedcore.algorithms.fednova import FedNova, FedNovaMessage
from fedcore.algorithms.fedprox import ProximalTerm
from fedcore.algorithms.quantised import Quantised
from fedcore.errors import InputError
from fedcore.exchanges.base import WithExchange
from fedcore.messages.answer import Contribution
from fedcore.messages.message import Weights
from fedcore.messages.round import Round
from fedcore.messages.tensors import Tensors
from fedcore.server.rounds import QuorumMissed, Rounds
from fedcore.training.lr_schedule import Cosine
from fedcore.training.visit import Visit
from tests.fedcore.federating import assert_resumes, run, same
from tests.fedcore.toy_exchanges import ShareTotals
from tests.fedcore.toys import Factory, Hospitals, Toy, batches, central, hospitals, images, local, plain

VISIT = Visit(batch_size=4, max_epochs=2, accelerator="cpu")
RATE, RHO = 0.1, 0.9


def sgd(**settings: Any) -> Factory:
    return lambda p: SGD(p, lr=RATE, **settings)


def sites(names: str = "abc", optimizer: Factory = plain, visit: Visit = VISIT) -> Hospitals:
    return Hospitals(hospitals(names), local(visit, Toy(optimizer)))


def length(optimizer: Factory, steps: int, *callbacks: Any) -> float:
    visit = Visit(batch_size=4, max_epochs=steps, accelerator="cpu", callbacks=callbacks)
    transport, algorithm = Hospitals({"a": images(count=4)}, local(visit, Toy(optimizer))), FedNova()
    turn = Round(0, 1, 0)
    (answer,) = transport.ask(algorithm, [("a", algorithm.start(transport.local))], turn)
    return float(answer.message.length)  # type: ignore[union-attr]


def with_momentum(steps: int) -> float:
    """[tau - rho (1 - rho^tau) / (1 - rho)] / (1 - rho), below eq. 4 of the paper."""
    return (steps - RHO * (1 - RHO**steps) / (1 - RHO)) / (1 - RHO)


def proximal(steps: int, mu: float) -> float:
    """[1 - (1 - alpha)^tau] / alpha with alpha = eta mu, of the same place."""
    alpha = RATE * mu
    return (1 - (1 - alpha) ** steps) / alpha


@pytest.mark.parametrize("steps", [1, 2, 7])
def test_lengths_are_the_papers_closed_forms(steps: int) -> None:
    assert length(sgd(), steps) == pytest.approx(RATE * steps)
    assert length(sgd(weight_decay=0.1), steps) == pytest.approx(RATE * steps)
    assert length(sgd(momentum=RHO), steps) == pytest.approx(RATE * with_momentum(steps))
    assert length(sgd(), steps, ProximalTerm(0.5)) == pytest.approx(RATE * proximal(steps, 0.5))


@pytest.mark.parametrize("optimizer", [Adam, AdamW, lambda p, lr: Adam(p, lr=lr, fused=True)])
def test_adam_counts_steps(optimizer: Callable[..., Any]) -> None:
    assert length(lambda p: optimizer(p, lr=0.01), 5) == pytest.approx(0.01 * 5, rel=1e-6)


def test_a_schedule_scales_lengths_as_it_scales_steps() -> None:
    cosine = Cosine(warmup=3)
    assert length(sgd(), 4, cosine) == pytest.approx(length(sgd(), 4) / 4)


def weights_follow_gradients(steps: int) -> list[float]:
    """a_i of SGD with momentum by its definition: the part of the j-th gradient in the sum of all moves."""
    return [sum(RHO**later for later in range(steps - j)) for j in range(steps)]


def test_the_length_is_the_sum_of_the_coefficients_of_all_gradients() -> None:
    assert length(sgd(momentum=RHO), 6) == pytest.approx(RATE * sum(weights_follow_gradients(6)))


def as_loops(names: str, optimizer: Factory, rounds: int, norm_of: Callable[[int], float]) -> Tensors:
    """Algorithm 1 of the paper in float64, its normalised gradients d_i spelled out; buffers by images."""
    data = hospitals(names)
    total = sum(len(d) for d in data.values())
    module = Toy(optimizer).double()
    learned = {k for k, _ in module.named_parameters()}
    world = {k: t.clone() for k, t in module.state_dict().items() if k != "seen"}
    for index in range(rounds):
        moves: list[tuple[float, float, Tensors]] = []
        buffers = {k: torch.zeros((), dtype=torch.float64) for k in world.keys() - learned}
        for name in names:
            module.load_state_dict(world, strict=False)
            steps, taken = module.configure_optimizers(), 0
            for batch in batches(data[name], VISIT, Round(index, rounds, 0)):
                steps.zero_grad()
                module.loss(batch.double()).backward()
                steps.step()
                taken += 1
            p, a = len(data[name]) / total, norm_of(taken)
            state = module.state_dict()
            moves.append((p, a, {k: (world[k] - state[k]) / (RATE * a) for k in learned}))
            buffers = {k: t + p * state[k].double() for k, t in buffers.items()}
        effective = sum(p * a for p, a, _ in moves)
        for k in learned:
            world[k] = world[k] - effective * sum(p * RATE * d[k] for p, _, d in moves)
        world |= {k: t if world[k].is_floating_point() else t.round().long() for k, t in buffers.items()}
    return world


@pytest.mark.parametrize(
    ("optimizer", "norm_of"), [(plain, float), (sgd(momentum=RHO), with_momentum)], ids=["plain", "momentum"]
)
def test_equals_the_paper_as_loops(optimizer: Factory, norm_of: Callable[[int], float]) -> None:
    found, expected = run(FedNova(), sites(optimizer=optimizer)).tensors, as_loops("abc", optimizer, 3, norm_of)
    assert found.keys() == expected.keys()
    for k, t in expected.items():
        torch.testing.assert_close(found[k].double(), t.double(), rtol=1e-4, atol=1e-5)
    assert not same(found, run(FedAvg(), sites(optimizer=optimizer)).tensors)


def test_equal_lengths_are_fedavg() -> None:
    """To rounding: n / |a| weighs as n does, but is another number."""
    visit = Visit(batch_size=4, max_steps=2, accelerator="cpu")
    found, expected = (run(a, sites(visit=visit)).tensors for a in (FedNova(), FedAvg()))
    for k, t in expected.items():
        torch.testing.assert_close(found[k], t, rtol=1e-5, atol=1e-7)


def test_one_site_equals_central_training_to_the_bit() -> None:
    expected = central(Toy(plain), hospitals("a")["a"], VISIT, rounds=3)
    assert same(run(FedNova(), sites("a")).tensors, {k: t for k, t in expected.items() if k != "seen"})


def sent(site: str, examples: int, steps: float, w: float, statistic: float = 0.0) -> Contribution[FedNovaMessage]:
    up = FedNovaMessage(Weights({"w": torch.tensor(w)}), {"var": torch.tensor(statistic)}, torch.tensor(float(steps)))
    return Contribution(site, up, examples)


def test_a_round_by_hand() -> None:
    """p = 1/4, 3/4; |a| = 1, 3; moves 1 and 6, so d = 1 and 2: tau_eff = 2.5, and 2.5 (1/4 + 6/4) = 4.375."""
    state = Weights({"w": torch.tensor(10.0), "var": torch.tensor(1.0)})
    merged = FedNova().merge(state, [sent("x", 1, 1, 11.0, 2.0), sent("y", 3, 3, 16.0, 4.0)])
    assert float(merged.tensors["w"]) == pytest.approx(14.375)
    assert float(merged.tensors["var"]) == pytest.approx(3.5)


@given(st.lists(st.tuples(st.integers(1, 9), st.floats(0.1, 9), st.floats(-9, 9)), min_size=2, max_size=5), st.data())
def test_the_order_of_contributions_and_a_common_rate_do_not_matter(
    visits: list[tuple[int, float, float]], data: Any
) -> None:
    state = Weights({"w": torch.tensor(0.5), "var": torch.tensor(0.0)})
    answers = [sent(str(k), n, a, w) for k, (n, a, w) in enumerate(visits)]
    scaled = [sent(str(k), n, 7 * a, w) for k, (n, a, w) in enumerate(visits)]
    one = FedNova().merge(state, answers).tensors["w"]
    torch.testing.assert_close(FedNova().merge(state, data.draw(st.permutations(answers))).tensors["w"], one,
                               rtol=1e-4, atol=1e-4)  # fmt: skip
    torch.testing.assert_close(FedNova().merge(state, scaled).tensors["w"], one, rtol=1e-4, atol=1e-4)


def test_a_site_without_a_step_declines() -> None:
    with pytest.raises(
        QuorumMissed, match="FedNova divides by the length of a site's steps, and the site took no step"
    ):
        run(FedNova(), sites("a", visit=Visit(max_steps=0, accelerator="cpu")))


def test_manual_optimization_is_an_error() -> None:
    module = Toy(plain)
    module.automatic_optimization = False
    with pytest.raises(InputError, match="FedNova needs the steps of one optimizer"):
        FedNova().start(local(module=module))


@pytest.mark.parametrize(
    "algorithm", [FedNova(), Quantised(FedNova()), WithExchange(FedNova(), exchange=ShareTotals())],
    ids=["alone", "int8", "with an exchange"],
)  # fmt: skip
def test_a_stopped_run_resumes_to_the_bit(tmp_path: Path, algorithm: Any) -> None:
    assert_resumes(algorithm, sites, tmp_path, Rounds(4, per_round=2))


class Wrapped(SGD):
    """As LARS and Lookahead are often written: around another optimizer."""

    def __init__(self, inner: SGD):
        super().__init__(inner.param_groups, lr=RATE)


@pytest.mark.parametrize(
    ("optimizer", "text"),
    [
        (
            lambda p: SGD([{"params": list(p)[:2]}, {"params": list(p)[2:], "lr": 0.01}], lr=RATE),
            "same settings for all",
        ),
        (lambda p: Wrapped(SGD(p, lr=RATE)), r"Wrapped cannot be built from its parameter groups \(TypeError\)"),
    ],
    ids=["groups", "wrapper"],
)
def test_optimizers_that_cannot_be_built_for_one_number_are_errors_at_the_start(optimizer: Any, text: str) -> None:
    def fresh(parameters: Any) -> Any:
        return optimizer(list(parameters))

    with pytest.raises(InputError, match=text):
        FedNova().start(local(module=Toy(fresh)))


def test_groups_may_differ_in_weight_decay() -> None:
    def grouped(parameters: Any) -> SGD:
        first, *rest = parameters
        return SGD([{"params": [first], "weight_decay": 0.1}, {"params": rest}], lr=RATE)

    assert length(grouped, 5) == pytest.approx(RATE * 5)
