from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.optim import SGD

from fedcore.algorithms.fedavg import FedAvg
from fedcore.algorithms.properties import share_of
from fedcore.data.dataset import Images
from fedcore.data.loader import loader
from fedcore.errors import InputError
from fedcore.messages.message import Reveals, flatten, unflatten, weights_of
from fedcore.privacy.policy import Policy
from fedcore.runs.communication import RoundRecord
from fedcore.seeds import seeded
from fedcore.server.rounds import NoSiteLeft, Rounds, federate
from fedcore.site.site import Round
from fedcore.training.local_trainer import LocalTrainer
from fedcore.training.visit import Visit
from fedcore.transport.in_process import InProcess
from fedgen.diffusion.diffusion import Diffusion
from fedgen.gan.discriminator import Shown
from fedgen.gan.gan import GAN
from fedgen.gan.mdgan import MDGAN
from fedgen.gan.server_generator import Studio
from fedgen.generator import UNCONDITIONED, ImageShape, dropped_conditions
from fedgen.generator_store import load_generator
from tests.fedcore.toys import broken, hospitals, same
from tests.fedgen.gans import KNOWN, VISIT, gan, left_by, stopped_and_resumed, trained

CPU = torch.device("cpu")


def painters_optimizer(parameters: Any) -> SGD:
    """Keeps momentum from round to round; Adam's steps have a size where gradients are zero but for rounding."""
    return SGD(parameters, lr=0.02, momentum=0.9)


ALGORITHM = MDGAN(fakes=6, optimizer=painters_optimizer, accelerator="cpu")


def federated(module: Any, sites: dict[str, Images], rounds: int = 3, **more: Any) -> tuple[Studio, InProcess]:
    local = LocalTrainer(module, share_of(ALGORITHM, module), more.pop("visit", VISIT))
    transport = InProcess(sites, local, policy=more.pop("policy", Policy()))
    return federate(ALGORITHM, transport, ALGORITHM.start(local), Rounds(rounds), 0, **more), transport


class Central:
    """The same training in one place: one painter, a critic a site, and gradients that flow through both."""

    def __init__(self, module: GAN, sites: dict[str, Images]):
        self.module, self.sites = module, sites
        self.critics = {name: copy.deepcopy(module.critic) for name in sites}
        self.optimizer = painters_optimizer(module.painter.parameters())
        self.plan = Studio.of(module, module.state_dict())
        self.labels: dict[str, Tensor] = {}

    def round(self, turn: Round) -> None:
        self.optimizer.zero_grad()
        everyone = sum(len(images) for images in self.sites.values())
        loss = sum(len(images) / everyone * self.painter_loss(name, turn) for name, images in self.sites.items())
        loss.backward()
        self.optimizer.step()
        self.labels = {name: counted(images) for name, images in self.sites.items()}
        self.average()

    def painter_loss(self, site: str, turn: Round) -> Tensor:
        """The critic's round, and what it says at last of images that the painter's gradient goes through."""
        module, critic = self.module, self.critics[site]
        state = Studio(self.plan.weights, {}, self.plan.plan, self.labels)
        order = state.order(module.generator, site, turn.seed_of(site, "fakes"), 12)
        drawn = module.painter(order.noise, order.labels, order.sites)
        optimizer = module.critic_optimizer(critic.parameters())
        with seeded(turn.seed_of(site)):
            random = torch.Generator().manual_seed(turn.seed_of(site, "order"))
            for images, labels in loader(self.sites[site], 4, True, True, "labels", random):
                real = dropped_conditions(labels, self.place(site), module.dropped)
                some = torch.randperm(6)[:4]
                look = module.augment.draw(images)
                fake = Shown(look(drawn[some].detach()), order.labels[some], order.sites[some])
                optimizer.zero_grad()
                module.objective.critic(critic, Shown(look(images), *real), fake).backward()
                optimizer.step()
            judged = drawn[6:]
            return -critic(Shown(module.augment.draw(judged)(judged), order.labels[6:], order.sites[6:])).mean()

    def place(self, site: str) -> Tensor:
        return torch.full((4,), KNOWN.site(site))

    @torch.no_grad()
    def average(self) -> None:
        module, images = self.module, 6 * len(self.sites)
        decay = min(0.5 ** (images / module.halflife), float((1 + module.steps) / (10 + module.steps)))
        module.steps += 1
        for slow, fast in zip(module.average.parameters(), module.painter.parameters(), strict=True):
            slow.lerp_(fast, 1 - decay)


def counted(images: Images) -> Tensor:
    return torch.tensor([int((images.labels == at).sum()) for at in (0, 1, UNCONDITIONED)])


@pytest.mark.parametrize("names", ["a", "abc"])
def test_a_round_is_training_in_one_place_with_gradients_through_both(names: str) -> None:
    sites = hospitals(names)
    state, transport = federated(gan(), sites)
    central = Central(gan(), sites)
    for index in range(3):
        central.round(Round(index, 3, 0))
    expected = central.module.state_dict()
    for name, t in state.weights.tensors.items():
        torch.testing.assert_close(t, expected[name], rtol=1e-3, atol=1e-5)
    for name, critic in central.critics.items():
        kept = transport.memories.get(name)
        for key, t in critic.state_dict().items():
            torch.testing.assert_close(kept[f"module/critic.{key}"], t, rtol=1e-3, atol=1e-5)
    assert not same(state.weights.tensors, {k: gan().state_dict()[k] for k in state.weights.tensors})


def test_no_weights_travel_and_what_does_is_said() -> None:
    records: list[RoundRecord] = []
    state, transport = federated(gan(), hospitals("ab"), finished=lambda record, _: records.append(record))
    for record in records:
        for site in record.sites.values():
            assert site.reveals == "STATISTICS"
            assert (site.up.weights, site.down.weights) == (8, 8)  # the ticket
            assert site.down.exchange == 2 * 6 * (8 * 8 * 4 + 2 * 8)
            assert site.up.exchange == 6 * 8 * 8 * 4 + 3 * 8
            assert site.metrics.keys() == {"loss", "painter_loss"}
    memory = transport.memories.get("a")
    assert {name.split(".")[0] for name in memory} == {"module/critic"}
    assert all(name.split(".")[0] in ("painter", "average", "steps") for name in weights_of(state))


def test_sites_that_agree_to_weights_alone_send_nothing() -> None:
    with pytest.raises(NoSiteLeft, match=r"Critique reveals STATISTICS \(gradient\), the policy allows WEIGHTS"):
        federated(gan(), hospitals("a"), policy=Policy(Reveals.WEIGHTS))


def test_a_run_that_the_policy_forbids_is_refused_before_any_site_trains(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="Critique reveals STATISTICS, the policy allows WEIGHTS; set policy"):
        trained(tmp_path / "run", algorithm=MDGAN(fakes=6), policy=Policy(Reveals.WEIGHTS))
    assert not (tmp_path / "run").exists()


def test_a_site_whose_images_are_broken_is_named_and_the_painter_learns_from_the_others() -> None:
    records: list[RoundRecord] = []
    sites = hospitals("a") | {"b": broken("b")}
    state, _ = federated(gan(), sites, finished=lambda record, _: records.append(record))
    assert all(record.refused.keys() == {"b"} and "nan" in record.refused["b"] for record in records)
    alone, _ = federated(gan(), hospitals("a"))
    assert same(state.weights.tensors, alone.weights.tensors)


def test_a_critic_that_takes_no_step_says_nothing() -> None:
    with pytest.raises(NoSiteLeft, match="the critic took no step"):
        federated(gan(), hospitals("a"), visit=Visit(max_steps=0, accelerator="cpu"))


def test_the_state_is_all_there_is() -> None:
    """Written and read between two rounds, it goes on to the same bits."""
    sites = hospitals("ab")
    whole, _ = federated(gan(), sites, rounds=2)
    local = LocalTrainer(gan(), share_of(ALGORITHM, gan()), VISIT)
    transport, start = InProcess(sites, local), ALGORITHM.start(local)
    read = unflatten(start, flatten(federate(ALGORITHM, transport, start, Rounds(1), 0)))
    transport = InProcess(sites, LocalTrainer(gan(), share_of(ALGORITHM, gan()), VISIT), memories=transport.memories)
    assert same(flatten(federate(ALGORITHM, transport, read, Rounds(2), 0, begin=1)), flatten(whole))


def test_classes_are_drawn_as_the_site_has_them() -> None:
    local = LocalTrainer(gan(dropped=0.25), share_of(ALGORITHM, gan()), VISIT)
    state = ALGORITHM.start(local)
    painter = state.painter(CPU)
    told = Studio(state.weights, {}, state.plan, {"b": torch.tensor([90, 30, 40])})

    def parts(values: Tensor, of: tuple[int, ...]) -> list[float]:
        return [float((values == value).float().mean()) for value in of]

    order = told.order(painter, "b", 5, 4000)
    kept = 0.75**2  # unsaid together with the site or alone
    expected = [90 / 160 * kept, 30 / 160 * kept, 40 / 160 * kept + 1 - kept]
    assert parts(order.labels, (0, 1, UNCONDITIONED)) == pytest.approx(expected, abs=0.03)
    assert parts(order.sites, (1, UNCONDITIONED)) == pytest.approx([kept, 1 - kept], abs=0.03)
    assert parts(told.order(painter, "a", 5, 4000).labels, (0, 1)) == pytest.approx([kept / 2] * 2, abs=0.03)
    again = told.order(painter, "b", 5, 4000)
    assert torch.equal(again.noise, order.noise)
    assert torch.equal(again.labels, order.labels)


def test_rebuilding_the_painter_takes_no_random_numbers_and_shares_no_memory() -> None:
    module = gan()
    state = Studio.of(module, module.state_dict())
    before = torch.get_rng_state()
    made = state.painter(CPU)
    assert torch.equal(torch.get_rng_state(), before)
    assert same(dict(made.network.state_dict()), dict(module.painter.state_dict()))
    with torch.no_grad():
        next(made.network.parameters()).zero_()
    assert same(dict(state.painter(CPU).network.state_dict()), dict(module.painter.state_dict()))


def test_a_resumed_run_ends_with_the_same_bits(tmp_path: Path) -> None:
    settings: dict[str, Any] = {"algorithm": MDGAN(fakes=6, accelerator="cpu"), "rounds": Rounds(2)}
    run = trained(tmp_path / "whole", **settings)
    whole = left_by(run)
    assert same(left_by(stopped_and_resumed(tmp_path / "run", **settings)), whole)
    made = load_generator(run.path / "generator")
    server = {k.split("weights/tensors/average.")[1]: t for k, t in whole.items() if "weights/tensors/average." in k}
    assert same(dict(made.network.state_dict()), server)


def test_other_generators_and_no_fakes_are_refused() -> None:
    module = Diffusion(ImageShape(1, (8, 8)), KNOWN)
    with pytest.raises(InputError, match=r"MDGAN takes the generator fedgen\.gan\.gan\.GAN, got Diffusion"):
        ALGORITHM.start(LocalTrainer(module, module.share))
    with pytest.raises(ValueError, match="fakes must be at least 1, got 0"):
        MDGAN(fakes=0)
    assert share_of(FedAvg(), module) == module.share
