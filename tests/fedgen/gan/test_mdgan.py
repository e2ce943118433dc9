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
from fedcore.messages.message import flatten, unflatten, weights_of
from fedcore.messages.reveals import Reveals
from fedcore.messages.round import Round
from fedcore.privacy.policy import Policy
from fedcore.runs.communication import RoundRecord
from fedcore.seeds import seeded
from fedcore.server.rounds import QuorumMissed, Rounds
from fedcore.training.local_trainer import LocalTrainer
from fedcore.training.visit import Visit
from fedgen.diffusion.diffusion import Diffusion
from fedgen.gan.discriminator import ConditionedImages
from fedgen.gan.gan import GAN
from fedgen.gan.mdgan import MDGAN
from fedgen.gan.server_generator import ServerGenerator
from fedgen.generator import UNCONDITIONED, ImageShape, drop_conditions
from fedgen.generator_store import load_generator
from tests.fedcore.federating import federate, same
from tests.fedcore.toys import Hospitals, broken, hospitals
from tests.fedgen.gans import CONDITIONS, VISIT, gan, stopped_and_resumed, tensors_of, trained


def momentum_sgd(parameters: Any) -> SGD:
    """Its momentum lasts from round to round; Adam's steps would be large where gradients are zero up to rounding."""
    return SGD(parameters, lr=0.02, momentum=0.9)


ALGORITHM = MDGAN(generated_batch_size=6, optimizer=momentum_sgd, accelerator="cpu")


def federated(module: Any, sites: dict[str, Images], rounds: int = 3, **more: Any) -> tuple[ServerGenerator, Hospitals]:
    local = LocalTrainer(module, share_of(ALGORITHM, module), more.pop("visit", VISIT))
    transport = Hospitals(sites, local, policy=more.pop("policy", Policy()))
    return federate(ALGORITHM, transport, ALGORITHM.start(local), Rounds(rounds), 0, **more), transport


class Central:
    """The same training in one place: one generator network, one discriminator per site, gradients through both."""

    def __init__(self, module: GAN, sites: dict[str, Images]):
        self.module, self.sites = module, sites
        self.discriminators = {name: copy.deepcopy(module.discriminator) for name in sites}
        self.optimizer = momentum_sgd(module.generator_network.parameters())
        self.state = ServerGenerator.of(module, module.state_dict())
        self.class_counts: dict[str, Tensor] = {}

    def round(self, turn: Round) -> None:
        self.optimizer.zero_grad()
        everyone = sum(len(images) for images in self.sites.values())
        loss = sum(len(images) / everyone * self.generator_loss(name, turn) for name, images in self.sites.items())
        loss.backward()
        self.optimizer.step()
        self.class_counts = {name: class_counts(images) for name, images in self.sites.items()}
        self.update_ema()

    def generator_loss(self, site: str, turn: Round) -> Tensor:
        """Trains the site's discriminator; returns the generator's loss at the second half of the generated images."""
        module, discriminator = self.module, self.discriminators[site]
        state = ServerGenerator(self.state.weights, {}, self.state.config, self.class_counts)
        request = state.request(module.generator, site, turn.seed_of(site, "fakes"), 12)
        generated = module.generator_network(request.noise, request.labels, request.sites)
        optimizer = module.discriminator_optimizer(discriminator.parameters())
        with seeded(turn.seed_of(site)):
            random = torch.Generator().manual_seed(turn.seed_of(site, "order"))
            for images, labels in loader(self.sites[site], 4, True, True, "labels", random):
                real = drop_conditions(labels, self.site_indices(site), module.condition_dropout)
                some = torch.randperm(6)[:4]
                augment = module.augment.sample(images)
                fake = ConditionedImages(augment(generated[some].detach()), request.labels[some], request.sites[some])
                optimizer.zero_grad()
                module.adversarial_loss.discriminator(
                    discriminator, ConditionedImages(augment(images), *real), fake
                ).backward()
                optimizer.step()
            second_half = generated[6:]
            return -discriminator(
                ConditionedImages(
                    module.augment.sample(second_half)(second_half), request.labels[6:], request.sites[6:]
                )
            ).mean()

    def site_indices(self, site: str) -> Tensor:
        return torch.full((4,), CONDITIONS.site_index(site))

    @torch.no_grad()
    def update_ema(self) -> None:
        module, images = self.module, 6 * len(self.sites)
        decay = min(0.5 ** (images / module.ema_halflife), float((1 + module.ema_steps) / (10 + module.ema_steps)))
        module.ema_steps += 1
        for slow, fast in zip(module.ema.parameters(), module.generator_network.parameters(), strict=True):
            slow.lerp_(fast, 1 - decay)


def class_counts(images: Images) -> Tensor:
    return torch.tensor([int((images.labels == at).sum()) for at in (0, 1, UNCONDITIONED)])


@pytest.mark.parametrize("names", ["a", "abc"])
def test_a_round_equals_central_training_with_gradients_through_both_networks(names: str) -> None:
    sites = hospitals(names)
    state, transport = federated(gan(), sites)
    central = Central(gan(), sites)
    for index in range(3):
        central.round(Round(index, 3, 0))
    expected = central.module.state_dict()
    for name, t in state.weights.tensors.items():
        torch.testing.assert_close(t, expected[name], rtol=1e-3, atol=1e-5)
    for name, discriminator in central.discriminators.items():
        kept = transport.memories.get(name)
        for key, t in discriminator.state_dict().items():
            torch.testing.assert_close(kept[f"module/discriminator.{key}"], t, rtol=1e-3, atol=1e-5)
    assert not same(state.weights.tensors, {k: gan().state_dict()[k] for k in state.weights.tensors})


def test_no_weights_travel() -> None:
    records: list[RoundRecord] = []
    state, transport = federated(gan(), hospitals("ab"), finished=lambda record, _: records.append(record))
    for record in records:
        for site in record.sites.values():
            assert site.reveals == "STATISTICS"
            assert (site.up.weights, site.down.weights) == (8, 8)  # the seed
            assert site.down.exchange == 2 * 6 * (8 * 8 * 4 + 2 * 8)
            assert site.up.exchange == 6 * 8 * 8 * 4 + 3 * 8
            assert site.metrics.keys() == {"loss", "generator_loss"}
    memory = transport.memories.get("a")
    assert {name.split(".")[0] for name in memory} == {"module/discriminator"}
    assert all(name.split(".")[0] in ("generator_network", "ema", "ema_steps") for name in weights_of(state))


def test_a_policy_of_weights_alone_forbids_the_feedback() -> None:
    with pytest.raises(InputError, match=r"Feedback reveals STATISTICS, the policy allows WEIGHTS"):
        federated(gan(), hospitals("a"), policy=Policy(Reveals.WEIGHTS))


def test_a_run_that_the_policy_forbids_is_refused_before_any_site_trains(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="Feedback reveals STATISTICS, the policy allows WEIGHTS; set policy"):
        trained(tmp_path / "run", algorithm=MDGAN(generated_batch_size=6), policy=Policy(Reveals.WEIGHTS))
    assert not (tmp_path / "run").exists()


def test_a_site_with_broken_images_is_named_and_the_others_continue() -> None:
    records: list[RoundRecord] = []
    sites = hospitals("a") | {"b": broken("b")}
    state, _ = federated(gan(), sites, finished=lambda record, _: records.append(record))
    assert all(record.refused.keys() == {"b"} and "nan" in record.refused["b"] for record in records)
    alone, _ = federated(gan(), hospitals("a"))
    assert same(state.weights.tensors, alone.weights.tensors)


def test_a_discriminator_without_a_step_sends_nothing() -> None:
    with pytest.raises(QuorumMissed, match="the discriminator took no step"):
        federated(gan(), hospitals("a"), visit=Visit(max_steps=0, accelerator="cpu"))


def test_the_state_is_complete() -> None:
    """Written and read between two rounds, it continues with the same bits."""
    sites = hospitals("ab")
    whole, _ = federated(gan(), sites, rounds=2)
    local = LocalTrainer(gan(), share_of(ALGORITHM, gan()), VISIT)
    transport, start = Hospitals(sites, local), ALGORITHM.start(local)
    read = unflatten(start, flatten(federate(ALGORITHM, transport, start, Rounds(1), 0)))
    transport = Hospitals(sites, LocalTrainer(gan(), share_of(ALGORITHM, gan()), VISIT), memories=transport.memories)
    assert same(flatten(federate(ALGORITHM, transport, read, Rounds(2), 0, begin=1)), flatten(whole))


def test_a_resumed_run_ends_with_the_same_bits(tmp_path: Path) -> None:
    settings: dict[str, Any] = {"algorithm": MDGAN(generated_batch_size=6, accelerator="cpu"), "rounds": Rounds(2)}
    run = trained(tmp_path / "whole", **settings)
    whole = tensors_of(run)
    assert same(tensors_of(stopped_and_resumed(tmp_path / "run", **settings)), whole)
    made = load_generator(run.path / "generator")
    server = {k.split("weights/tensors/ema.")[1]: t for k, t in whole.items() if "weights/tensors/ema." in k}
    assert same(dict(made.network.state_dict()), server)


def test_other_generators_and_an_empty_batch_are_refused() -> None:
    module = Diffusion(ImageShape(1, (8, 8)), CONDITIONS)
    with pytest.raises(InputError, match=r"MDGAN needs the generator fedgen\.gan\.gan\.GAN, got Diffusion"):
        ALGORITHM.start(LocalTrainer(module, module.share))
    with pytest.raises(ValueError, match="generated_batch_size must be at least 1, got 0"):
        MDGAN(generated_batch_size=0)
    assert share_of(FedAvg(), module) == module.share
