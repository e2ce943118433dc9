from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from fedcore.algorithms.base import Algorithm
from fedcore.algorithms.fedavg import FedAvg
from fedcore.data.dataset import Images
from fedcore.messages.message import Tensors
from fedcore.server.rounds import Rounds, federate
from fedcore.site.site import Round
from fedcore.training.local_trainer import LocalTrainer
from fedcore.training.visit import Visit
from fedcore.transport.in_process import InProcess
from fedssl.federation.fedu import FedU
from fedssl.methods.byol import BYOL
from tests.fedcore.toys import same

Sites = Callable[[], InProcess]
SIZES = {"a": 8, "b": 12, "c": 16}


@pytest.fixture
def sites(toy: Callable[..., nn.Module], images: Callable[..., Images]) -> Sites:
    def make() -> InProcess:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(3)
            module = BYOL(toy(), hidden=8, dim=4)
        local = LocalTrainer(module, BYOL.share, Visit(batch_size=4, accelerator="cpu"))
        return InProcess({name: images(name, n) for name, n in SIZES.items()}, local)

    return make


def run(algorithm: Algorithm, sites: InProcess) -> tuple[Tensors, list[list[float]]]:
    told: list[list[float]] = []
    state: Any = federate(
        algorithm, sites, algorithm.start(sites.local), Rounds(3), 0,
        finished=lambda record, state: told.append([s.metrics.get("divergence", -1.0) for s in record.sites.values()]),
    )  # fmt: skip
    return state.tensors, told


def written_plainly(sites: InProcess, mu: float) -> Tensors:
    """DAPU over three sites and three rounds."""
    local = sites.local
    everyone = {name: sites.site(name) for name in SIZES}
    world, own = local.shared(), dict[str, Tensors]()
    for index in range(3):
        for name, site in everyone.items():
            with local.at(site):
                start = dict(world)
                if name in own:
                    far = (
                        (world["encoder.layers.1.weight"] - own[name]["encoder.layers.1.weight"]).square().sum().sqrt()
                    )
                    if far >= mu:
                        start |= {k: t for k, t in own[name].items() if t.is_floating_point() and k[:8] != "encoder."}
                local.load(start)
                local.fit(site, Round(index, 3, seed=0), {})
                own[name] = local.shared()
        for key, t in world.items():
            mean = sum(n * own[name][key].double() for name, n in SIZES.items()) / sum(SIZES.values())
            world[key] = mean.float() if t.is_floating_point() else mean.round().long()  # type: ignore[union-attr]
    return world


def test_three_sites_and_three_rounds_equal_the_algorithm_written_plainly(sites: Sites) -> None:
    _, told = run(FedU(), sites())
    between = sum(sorted(told[1])[:2]) / 2  # one site is nearer, two are farther
    found, _ = run(FedU(mu=between), sites())
    for name, t in written_plainly(sites(), between).items():
        torch.testing.assert_close(found[name], t, rtol=1e-4, atol=1e-5)
    for all_or_none in (0.0, 1e9):
        assert not same(found, run(FedU(mu=all_or_none), sites())[0])


def test_a_threshold_beyond_reach_is_fedavg_to_the_bit(sites: Sites) -> None:
    assert same(run(FedU(mu=1e9), sites())[0], run(FedAvg(), sites())[0])


def test_far_sites_keep_head_and_predictor_and_take_the_encoder(sites: Sites) -> None:
    transport, algorithm = sites(), FedU(mu=0.0)
    run(algorithm, transport)
    state = {k: t + 1 if t.is_floating_point() else t for k, t in transport.local.shared().items()}
    site = transport.site("a")
    begin, metrics, _ = algorithm._begin(site, state)
    for name, t in begin.items():
        own = site.memory[f"{'last' if name.startswith('encoder.') else 'own'}/{name}"]
        expected = own if not name.startswith("encoder.") and t.is_floating_point() else state[name]
        assert torch.equal(t, expected), name
    assert metrics["mixing"] == 1.0


@pytest.mark.parametrize(("far", "part"), [(0.39, 0.0), (0.4, 1.0), (7.0, 1.0)])
def test_the_threshold_by_hand(far: float, part: float) -> None:
    assert FedU().mixing(far, {}) == (part, {})


def test_the_threshold_is_not_negative() -> None:
    with pytest.raises(ValueError, match=r"mu must be >= 0, got -1\.0"):
        FedU(mu=-1.0)
