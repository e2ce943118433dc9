from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from fedcore.algorithms.base import Algorithm
from fedcore.algorithms.fedavg import FedAvg
from fedcore.algorithms.local_only import LocalOnly
from fedcore.data.dataset import Images
from fedcore.messages.round import Round
from fedcore.messages.tensors import Tensors
from fedcore.server.rounds import Rounds
from fedcore.training.local_trainer import LocalTrainer
from fedcore.training.visit import Visit
from fedssl.federation.fedema import FedEMA
from fedssl.methods.byol import BYOL
from tests.fedcore.federating import federate, same
from tests.fedcore.toys import Hospitals

Sites = Callable[..., Hospitals]
SIZES = {"a": 8, "b": 12, "c": 16}


@pytest.fixture
def sites(toy: Callable[..., nn.Module], images: Callable[..., Images]) -> Sites:
    def make(share: tuple[str, ...] = BYOL.share) -> Hospitals:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(3)
            module = BYOL(toy(), hidden_dim=8, projection_dim=4)
        local = LocalTrainer(module, share, Visit(batch_size=4, accelerator="cpu"))
        return Hospitals({name: images(name, n) for name, n in SIZES.items()}, local)

    return make


def run(algorithm: Algorithm, sites: Hospitals, rounds: int = 3) -> Any:
    return federate(algorithm, sites, algorithm.start(sites.local), Rounds(rounds), 0)


def distance(a: Tensors, b: Tensors) -> float:
    """Between the encoders; the toy encoder has one matrix."""
    x, y = a["encoder.layers.1.weight"].flatten(), b["encoder.layers.1.weight"].flatten()
    return sum((float(p) - float(q)) ** 2 for p, q in zip(x, y, strict=True)) ** 0.5


def reference(sites: Hospitals, rounds: int, tau: float) -> Tensors:
    """The paper's algorithm 1 over the sites of `sites`, whose memories hold the target networks alone."""
    local = sites.local
    everyone = {name: sites.site(name) for name in SIZES}
    global_model = local.shared()
    own: dict[str, Tensors] = {}
    lambdas: dict[str, float] = {}
    for index in range(rounds):
        for name, site in everyone.items():
            with local.at(site):
                start = dict(global_model)
                if name in own:
                    diverged = distance(global_model, own[name])
                    lambdas.setdefault(name, tau / diverged)
                    mu = min(lambdas[name] * diverged, 1.0)
                    for key, t in global_model.items():
                        if t.is_floating_point():
                            start[key] = mu * own[name][key] + (1 - mu) * t
                local.load(start)
                local.fit(site, Round(index, rounds, seed=0), {})
                own[name] = local.shared()
        images = sum(SIZES.values())
        global_model = {
            key: sum(SIZES[name] * own[name][key].double() for name in SIZES) / images  # type: ignore[misc]
            for key in global_model
        }
        global_model = {
            k: t.float() if own["a"][k].is_floating_point() else t.round().long() for k, t in global_model.items()
        }
    return global_model


@pytest.mark.parametrize("tau", [0.7, 0.2])
def test_three_sites_and_three_rounds_equal_the_reference_algorithm(sites: Sites, tau: float) -> None:
    found, expected = run(FedEMA(tau=tau), sites()).tensors, reference(sites(), 3, tau)
    for name, t in expected.items():
        torch.testing.assert_close(found[name], t, rtol=1e-4, atol=1e-5)
    assert not same(found, run(FedAvg(), sites()).tensors)


def test_with_tau_0_it_equals_fedavg_exactly(sites: Sites) -> None:
    assert same(run(FedEMA(tau=0.0), sites()).tensors, run(FedAvg(), sites()).tensors)


def test_with_a_large_tau_it_equals_local_training(sites: Sites) -> None:
    """tau is so large that mu is always 1; the counters of norms, which do not affect training, are global."""
    fedema, local = sites(), sites(share=())
    run(FedEMA(tau=1e9), fedema)
    run(LocalOnly(), local)
    for name in SIZES:
        own = {k.removeprefix("own/"): t for k, t in fedema.memories.get(name).items() if k.startswith("own/")}
        expected = local.memories.get(name)
        for key, t in own.items():
            if t.is_floating_point():
                assert torch.equal(t, expected[f"module/{key}"]), key


def test_lambda_is_measured_once_and_kept() -> None:
    """0.7 / 2 = 0.35 at first; then min(0.35 * 1, 1) and min(0.35 * 4, 1)."""
    algorithm = FedEMA()
    weight, state = algorithm.own_weight(2.0, {})
    assert weight == pytest.approx(0.7)
    assert float(state["lambda"]) == pytest.approx(0.35)
    assert algorithm.own_weight(1.0, state) == (pytest.approx(0.35), state)
    assert algorithm.own_weight(4.0, state) == (1.0, state)


def test_a_site_without_divergence_has_no_lambda_yet() -> None:
    assert FedEMA().own_weight(0.0, {}) == (0.0, {})


def test_each_site_has_its_own_lambda(sites: Sites) -> None:
    transport = sites()
    run(FedEMA(), transport, rounds=2)
    lambdas = {float(transport.memories.get(name)["personalised_start/lambda"]) for name in SIZES}
    assert len(lambdas) == 3


def test_a_site_that_skipped_rounds_continues_from_its_own_model(sites: Sites) -> None:
    """At its second visit mu is tau, however many rounds it skipped."""
    transport, algorithm = sites(), FedEMA(tau=0.5)
    state = algorithm.start(transport.local)
    for index, names in enumerate(["ab", "b", "b", "ab"]):
        answers = list(transport.ask(algorithm, [(name, state) for name in names], Round(index, 4, seed=0)))
        state = algorithm.merge(state, answers)  # type: ignore[arg-type]
    assert answers[0].site == "a"
    assert answers[0].metrics["own_weight"] == pytest.approx(0.5)  # type: ignore[union-attr]


def test_a_negative_tau_is_rejected() -> None:
    with pytest.raises(ValueError, match=r"tau must be >= 0, got -0\.1"):
        FedEMA(tau=-0.1)
