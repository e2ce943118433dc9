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
from fedcore.messages.message import Tensors
from fedcore.server.rounds import Rounds, federate
from fedcore.site.site import Round
from fedcore.training.local_trainer import LocalTrainer
from fedcore.training.visit import Visit
from fedcore.transport.in_process import InProcess
from fedssl.federation.fedema import FedEMA
from fedssl.methods.byol import BYOL
from tests.fedcore.toys import same

Sites = Callable[..., InProcess]
SIZES = {"a": 8, "b": 12, "c": 16}


@pytest.fixture
def sites(toy: Callable[..., nn.Module], images: Callable[..., Images]) -> Sites:
    def make(share: tuple[str, ...] = BYOL.share) -> InProcess:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(3)
            module = BYOL(toy(), hidden=8, dim=4)
        local = LocalTrainer(module, share, Visit(batch_size=4, accelerator="cpu"))
        return InProcess({name: images(name, n) for name, n in SIZES.items()}, local)

    return make


def run(algorithm: Algorithm, sites: InProcess, rounds: int = 3) -> Any:
    return federate(algorithm, sites, algorithm.start(sites.local), Rounds(rounds), 0)


def distance(a: Tensors, b: Tensors) -> float:
    """The toy encoder has one matrix."""
    x, y = a["encoder.layers.1.weight"].flatten(), b["encoder.layers.1.weight"].flatten()
    return sum((float(p) - float(q)) ** 2 for p, q in zip(x, y, strict=True)) ** 0.5


def written_plainly(sites: InProcess, rounds: int, tau: float) -> Tensors:
    """The paper's algorithm 1 over the sites of `sites`, whose memories hold the target networks alone."""
    local = sites.local
    everyone = {name: sites.site(name) for name in SIZES}
    world = local.shared()
    own: dict[str, Tensors] = {}
    rate: dict[str, float] = {}
    for index in range(rounds):
        for name, site in everyone.items():
            with local.at(site):
                start = dict(world)
                if name in own:
                    far = distance(world, own[name])
                    rate.setdefault(name, tau / far)
                    mu = min(rate[name] * far, 1.0)
                    for key, t in world.items():
                        if t.is_floating_point():
                            start[key] = mu * own[name][key] + (1 - mu) * t
                local.load(start)
                local.fit(site, Round(index, rounds, seed=0), {})
                own[name] = local.shared()
        images = sum(SIZES.values())
        world = {
            key: sum(SIZES[name] * own[name][key].double() for name in SIZES) / images  # type: ignore[misc]
            for key in world
        }
        world = {k: t.float() if own["a"][k].is_floating_point() else t.round().long() for k, t in world.items()}
    return world


@pytest.mark.parametrize("tau", [0.7, 0.2])
def test_three_sites_and_three_rounds_equal_the_algorithm_written_plainly(sites: Sites, tau: float) -> None:
    found, expected = run(FedEMA(tau=tau), sites()).tensors, written_plainly(sites(), 3, tau)
    for name, t in expected.items():
        torch.testing.assert_close(found[name], t, rtol=1e-4, atol=1e-5)
    assert not same(found, run(FedAvg(), sites()).tensors)


def test_without_mixing_it_is_fedavg_to_the_bit(sites: Sites) -> None:
    assert same(run(FedEMA(tau=0.0), sites()).tensors, run(FedAvg(), sites()).tensors)


def test_with_nothing_but_its_own_every_site_is_alone(sites: Sites) -> None:
    """tau so great that mu is always 1; the counters of norms, which train nothing, are the federation's."""
    together, apart = sites(), sites(share=())
    run(FedEMA(tau=1e9), together)
    run(LocalOnly(), apart)
    for name in SIZES:
        own = {k.removeprefix("own/"): t for k, t in together.memories.get(name).items() if k.startswith("own/")}
        alone = apart.memories.get(name)
        for key, t in own.items():
            if t.is_floating_point():
                assert torch.equal(t, alone[f"module/{key}"]), key


def test_the_rate_is_measured_once_and_kept() -> None:
    """0.7 / 2 = 0.35 at first; then min(0.35 * 1, 1) and min(0.35 * 4, 1)."""
    algorithm = FedEMA()
    part, notes = algorithm.mixing(2.0, {})
    assert part == pytest.approx(0.7)
    assert float(notes["lambda"]) == pytest.approx(0.35)
    assert algorithm.mixing(1.0, notes) == (pytest.approx(0.35), notes)
    assert algorithm.mixing(4.0, notes) == (1.0, notes)


def test_a_site_that_never_diverged_has_no_rate_yet() -> None:
    assert FedEMA().mixing(0.0, {}) == (0.0, {})


def test_each_site_has_a_rate_of_its_own(sites: Sites) -> None:
    transport = sites()
    run(FedEMA(), transport, rounds=2)
    rates = {float(transport.memories.get(name)["rejoin/lambda"]) for name in SIZES}
    assert len(rates) == 3


def test_a_site_that_sat_out_goes_on_from_its_own(sites: Sites) -> None:
    """At its next visit the part it keeps is tau, however many rounds it missed."""
    transport, algorithm = sites(), FedEMA(tau=0.5)
    state = algorithm.start(transport.local)
    for index, names in enumerate(["ab", "b", "b", "ab"]):
        answers = list(transport.ask(algorithm, [(name, state) for name in names], Round(index, 4, seed=0)))
        state = algorithm.merge(state, answers)  # type: ignore[arg-type]
    assert answers[0].site == "a"
    assert answers[0].metrics["mixing"] == pytest.approx(0.5)  # type: ignore[union-attr]


def test_tau_is_not_negative() -> None:
    with pytest.raises(ValueError, match=r"tau must be >= 0, got -0\.1"):
        FedEMA(tau=-0.1)
