from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.optim import SGD

from fedcore.algorithms.fedavg import FedAvg
from fedcore.algorithms.properties import share_of
from fedcore.config.recipe import read_recipe
from fedcore.data.dataset import Images
from fedcore.data.loader import loader
from fedcore.errors import InputError, Refused
from fedcore.messages.round import Round
from fedcore.runs.communication import RoundRecord
from fedcore.seeds import seeded
from fedcore.server.rounds import Rounds
from fedcore.training.local_trainer import LocalTrainer
from fedcore.training.visit import Visit
from fedgen.diffusion.sampler import noise_of
from fedgen.gan.diffaugment import DiffAugment
from fedgen.gan.discriminator import ConditionedImages, Discriminator
from fedgen.gan.gan import GAN, LocalDiscriminators
from fedgen.gan.losses import WassersteinLoss
from fedgen.generator import ImageShape, drop_conditions
from fedgen.generator_store import load_generator, save_generator
from fedgen.sampling import sample
from fedgen.training import train
from tests.fedcore.federating import federate, same
from tests.fedcore.toys import Hospitals, broken
from tests.fedcore.toys import images as toy_images
from tests.fedgen.gans import CONDITIONS, VISIT, gan, phantoms, stopped_and_resumed, tensors_of, trained

STILL = DiffAugment(0.0, 0.0, 0.0, 0.0)


def central(module: GAN, data: Images, rounds: int) -> dict[str, Tensor]:
    """Training of a GAN on one site's images in the order of its visits, without Lightning."""
    for index in range(rounds):
        turn = Round(index, rounds, 0)
        for_generator, for_discriminator = module.configure_optimizers()
        order = torch.Generator().manual_seed(turn.seed_of(data.site, "order"))
        with seeded(turn.seed_of(data.site)):
            for images, labels in loader(data, VISIT.batch_size, True, True, "labels", order):
                labels, sites = drop_conditions(labels, torch.zeros_like(labels), module.condition_dropout)
                for _ in range(module.discriminator_steps):
                    fake = module.generator_network(torch.randn(len(labels), 4), labels, sites).detach()
                    augment = module.augment.sample(images)
                    batches = [ConditionedImages(augment(x), labels, sites) for x in (images, fake)]
                    for_discriminator.zero_grad()
                    module.adversarial_loss.discriminator(module.discriminator, *batches).backward()
                    for_discriminator.step()
                generated = module.generator_network(torch.randn(len(labels), 4), labels, sites)
                for_generator.zero_grad()
                score = module.discriminator(
                    ConditionedImages(module.augment.sample(generated)(generated), labels, sites)
                )
                (-score.mean()).backward()
                for_generator.step()
                update_ema_in_loops(module, len(labels))
    return module.state_dict()


@torch.no_grad()
def update_ema_in_loops(module: GAN, images: int) -> None:
    decay = min(0.5 ** (images / module.ema_halflife), float((1 + module.ema_steps) / (10 + module.ema_steps)))
    module.ema_steps += 1
    for slow, fast in zip(module.ema.parameters(), module.generator_network.parameters(), strict=True):
        slow.copy_(decay * slow + (1 - decay) * fast)


def federated(module: GAN, sites: dict[str, Images], rounds: int = 2, algorithm: Any = None, **more: Any) -> Any:
    algorithm = algorithm or FedAvg()
    local = LocalTrainer(module, share_of(algorithm, module), more.pop("visit", VISIT))
    transport = Hospitals(sites, local)
    state = federate(algorithm, transport, algorithm.start(local), Rounds(rounds), 0, **more)
    return state, transport


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"augment": STILL, "discriminator_steps": 3, "ema_halflife": 30.0},
        {
            "adversarial_loss": WassersteinLoss(),
            "condition_dropout": 0.5,
            "discriminator_steps": 1,
            "discriminator": lambda c, k: Discriminator(c, k, (8, 16), spectral_norm=False),
            "discriminator_optimizer": lambda p: SGD(p, lr=1e-4),
        },
    ],
)
def test_one_site_is_plain_training(settings: dict[str, Any]) -> None:
    data = toy_images("a")
    state, _ = federated(gan(**settings), {"a": data})
    expected = central(gan(**settings), data, rounds=2)
    assert state.tensors.keys() == expected.keys()
    for name, t in expected.items():
        torch.testing.assert_close(state.tensors[name], t, rtol=1e-4, atol=1e-6)


def test_both_networks_and_the_ema_are_averaged() -> None:
    sites = {name: toy_images(name, 8 + 4 * at) for at, name in enumerate("abc")}
    state, _ = federated(gan(), sites, rounds=1)
    alone = [federated(gan(), {name: images}, rounds=1)[0] for name, images in sites.items()]
    weights = torch.tensor([8.0, 12.0, 16.0]) / 36
    assert {name.split(".")[0] for name in state.tensors} == {"generator_network", "ema", "discriminator", "ema_steps"}
    for name, t in state.tensors.items():
        mean = sum(w * other.tensors[name] for w, other in zip(weights, alone, strict=True))
        torch.testing.assert_close(t, mean.to(t.dtype), rtol=1e-4, atol=1e-6)


def test_local_discriminators_stay_at_their_sites() -> None:
    sites = {name: toy_images(name) for name in "ab"}
    state, transport = federated(gan(), sites, algorithm=LocalDiscriminators())
    assert {name.split(".")[0] for name in state.tensors} == {"generator_network", "ema", "ema_steps"}
    own = [transport.memories.get(name)["module/discriminator.last.layer.weight"] for name in "ab"]
    assert not torch.equal(*own)
    # The discriminator of the second round is that of the site after the first.
    once, transport = federated(gan(), {"a": sites["a"]}, rounds=1, algorithm=LocalDiscriminators())
    both, _ = federated(gan(), {"a": sites["a"]}, rounds=1)
    discriminator = {k.removeprefix("module/"): t for k, t in transport.memories.get("a").items()}
    assert same(discriminator, {k: t for k, t in both.tensors.items() if k.startswith("discriminator.")})
    assert same(once.tensors, {k: both.tensors[k] for k in once.tensors})


def test_a_site_with_a_nan_loss_is_named_and_the_others_continue() -> None:
    records: list[RoundRecord] = []
    sites = {"a": toy_images("a"), "b": broken("b")}
    state, _ = federated(gan(), sites, finished=lambda record, _: records.append(record))
    for record in records:
        assert record.refused.keys() == {"b"}
        assert "became nan; a lower learning rate" in record.refused["b"]
        assert record.sites["a"].metrics.keys() == {"loss", "generator_loss"}
    assert all(t.isfinite().all() for t in state.tensors.values())


def test_no_gradients_are_left_and_the_ema_has_none() -> None:
    module = gan()
    federated(module, {"a": toy_images("a")}, rounds=1)
    assert all(p.grad is None for p in module.parameters())
    assert not any(p.requires_grad for p in module.ema.parameters())
    assert all(p.requires_grad for p in [*module.generator_network.parameters(), *module.discriminator.parameters()])


def test_a_visit_counts_the_steps_of_both() -> None:
    state, _ = federated(gan(), {"a": toy_images("a")}, rounds=1, visit=Visit(4, max_steps=4, accelerator="cpu"))
    assert float(state.tensors["ema_steps"]) == 2.0


def test_gradient_clipping_is_refused() -> None:
    with pytest.raises(
        InputError, match=r"visit\.gradient_clip_val must be null for GAN, which calls its own optimizers"
    ):
        LocalTrainer(gan(), GAN.share, Visit(gradient_clip_val=1.0))


def test_a_gan_of_volumes_trains_and_samples(tmp_path: Path) -> None:
    run = trained(tmp_path / "run", data=phantoms(dims=3), rounds=Rounds(1))
    made = load_generator(run.path / "generator")
    assert made.image_shape.shape == (1, 16, 16, 16)
    assert len(list((sample(run.path, tmp_path / "set", 2).parent / "images").glob("*.nii.gz"))) == 2


def test_a_resumed_run_ends_with_the_same_bits(tmp_path: Path) -> None:
    for algorithm in (FedAvg(), LocalDiscriminators()):
        name = type(algorithm).__name__
        whole = tensors_of(trained(tmp_path / f"{name}_whole", algorithm=algorithm))
        resumed = stopped_and_resumed(tmp_path / name, algorithm=algorithm)
        assert same(tensors_of(resumed), whole)


def test_a_saved_gan_samples(tmp_path: Path) -> None:
    module = gan()
    with torch.no_grad():
        for parameter in module.ema.parameters():
            parameter += 0.1
    save_generator(tmp_path / "run" / "generator", module.generator)
    made = load_generator(tmp_path / "run" / "generator")
    noise, ones = noise_of(0, range(3), made.noise_shape), torch.ones(3, dtype=torch.int64)
    with torch.no_grad():
        assert torch.equal(made.sample(noise, ones, ones), module.ema(noise, ones, ones))
    manifest = sample(tmp_path / "run", tmp_path / "set", 7, batch_size=3)
    assert len(manifest.read_text().splitlines()) == 8
    for settings, message in (
        ({"classes": ["cow"]}, "no class 'cow'; its classes: cat, dog"),
        ({"sites": ["d"]}, "no site 'd'"),
    ):
        with pytest.raises(InputError, match=message):
            sample(tmp_path / "run", tmp_path / "other", 1, **settings)


def test_wasserstein_takes_five_discriminator_steps_and_no_spectral_norm() -> None:
    plain = partial(Discriminator, widths=(8, 16), spectral_norm=False)
    assert gan().discriminator_steps == 1
    assert gan(adversarial_loss=WassersteinLoss(), discriminator=plain).discriminator_steps == 5
    assert gan(adversarial_loss=WassersteinLoss(), discriminator=plain, discriminator_steps=1).discriminator_steps == 1
    with pytest.raises(
        InputError, match=r"WassersteinLoss needs a discriminator without spectral norm.*spectral_norm false"
    ):
        gan(adversarial_loss=WassersteinLoss())


def test_the_recipe_takes_wasserstein() -> None:
    words = ["gan", "--generator.init_args.adversarial_loss", "fedgen.gan.losses.WassersteinLoss"]
    words += ["--generator.init_args.discriminator.init_args.spectral_norm", "false"]
    made = read_recipe(train, "generate train", words).build()["generator"](ImageShape(1, (32, 32)), CONDITIONS)
    assert (made.discriminator_steps, made.adversarial_loss) == (5, WassersteinLoss())


def test_an_unknown_site_is_refused() -> None:
    with pytest.raises(Refused, match=r"this site is not one of the generator's sites \(a, b, c\)"):
        gan().on_visit_start("d", Round(0, 1, 0))


@pytest.mark.parametrize("settings", [{"condition_dropout": 1.0}, {"ema_halflife": -1.0}, {"discriminator_steps": 0}])
def test_invalid_settings_are_refused(settings: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=r"condition_dropout must lie in \[0, 1\), ema_halflife be 0 or more and disc"):
        gan(**settings)
