from __future__ import annotations

import csv
import math
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.distributions import Normal
from torch.distributions import kl_divergence as torch_kl_divergence
from torch.optim import SGD

from fedcore.algorithms.fedavg import FedAvg
from fedcore.data.loader import loader
from fedcore.errors import InputError
from fedcore.messages.round import Round
from fedcore.messages.tensors import Tensors
from fedcore.seeds import seeded
from fedcore.server.rounds import Rounds
from fedcore.training.local_trainer import LocalTrainer
from fedcore.training.memory_format import channels_last
from fedcore.training.visit import Visit
from fedgen.diffusion.sampler import noise_of
from fedgen.generator import UNCONDITIONED, Conditions, ImageShape
from fedgen.generator_store import load_generator
from fedgen.latent.autoencoder import Autoencoder
from fedgen.latent.vae import VAE, VAEGenerator, kl_divergence
from fedgen.sampling import sample
from tests.fedcore.federating import federate, same
from tests.fedcore.toys import Hospitals, hospitals
from tests.fedgen.test_training import phantoms, stopped_and_resumed, trained, weights

CONDITIONS = Conditions(("cat", "dog"), ("a", "b", "c"))
VISIT = Visit(batch_size=4, accelerator="cpu")
narrow = partial(VAE, network=partial(Autoencoder, latent_channels=2, widths=(8, 16)))


def vae(**settings: Any) -> VAE:
    torch.manual_seed(0)
    return narrow(ImageShape(1, (8, 8)), CONDITIONS, **settings)


def batch(count: int = 4) -> Tensor:
    return torch.rand(count, 1, 8, 8, generator=torch.Generator().manual_seed(1)) * 2 - 1


def federated(module: VAE, sites: str, rounds: int = 2) -> Tensors:
    local = LocalTrainer(module, module.share, VISIT)
    images = {name: hospitals("abc")[name] for name in sites}
    state = federate(FedAvg(), Hospitals(images, local), FedAvg().start(local), Rounds(rounds), 0)
    return state.tensors


def test_the_kl_divergence_of_one_number_equals_the_hand_computed_one() -> None:
    """N(1, 2^2): (1 + 4 - 1 - ln 4) / 2; the standard normal itself: 0."""
    one = torch.ones(1, 1, 1, 1)
    assert float(kl_divergence(one, 2 * one)) == pytest.approx(2 - math.log(2))
    assert float(kl_divergence(0 * one, one)) == 0.0


def test_the_kl_divergence_is_torchs_summed_over_a_latent() -> None:
    mean, std = torch.randn(3, 2, 4, 4), torch.rand(3, 2, 4, 4) + 0.1
    expected = torch_kl_divergence(Normal(mean, std), Normal(torch.zeros(()), torch.ones(()))).flatten(1).sum(1)
    assert torch.allclose(kl_divergence(mean, std), expected, rtol=1e-4)


@pytest.mark.parametrize("reconstruction_loss", ["l1", "l2"])
def test_the_loss_equals_the_papers_as_loops(reconstruction_loss: Any) -> None:
    """The negative of Eq. 10 of Kingma and Welling with one sample, number by number."""
    module, images = vae(reconstruction_loss=reconstruction_loss, kl_weight=0.3), batch(2)
    torch.manual_seed(5)
    loss = module.training_step((images, torch.full((2,), UNCONDITIONED)), 0)
    torch.manual_seed(5)
    with torch.no_grad():
        mean, std = module.autoencoder(images)
        reconstruction = module.autoencoder.decode(mean + std * torch.randn_like(mean))
    total = 0.0
    for i in range(2):
        for x, y in zip(images[i].flatten().tolist(), reconstruction[i].flatten().tolist(), strict=True):
            total += abs(x - y) if reconstruction_loss == "l1" else (x - y) ** 2 / 2
        for m, s in zip(mean[i].flatten().tolist(), std[i].flatten().tolist(), strict=True):
            total += 0.3 * 0.5 * (m**2 + s**2 - 1 - math.log(s**2))
    assert float(loss.detach()) == pytest.approx(total / 2 / 64, rel=1e-4)


def test_one_site_is_plain_training() -> None:
    """With a new optimizer each round and the random numbers of the visits, including the normalisation."""
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
                labels = torch.zeros(len(pixels), dtype=torch.int64)
                module.loss(pixels, labels, labels).backward()
                step.step()
    assert same(found, module.state_dict())


def test_latents_of_all_sites_together_have_mean_0_and_variance_1() -> None:
    """With constant weights (a learning rate of 0), whatever the moments before; sites differ in size."""
    module = vae(optimizer=partial(SGD, lr=0.0))
    module.autoencoder.normalization.update(torch.full((1, 1), 9.0), torch.ones(1, 1), 1.0)
    module.load_state_dict(federated(module, "abc"))
    pooled = torch.cat([images.batch(range(len(images))) for images in hospitals("abc").values()])
    with torch.no_grad():
        mean, std = module.autoencoder(pooled)
    normalization = module.autoencoder.normalization
    means, stds = normalization.normalize(mean), normalization.normalize(std + normalization.mean)
    assert float(means.mean()) == pytest.approx(0.0, abs=1e-5)
    assert float((means**2 + stds**2).mean()) == pytest.approx(1.0, rel=1e-5)


def test_samples_are_decoded_standard_normal_latents() -> None:
    module = vae()
    made, open_ = module.generator, torch.full((3,), UNCONDITIONED)
    assert made.noise_shape == (2, 4, 4)
    noise = noise_of(0, range(3), made.noise_shape)
    with torch.no_grad():
        assert torch.equal(made.sample(noise, open_, open_), module.autoencoder.decode(noise).clamp(-1, 1))


@pytest.mark.parametrize("dims", [2, 3])
def test_a_run_saves_a_generator_without_labels(tmp_path: Path, dims: int) -> None:
    run = trained(tmp_path / "run", generator=narrow, data=phantoms(dims=dims), rounds=Rounds(1))
    made = load_generator(run.path / "generator")
    assert isinstance(made, VAEGenerator)
    assert made.image_shape == ImageShape(1, (16,) * dims)
    assert float(made.network.normalization.mean_square) != 1.0
    assert {site["reveals"] for turn in run.rounds() for site in turn["sites"].values()} == {"STATISTICS"}  # the loss
    manifest = sample(run.path, tmp_path / "set", 3, batch_size=2)
    with manifest.open(newline="") as file:
        assert [(row["site"], row["label"], row["site_style"]) for row in csv.DictReader(file)] == [
            ("synthetic", "", "")
        ] * 3
    with pytest.raises(InputError, match="has no class 'disc'; its classes: none"):
        sample(run.path, tmp_path / "other", 3, classes=["disc"])


def test_a_resumed_run_ends_with_the_same_bits(tmp_path: Path) -> None:
    resumed = stopped_and_resumed(tmp_path / "run", generator=narrow)
    assert same(weights(resumed), weights(trained(tmp_path / "whole", generator=narrow)))


def test_a_size_that_cannot_be_halved_starts_no_run(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"an autoencoder of 2 levels .* set data.size to 16 x 16 or 18 x 18"):
        trained(tmp_path / "run", generator=narrow, data=phantoms(17))
    assert not (tmp_path / "run").exists()


def test_a_negative_kl_weight_is_refused() -> None:
    with pytest.raises(ValueError, match="kl_weight must be 0 or more, got -1"):
        vae(kl_weight=-1.0)
