from __future__ import annotations

import csv
import math
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.distributions import Normal, kl_divergence
from torch.optim import SGD

from fedcore.algorithms.fedavg import FedAvg
from fedcore.data.loader import loader
from fedcore.errors import InputError
from fedcore.messages.message import Tensors
from fedcore.seeds import seeded
from fedcore.server.rounds import Rounds, federate
from fedcore.site.site import Round
from fedcore.training.local_trainer import LocalTrainer
from fedcore.training.memory_format import channels_last
from fedcore.training.visit import Visit
from fedcore.transport.in_process import InProcess
from fedgen.diffusion.sampler import noise_of
from fedgen.generator import UNCONDITIONED, Conditions, ImageShape
from fedgen.generator_store import load_generator
from fedgen.latent.autoencoder import Autoencoder
from fedgen.latent.vae import VAE, VAEGenerator, divergence
from fedgen.sampling import sample
from tests.fedcore.toys import hospitals, same
from tests.fedgen.test_training import phantoms, stopped_and_resumed, trained, weights

KNOWN = Conditions(("cat", "dog"), ("a", "b", "c"))
VISIT = Visit(batch_size=4, accelerator="cpu")
narrow = partial(VAE, network=partial(Autoencoder, latents=2, widths=(8, 16)))


def vae(**settings: Any) -> VAE:
    torch.manual_seed(0)
    return narrow(ImageShape(1, (8, 8)), KNOWN, **settings)


def batch(count: int = 4) -> Tensor:
    return torch.rand(count, 1, 8, 8, generator=torch.Generator().manual_seed(1)) * 2 - 1


def federated(module: VAE, sites: str, rounds: int = 2) -> Tensors:
    local = LocalTrainer(module, module.share, VISIT)
    images = {name: hospitals("abc")[name] for name in sites}
    state = federate(FedAvg(), InProcess(images, local), FedAvg().start(local), Rounds(rounds), 0)
    return state.tensors


def test_the_divergence_of_one_number_by_hand() -> None:
    """Of N(1, 2^2): (1 + 4 - 1 - ln 4) / 2; of the standard normal itself: 0."""
    one = torch.ones(1, 1, 1, 1)
    assert float(divergence(one, 2 * one)) == pytest.approx(2 - math.log(2))
    assert float(divergence(0 * one, one)) == 0.0


def test_the_divergence_is_torchs_summed_over_a_code() -> None:
    mean, deviation = torch.randn(3, 2, 4, 4), torch.rand(3, 2, 4, 4) + 0.1
    expected = kl_divergence(Normal(mean, deviation), Normal(torch.zeros(()), torch.ones(()))).flatten(1).sum(1)
    assert torch.allclose(divergence(mean, deviation), expected, rtol=1e-4)


@pytest.mark.parametrize("distance", ["l1", "l2"])
def test_the_loss_equals_the_papers_as_loops(distance: Any) -> None:
    """Eq. 10 of Kingma and Welling with one draw, number by number, its sign turned."""
    module, images = vae(distance=distance, kl_weight=0.3), batch(2)
    torch.manual_seed(5)
    loss = module.training_step((images, torch.full((2,), UNCONDITIONED)), 0)
    torch.manual_seed(5)
    with torch.no_grad():
        mean, deviation = module.autoencoder(images)
        told = module.autoencoder.decode(mean + deviation * torch.randn_like(mean))
    total = 0.0
    for i in range(2):
        for x, y in zip(images[i].flatten().tolist(), told[i].flatten().tolist(), strict=True):
            total += abs(x - y) if distance == "l1" else (x - y) ** 2 / 2
        for m, s in zip(mean[i].flatten().tolist(), deviation[i].flatten().tolist(), strict=True):
            total += 0.3 * 0.5 * (m**2 + s**2 - 1 - math.log(s**2))
    assert float(loss.detach()) == pytest.approx(total / 2 / 64, rel=1e-4)


def test_one_site_is_plain_training() -> None:
    """With a new optimizer each round, as a visit has one, and the visits' orders and draws; scale included."""
    optimizer = partial(SGD, lr=0.05, momentum=0.9)
    found = federated(vae(optimizer=optimizer), "b")
    module, images = channels_last(vae(optimizer=optimizer)), hospitals("abc")["b"]
    for index in range(2):
        turn, step = Round(index, 2, seed=0), module.configure_optimizers()
        order = torch.Generator().manual_seed(turn.seed_of("b", "order"))
        module.on_train_epoch_start()
        with seeded(turn.seed_of("b")):
            for pixels in loader(images, VISIT.batch_size, True, True, generator=order):
                step.zero_grad()
                places = torch.zeros(len(pixels), dtype=torch.int64)
                module.loss(pixels, places, places).backward()
                step.step()
    assert same(found, module.state_dict())


def test_codes_of_all_sites_images_together_have_mean_0_and_variance_1() -> None:
    """With weights that stay (a learning rate of 0), whatever was noted before; sites are of different sizes."""
    module = vae(optimizer=partial(SGD, lr=0.0))
    module.autoencoder.scale.note(torch.full((1, 1), 9.0), torch.ones(1, 1), 1.0)
    module.load_state_dict(federated(module, "abc"))
    pooled = torch.cat([images.batch(range(len(images))) for images in hospitals("abc").values()])
    with torch.no_grad():
        mean, deviation = module.autoencoder(pooled)
    scale = module.autoencoder.scale
    centre, spread = scale.shrink(mean), scale.shrink(deviation + scale.mean)
    assert float(centre.mean()) == pytest.approx(0.0, abs=1e-5)
    assert float((centre**2 + spread**2).mean()) == pytest.approx(1.0, rel=1e-5)


def test_drawing_is_decoding_standard_normal_numbers() -> None:
    module = vae()
    made, open_ = module.generator, torch.full((3,), UNCONDITIONED)
    assert made.noise_shape == (2, 4, 4)
    noise = noise_of(0, range(3), made.noise_shape)
    with torch.no_grad():
        assert torch.equal(made.draw(noise, open_, open_), module.autoencoder.decode(noise).clamp(-1, 1))


@pytest.mark.parametrize("dims", [2, 3])
def test_a_run_leaves_a_generator_whose_images_have_no_label(tmp_path: Path, dims: int) -> None:
    run = trained(tmp_path / "run", generator=narrow, data=phantoms(dims=dims), rounds=Rounds(1))
    made = load_generator(run.path / "generator")
    assert isinstance(made, VAEGenerator)
    assert made.canvas == ImageShape(1, (16,) * dims)
    assert float(made.network.scale.square) != 1.0
    assert {site["reveals"] for turn in run.rounds() for site in turn["sites"].values()} == {"STATISTICS"}  # the loss
    manifest = sample(run.path, tmp_path / "set", 3, batch_size=2)
    with manifest.open(newline="") as file:
        assert [(row["site"], row["label"], row["imitates"]) for row in csv.DictReader(file)] == [
            ("synthetic", "", "")
        ] * 3
    with pytest.raises(InputError, match="knows no class 'disc'; it knows none"):
        sample(run.path, tmp_path / "other", 3, classes=["disc"])


def test_a_resumed_run_ends_with_the_same_bits(tmp_path: Path) -> None:
    resumed = stopped_and_resumed(tmp_path / "run", generator=narrow)
    assert same(weights(resumed), weights(trained(tmp_path / "whole", generator=narrow)))


def test_a_size_that_cannot_be_halved_begins_nothing(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"an autoencoder of 2 levels .* set data.size to 16 x 16 or 18 x 18"):
        trained(tmp_path / "run", generator=narrow, data=phantoms(17))
    assert not (tmp_path / "run").exists()


def test_what_cannot_be_built_says_why() -> None:
    with pytest.raises(ValueError, match="kl_weight must be 0 or more, got -1"):
        vae(kl_weight=-1.0)
