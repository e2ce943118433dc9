from __future__ import annotations

from math import copysign, sqrt
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fedcore.aggregation.robust import Median
from fedcore.algorithms.base import Algorithm
from fedcore.algorithms.fedavg import FedAvg
from fedcore.algorithms.fedbn import FedBN
from fedcore.algorithms.fednova import FedNova
from fedcore.algorithms.fedopt import Adagrad, Adam, FedOpt, FedOptState, Momentum, Rule, Yogi
from fedcore.algorithms.fedprox import ProximalTerm
from fedcore.algorithms.local_only import LocalOnly
from fedcore.algorithms.properties import share_of
from fedcore.algorithms.quantised import Quantised
from fedcore.algorithms.scaffold import Scaffold
from fedcore.config.recipe import build_part
from fedcore.errors import InputError
from fedcore.exchanges.base import WithExchange
from fedcore.messages.message import Weights, weights_of
from fedcore.messages.round import Round
from fedcore.server.rounds import Rounds
from fedcore.training.visit import Visit
from tests.fedcore.federating import assert_resumes, run, same
from tests.fedcore.toy_exchanges import ShareTotals
from tests.fedcore.toys import Hospitals, Toy, central, contribution, hospitals, local, plain, with_callbacks

VISIT = Visit(batch_size=4, accelerator="cpu")
RULES = [Momentum(0.5, 0.8), Adagrad(0.1), Adam(0.1), Yogi(0.1)]
each = pytest.mark.parametrize("rule", RULES, ids=lambda rule: type(rule).__name__)


def sites(names: str = "abc", share: tuple[str, ...] = Toy.share) -> Hospitals:
    return Hospitals(hospitals(names), local(VISIT, Toy(plain), share=share))


def as_numbers(rule: Any, deltas: list[float]) -> list[float]:
    """Algorithm 2 of Reddi et al. (and FedAvgM of Hsu et al.) for one weight; its steps."""
    steps = []
    if isinstance(rule, Momentum):
        velocity = 0.0
        for delta in deltas:
            velocity = rule.beta * velocity + delta
            steps.append(rule.eta * velocity)
        return steps
    m, v = 0.0, rule.tau**2
    for delta in deltas:
        m = rule.beta1 * m + (1 - rule.beta1) * delta
        if isinstance(rule, Adagrad):
            v = v + delta**2
        elif isinstance(rule, Yogi):
            sign = 0.0 if v == delta**2 else copysign(1.0, v - delta**2)
            v = v - (1 - rule.beta2) * delta**2 * sign
        else:
            v = rule.beta2 * v + (1 - rule.beta2) * delta**2
        steps.append(rule.eta * m / (sqrt(v) + rule.tau))
    return steps


@each
@given(deltas=st.lists(st.floats(-3, 3), min_size=1, max_size=6))
def test_a_rule_equals_its_algorithm_for_one_number(rule: Rule, deltas: list[float]) -> None:
    m, v = (torch.tensor([x], dtype=torch.float64) for x in rule.start())
    for delta, expected in zip(deltas, as_numbers(rule, deltas), strict=True):
        step, m, v = rule.step(torch.tensor([delta], dtype=torch.float64), m, v)
        assert float(step) == pytest.approx(expected, rel=1e-9, abs=1e-12)


@each
def test_a_run_equals_the_rule_applied_to_fedavg_in_each_round(rule: Rule) -> None:
    """Each round's mean is made by FedAvg from the weights that the rule left."""
    transport = sites()
    found = weights_of(run(FedOpt(rule=rule), transport))
    twin, names = sites(), ("layer.weight", "layer.bias", "norm.weight", "norm.bias")
    world = FedAvg().start(twin.local)
    moments = {k: tuple(torch.full_like(world.tensors[k], x) for x in rule.start()) for k in names}
    for index in range(3):
        answers = twin.ask(FedAvg(), [(n, world) for n in "abc"], Round(index, 3, 0))
        mean: dict[str, Any] = dict(FedAvg().merge(world, answers).tensors)  # type: ignore[arg-type]
        for k in names:
            step, *after = rule.step(mean[k] - world.tensors[k], *moments[k])
            moments[k] = tuple(after)
            mean[k] = world.tensors[k] + step
        world = Weights(mean)
    for k, t in world.tensors.items():
        torch.testing.assert_close(found[k], t, rtol=1e-4, atol=1e-6)


def test_a_step_without_momentum_is_exactly_fedavg() -> None:
    assert same(weights_of(run(FedOpt(rule=Momentum(1.0, 0.0)), sites())), run(FedAvg(), sites()).tensors)


def test_one_site_and_a_step_without_momentum_equal_central_training_exactly() -> None:
    expected = central(Toy(plain), hospitals("a")["a"], VISIT, rounds=3)
    found = weights_of(run(FedOpt(rule=Momentum(1.0, 0.0)), sites("a")))
    assert same(found, {k: t for k, t in expected.items() if k != "seen"})


@each
def test_statistics_are_those_of_the_wrapped_algorithm(rule: Rule) -> None:
    state = run(FedOpt(rule=rule), sites(), Rounds(1))
    expected = run(FedAvg(), sites(), Rounds(1)).tensors
    for k in ("norm.running_mean", "norm.running_var", "norm.num_batches_tracked"):
        assert torch.equal(weights_of(state)[k], expected[k])
    assert state.first_moment.keys() == state.second_moment.keys() == {k for k, _ in Toy().named_parameters()}


def test_adams_first_step_by_hand() -> None:
    """delta 1: m = 0.1, v = 0.99e-6 + 0.01, a step of 0.01 * 0.1 / (0.1 + 0.001)."""
    state = FedOptState(Weights({"w": torch.tensor([2.0])}), {"w": torch.zeros(1)}, {"w": torch.full((1,), 1e-6)})
    after = FedOpt().merge(state, [contribution("s", w=[3.0])])
    assert float(weights_of(after)["w"]) == pytest.approx(2.0 + 0.001 / 0.101, rel=1e-4)


def test_yogi_forgets_a_large_change_more_slowly_than_adam() -> None:
    m, v, small = torch.zeros(1), torch.ones(1), torch.full((1,), 0.01)
    assert float(Yogi().step(small, m, v)[2]) > float(Adam().step(small, m, v)[2])


@each
def test_the_order_of_contributions_does_not_matter(rule: Rule) -> None:
    answers = [contribution(str(n), n + 1, w=[float(n)], b=[1.0 - n]) for n in range(5)]
    m, v = ({"w": torch.full((1,), x)} for x in rule.start())
    state = FedOptState(Weights({"w": torch.ones(1), "b": torch.ones(1)}), m, v)
    one, other = (weights_of(FedOpt(rule=rule).merge(state, a)) for a in (answers, answers[::-1]))
    for k in one:
        torch.testing.assert_close(one[k], other[k])


def test_share_callbacks_and_aggregator_are_those_of_the_wrapped_algorithm() -> None:
    assert share_of(FedOpt(FedBN()), Toy()) == ("layer.weight", "layer.bias")
    free = weights_of(run(FedOpt(), sites()))
    for inner in (FedAvg(Median()), FedNova(), Scaffold()):
        assert not same(weights_of(run(FedOpt(inner), sites())), free)
    assert not same(weights_of(run(FedOpt(), with_callbacks(sites(), ProximalTerm(5.0)))), free)


@pytest.mark.parametrize(("inner", "sets"), [(Quantised(), 2), (LocalOnly(), 0)])
def test_a_server_without_one_set_of_weights_is_an_error(inner: Algorithm, sets: int) -> None:
    with pytest.raises(
        InputError, match=f"needs a server with one set of weights, but {type(inner).__name__} has {sets}"
    ):
        FedOpt(inner).start(local())


@pytest.mark.parametrize(
    "algorithm",
    [
        *(FedOpt(rule=rule) for rule in RULES),
        FedOpt(Scaffold(sites=3)),
        Quantised(FedOpt()),
        WithExchange(FedOpt(), exchange=ShareTotals()),
    ],
)
def test_a_stopped_run_resumes_to_the_bit(tmp_path: Path, algorithm: Any) -> None:
    assert_resumes(algorithm, sites, tmp_path, Rounds(4, per_round=2))


def test_a_recipe_names_rule_and_algorithm() -> None:
    spec = {
        "class_path": "fedcore.algorithms.fedopt.FedOpt",
        "init_args": {
            "algorithm": {"class_path": "fedcore.algorithms.fednova.FedNova"},
            "rule": {"class_path": "fedcore.algorithms.fedopt.Yogi", "init_args": {"eta": 0.02}},
        },
    }
    assert build_part("algorithm", Algorithm, spec) == FedOpt(FedNova(), Yogi(0.02))


@pytest.mark.parametrize("kind", [Adagrad, Adam, Yogi])
@pytest.mark.parametrize("wrong", [{"eta": 0.0}, {"tau": 0.0}, {"beta1": 1.0}])
def test_adaptive_settings_are_checked(kind: type, wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=r"eta and tau must be positive and every beta lie in \[0, 1\), got"):
        kind(**wrong)


@pytest.mark.parametrize("kind", [Adam, Yogi])
def test_beta2_is_a_fraction(kind: type) -> None:
    with pytest.raises(ValueError, match=r"every beta lie in \[0, 1\), got .*beta2=1\.0"):
        kind(beta2=1.0)


def test_settings_of_momentum_are_checked() -> None:
    with pytest.raises(ValueError, match=r"eta must be positive and beta lie in \[0, 1\), got Momentum"):
        Momentum(beta=1.0)
