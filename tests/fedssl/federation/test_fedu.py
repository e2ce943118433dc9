from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from fedcore.algorithms.base import Algorithm
from fedcore.algorithms.fedavg import FedAvg
from fedcore.data.dataset import Images
from fedcore.messages.round import Round
from fedcore.messages.tensors import Tensors
from fedcore.server.rounds import Rounds
from fedcore.training.local_trainer import LocalTrainer
from fedcore.training.visit import Visit
from fedssl.federation.fedu import FedU
from fedssl.methods.byol import BYOL
from tests.fedcore.federating import federate, same
from tests.fedcore.toys import Hospitals

Sites = Callable[[], Hospitals]
SIZES = {"a": 8, "b": 12, "c": 16}


@pytest.fixture
def sites(toy: Callable[..., nn.Module], images: Callable[..., Images]) -> Sites:
    def make() -> Hospitals:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(3)
            module = BYOL(toy(), hidden_dim=8, projection_dim=4)
        local = LocalTrainer(module, BYOL.share, Visit(batch_size=4, accelerator="cpu"))
        return Hospitals({name: images(name, n) for name, n in SIZES.items()}, local)

    return make


def run(algorithm: Algorithm, sites: Hospitals) -> tuple[Tensors, list[list[float]]]:
    divergences: list[list[float]] = []
    state: Any = federate(
        algorithm, sites, algorithm.start(sites.local), Rounds(3), 0,
        finished=lambda record, state: divergences.append(
            [s.metrics.get("divergence", -1.0) for s in record.sites.values()]
        ),
    )  # fmt: skip
    return state.tensors, divergences


def reference(sites: Hospitals, mu: float) -> Tensors:
    """DAPU over three sites and three rounds."""
    local = sites.local
    everyone = {name: sites.site(name) for name in SIZES}
    global_model, own = local.shared(), dict[str, Tensors]()
    for index in range(3):
        for name, site in everyone.items():
            with local.at(site):
                start = dict(global_model)
                if name in own:
                    diverged = (
                        (global_model["encoder.layers.1.weight"] - own[name]["encoder.layers.1.weight"])
                        .square()
                        .sum()
                        .sqrt()
                    )
                    if diverged >= mu:
                        start |= {k: t for k, t in own[name].items() if t.is_floating_point() and k[:8] != "encoder."}
                local.load(start)
                local.fit(site, Round(index, 3, seed=0), {})
                own[name] = local.shared()
        for key, t in global_model.items():
            mean = sum(n * own[name][key].double() for name, n in SIZES.items()) / sum(SIZES.values())
            global_model[key] = mean.float() if t.is_floating_point() else mean.round().long()  # type: ignore[union-attr]
    return global_model


def test_three_sites_and_three_rounds_equal_the_reference_algorithm(sites: Sites) -> None:
    _, divergences = run(FedU(), sites())
    between = sum(sorted(divergences[1])[:2]) / 2  # one site is nearer, two are farther
    found, _ = run(FedU(mu=between), sites())
    for name, t in reference(sites(), between).items():
        torch.testing.assert_close(found[name], t, rtol=1e-4, atol=1e-5)
    for extreme in (0.0, 1e9):
        assert not same(found, run(FedU(mu=extreme), sites())[0])


def test_with_a_large_mu_it_equals_fedavg_exactly(sites: Sites) -> None:
    assert same(run(FedU(mu=1e9), sites())[0], run(FedAvg(), sites())[0])


def test_diverged_sites_keep_head_and_predictor_and_take_the_global_encoder(sites: Sites) -> None:
    transport, algorithm = sites(), FedU(mu=0.0)
    run(algorithm, transport)
    state = {k: t + 1 if t.is_floating_point() else t for k, t in transport.local.shared().items()}
    site = transport.site("a")
    start, metrics, _ = algorithm._start_weights(site, state)
    for name, t in start.items():
        own = site.memory[f"{'last' if name.startswith('encoder.') else 'own'}/{name}"]
        expected = own if not name.startswith("encoder.") and t.is_floating_point() else state[name]
        assert torch.equal(t, expected), name
    assert metrics["own_weight"] == 1.0


@pytest.mark.parametrize(("divergence", "weight"), [(0.39, 0.0), (0.4, 1.0), (7.0, 1.0)])
def test_the_threshold_by_hand(divergence: float, weight: float) -> None:
    assert FedU().own_weight(divergence, {}) == (weight, {})


def test_a_negative_mu_is_rejected() -> None:
    with pytest.raises(ValueError, match=r"mu must be >= 0, got -1\.0"):
        FedU(mu=-1.0)
