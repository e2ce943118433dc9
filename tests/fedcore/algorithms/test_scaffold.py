from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.optim import SGD, Adam

from fedcore.aggregation.mean import Mean
from fedcore.algorithms.fedavg import FedAvg
from fedcore.algorithms.fedprox import ProximalTerm
from fedcore.algorithms.quantised import Quantised
from fedcore.algorithms.scaffold import Scaffold, ScaffoldMessage, ScaffoldState
from fedcore.data.dataset import Images
from fedcore.errors import InputError
from fedcore.exchanges.base import WithExchange
from fedcore.messages.answer import Contribution
from fedcore.messages.message import Weights, exposure
from fedcore.messages.reveals import Reveals
from fedcore.messages.round import Round
from fedcore.server.rounds import Rounds
from fedcore.site.site import Site
from fedcore.training.lr_schedule import Cosine
from fedcore.training.visit import Visit
from tests.fedcore.algorithms.scaffold_paper import RATE, VISIT, Paper
from tests.fedcore.federating import assert_resumes, run, same
from tests.fedcore.toy_exchanges import ShareTotals
from tests.fedcore.toys import Factory, Hospitals, Toy, batches, central, hospitals, local, plain, with_callbacks


def sites(names: str = "abc", optimizer: Factory = plain, visit: Visit = VISIT) -> Hospitals:
    return Hospitals(hospitals(names), local(visit, Toy(optimizer)))


def assert_paper(state: ScaffoldState, transport: Hospitals, paper: Paper) -> None:
    for k, t in paper.weights.items():
        torch.testing.assert_close(state.weights.tensors[k].double(), t.double(), rtol=1e-4, atol=1e-5)
    for k, t in paper.c.items():
        torch.testing.assert_close(state.control[k].double(), t, rtol=1e-4, atol=1e-5)
        for name, own in paper.own.items():
            held = transport.memories.get(name).get(f"scaffold/{k}", torch.zeros_like(t))
            torch.testing.assert_close(held.double(), own[k], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("eta", [1.0, 0.5, 1.5])
def test_plain_sgd_equals_algorithm_1_with_option_ii(eta: float) -> None:
    transport, paper = sites(), Paper("abc", eta)
    state = run(Scaffold(eta=eta), transport)
    for index in range(3):
        paper.run_round("abc", Round(index, 3, 0))
    assert_paper(state, transport, paper)


def test_with_some_sites_per_round_and_their_number_given_it_equals_the_paper() -> None:
    transport, paper, rounds = sites("abcd"), Paper("abcd", 1.0), Rounds(4, per_round=2)
    state = run(Scaffold(sites=4), transport, rounds)
    for index in range(4):
        turn = Round(index, 4, 0)
        paper.run_round("".join(rounds.draw(list("abcd"), turn)), turn)
    assert_paper(state, transport, paper)


def test_without_their_number_c_is_the_mean_over_the_sites_that_contributed() -> None:
    transport = sites("abcd")
    state = run(Scaffold(), transport, Rounds(3, per_round=2))
    participants = [transport.memories.get(name) for name in state.participants]
    assert 2 <= len(participants) <= 4
    for k, c in state.control.items():
        torch.testing.assert_close(c, sum(m[f"scaffold/{k}"] for m in participants) / len(participants))


def test_with_all_sites_in_each_round_the_number_changes_nothing() -> None:
    given, counted = run(Scaffold(sites=3), sites(), Rounds(3)), run(Scaffold(), sites(), Rounds(3))
    assert same(given.weights.tensors, counted.weights.tensors)
    assert same(given.control, counted.control)


def test_the_first_round_is_exactly_fedavg_with_equal_weights() -> None:
    assert same(
        run(Scaffold(), sites(), Rounds(1)).weights.tensors,
        run(FedAvg(Mean("equal")), sites(), Rounds(1)).tensors,
    )


def test_one_site_equals_central_training() -> None:
    """c is c_i, but for the rounding of c + (c_i+ - c_i): so to float32's, not to the bit."""
    state = run(Scaffold(), sites("a"))
    expected = central(Toy(plain), hospitals("a")["a"], VISIT, rounds=3)
    for k, t in state.weights.tensors.items():
        torch.testing.assert_close(t, expected[k], rtol=1e-5, atol=1e-6)


def test_equal_sites_are_not_corrected() -> None:
    """The mean of equal c_i is each of them."""
    data = hospitals("a")["a"]
    twins = {name: Images("a", data.pixels, data.splits, data.labels, data.patients) for name in ("a", "b")}
    transport = Hospitals(twins, local(VISIT, Toy(plain)))
    algorithm = Scaffold()
    state = algorithm.start(transport.local)
    for index in range(2):
        turn = Round(index, 2, 0)
        # Both visits are a's, with the memory of each: the same order of images, and so the same gradients.
        answers = []
        for name in twins:
            site = Site("a", twins[name], memory=transport.memories.get(name))
            with transport.local.at(site):
                down = algorithm.broadcast(state, name, turn)
                answer = algorithm.visit(site, down, transport.local, turn)
            transport.memories.put(name, site.memory, turn)
            answers.append(Contribution(name, answer.message, answer.examples))
        state = algorithm.merge(state, answers)
    for k, c in state.control.items():
        torch.testing.assert_close(c, transport.memories.get("a")[f"scaffold/{k}"], rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize(
    "optimizer",
    [lambda p: SGD(p, lr=RATE, momentum=0.9, weight_decay=0.1), lambda p: Adam(p, lr=0.01)],
    ids=["momentum", "adam"],
)
def test_with_any_optimizer_a_sites_control_is_the_mean_of_its_uncorrected_gradients(optimizer: Factory) -> None:
    transport = sites("ab", optimizer)
    algorithm, turn = Scaffold(), Round(0, 1, 0)
    start = algorithm.start(transport.local)
    c = {k: torch.full_like(t, 0.01) for k, t in start.control.items()}
    site = transport.site("a")
    with transport.local.at(site):
        algorithm.visit(site, ScaffoldMessage(start.weights, c), transport.local, turn)

    module, seen = Toy(optimizer), []
    steps = module.configure_optimizers()
    for batch in batches(site.images, VISIT, turn):
        steps.zero_grad()
        module.loss(batch).backward()
        seen.append({k: p.grad.clone() for k, p in module.named_parameters() if p.grad is not None})
        for k, p in module.named_parameters():
            assert p.grad is not None
            p.grad += c[k]
        steps.step()
    for k in c:
        torch.testing.assert_close(site.memory[f"scaffold/{k}"], sum(g[k] for g in seen) / len(seen))


def test_gradients_of_callbacks_come_after_the_correction_and_are_in_no_control() -> None:
    """A proximal term is zero at its anchor, so it changes nothing in the first step."""
    visit = Visit(batch_size=4, max_steps=1, accelerator="cpu")
    with_term, without = with_callbacks(sites("ab", visit=visit), ProximalTerm(5.0)), sites("ab", visit=visit)
    assert same(run(Scaffold(), with_term, Rounds(1)).control, run(Scaffold(), without, Rounds(1)).control)
    changed = run(Scaffold(), with_callbacks(sites("ab"), ProximalTerm(5.0), Cosine()))
    assert not same(changed.weights.tensors, run(Scaffold(), sites("ab")).weights.tensors)


@given(st.permutations(range(4)), st.integers(0, 9))
def test_the_order_of_contributions_does_not_matter(order: list[int], seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)

    def noise() -> Tensor:
        return torch.randn(3, generator=generator)

    state = ScaffoldState(Weights({"w": noise(), "b": noise()}), {"w": noise()}, ())
    answers = [
        Contribution(str(n), ScaffoldMessage(Weights({"w": noise(), "b": noise()}), {"w": noise()}), n + 1)
        for n in range(4)
    ]
    one, other = (Scaffold(eta=1.3).merge(state, iter(a)) for a in (answers, [answers[n] for n in order]))
    torch.testing.assert_close(one.weights.tensors, other.weights.tensors)
    torch.testing.assert_close(one.control, other.control)


def test_a_server_step_by_hand() -> None:
    """x = 1, sites at 2 and 4: the mean is 3, and eta 0.5 goes half of the way; b is a running statistic."""
    state = ScaffoldState(Weights({"w": torch.tensor(1.0), "b": torch.tensor(0.0)}), {"w": torch.tensor(0.5)}, ("x",))

    def sent(site: str, w: float, change: float) -> Contribution[ScaffoldMessage]:
        weights = Weights({"w": torch.tensor(w), "b": torch.tensor(w)})
        return Contribution(site, ScaffoldMessage(weights, {"w": torch.tensor(change)}), 1)

    merged = Scaffold(eta=0.5, sites=4).merge(state, [sent("x", 2.0, 1.0), sent("y", 4.0, 3.0)])
    assert merged.weights.tensors == {"w": 2.0, "b": 3.0}
    assert merged.control == {"w": 0.5 + (1.0 + 3.0) / 4}
    assert merged.participants == ("x", "y")


def test_without_a_step_nothing_changes() -> None:
    visit = Visit(batch_size=4, max_steps=0, accelerator="cpu")
    transport = sites("ab", visit=visit)
    state = run(Scaffold(), transport, Rounds(2))
    assert same(state.weights.tensors, Scaffold().start(sites().local).weights.tensors)
    assert not any(c.any() for c in state.control.values())


def test_its_messages_have_the_level_of_weights() -> None:
    assert exposure(Scaffold().start(local(module=Toy(plain)))) == Reveals.WEIGHTS


@pytest.mark.parametrize(
    "algorithm",
    [
        Scaffold(sites=3),
        Quantised(Scaffold(sites=3)),
        WithExchange(Scaffold(sites=3), exchange=ShareTotals()),
    ],
    ids=["alone", "int8", "with an exchange"],
)
def test_a_stopped_run_resumes_to_the_bit(tmp_path: Path, algorithm: Any) -> None:
    assert_resumes(algorithm, sites, tmp_path, Rounds(4, per_round=2))


def test_more_sites_than_the_given_number_are_an_error() -> None:
    with pytest.raises(InputError, match="sites must be the number of all sites, got 2, and 3 have contributed"):
        run(Scaffold(sites=2), sites())


def test_manual_optimization_and_16_mixed_are_errors() -> None:
    module = Toy(plain)
    module.automatic_optimization = False
    with pytest.raises(InputError, match="Scaffold needs the steps of one optimizer, but Toy calls its own"):
        Scaffold().start(local(module=module))
    with pytest.raises(InputError, match="Scaffold counts steps, and 16-mixed skips some"):
        Scaffold().start(local(Visit(precision="16-mixed")))


@pytest.mark.parametrize("wrong", [{"eta": 0.0}, {"sites": 0}])
def test_settings_are_checked(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="eta must be positive and sites at least 1 or null"):
        Scaffold(**wrong)
