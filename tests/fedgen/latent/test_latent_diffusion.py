"""An autoencoder is trained once in 2D and once in 3D; most tests use one of the two runs."""

from __future__ import annotations

import csv
from functools import partial
from pathlib import Path
from shutil import copytree, rmtree
from typing import Any

import pytest
import torch
from torch import Tensor

from fedcore.algorithms.fedavg import FedAvg
from fedcore.data.source import Data
from fedcore.errors import InputError
from fedcore.runs.communication import RoundRecord
from fedcore.server.rounds import Rounds
from fedcore.training.local_trainer import LocalTrainer
from fedcore.training.visit import Visit
from fedcore.transport.pickling import pack, unpack
from fedcore.transport.worker import rebuilt
from fedgen.diffusion.diffusion import Diffusion
from fedgen.diffusion.sampler import Sampler, noise_of
from fedgen.diffusion.unet import UNet
from fedgen.generator import Conditions, ImageShape
from fedgen.generator_store import load_generator
from fedgen.latent.autoencoder import Autoencoder
from fedgen.latent.latent_diffusion import LatentDiffusion, LatentGenerator
from fedgen.latent.vae import VAE
from fedgen.sampling import sample
from tests.fedcore.federating import federate, same
from tests.fedcore.toys import Hospitals, Remembered
from tests.fedgen.test_training import phantoms, stopped_and_resumed, trained, weights

CONDITIONS = Conditions(("cat", "dog"), ("hospital_1", "hospital_2"))
IMAGES = ImageShape(1, (16, 16))
NET = partial(UNet, widths=(8, 16))


@pytest.fixture(scope="module")
def vaes(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    """Runs of an autoencoder whose latents have a quarter of an image's side, by dimensions."""
    folder = tmp_path_factory.mktemp("vaes")
    narrow = partial(VAE, network=partial(Autoencoder, latent_channels=2, widths=(8, 8, 8)))
    return {
        dims: trained(folder / f"{dims}d", generator=narrow, data=phantoms(dims=dims), rounds=Rounds(1)).path
        for dims in (2, 3)
    }


def latent_diffusion(run: Path, image_shape: ImageShape = IMAGES, **settings: Any) -> LatentDiffusion:
    torch.manual_seed(0)
    module = LatentDiffusion(image_shape, CONDITIONS, str(run), network=NET, **settings)
    for parameter in module.denoiser.parameters():  # so that no prediction is 0
        torch.nn.init.normal_(parameter, std=0.1)
    module.ema.load_state_dict(module.denoiser.state_dict())
    return module


def learner(run: Path) -> Any:
    return partial(LatentDiffusion, autoencoder=str(run), network=NET)


def batch(image_shape: ImageShape = IMAGES, count: int = 4) -> tuple[Tensor, Tensor, Tensor]:
    images = torch.rand(count, *image_shape.shape, generator=torch.Generator().manual_seed(1)) * 2 - 1
    return images, torch.arange(count) % 2, torch.ones(count, dtype=torch.int64)


@pytest.mark.parametrize("dims", [2, 3])
def test_the_loss_is_that_of_diffusion_on_normalised_latents(vaes: dict[int, Path], dims: int) -> None:
    """With the same random numbers: those of the latents come first."""
    image_shape = ImageShape(1, (16,) * dims)
    module, (images, labels, sites) = latent_diffusion(vaes[dims], image_shape), batch(image_shape)
    plain = Diffusion(ImageShape(2, (4,) * dims), CONDITIONS, NET)
    plain.denoiser.load_state_dict(module.denoiser.state_dict())
    torch.manual_seed(3)
    found = module.loss(images, labels, sites)
    torch.manual_seed(3)
    mean, std = module.autoencoder(images)
    moments = module.autoencoder.normalization
    shift, scale = float(moments.mean), float(moments.mean_square - moments.mean**2) ** 0.5
    latents = (mean + std * torch.randn_like(mean) - shift) / scale
    expected = plain.loss(latents.detach(), labels, sites)
    assert float(found.detach()) == pytest.approx(float(expected.detach()), rel=1e-5)


def test_a_sample_is_a_decoded_denormalised_latent(vaes: dict[int, Path]) -> None:
    module, (_, labels, sites) = latent_diffusion(vaes[2]).eval(), batch()
    made, sampler = module.generator, Sampler(steps=3, guidance=1.5)
    assert made.noise_shape == (2, 4, 4)
    noise, normalization = noise_of(0, range(4), made.noise_shape), module.autoencoder.normalization
    with torch.no_grad():
        latents = made.diffusion.sample_unclipped(noise, labels, sites, sampler)
        expected = module.autoencoder.decode(normalization.denormalize(latents)).clamp(-1, 1)
        assert torch.equal(made.sample(noise, labels, sites, sampler), expected)
        images = made.denoised(noise, labels, sites, sampler, [0, 2])
    assert images.shape == (2, 4, 1, 16, 16)
    assert torch.allclose(images[1], expected, atol=1e-4)
    assert latents.abs().max() > 1  # latents are not clipped


def federated(module: Diffusion, data: Data) -> tuple[dict[str, Tensor], Remembered, list[RoundRecord]]:
    local = LocalTrainer(module, module.share, Visit(batch_size=4, accelerator="cpu", keep_optimizer=True))
    sites, records = Hospitals(data.load().split("train"), local), list[RoundRecord]()
    state = federate(
        FedAvg(), sites, FedAvg().start(local), Rounds(2), 0, finished=lambda record, _: records.append(record)
    )
    return state.tensors, sites.memories, records


def test_the_autoencoder_is_frozen_and_never_travels(vaes: dict[int, Path]) -> None:
    """What travels and what sites keep equals, to the byte, diffusion on images of the size of latents."""
    conditions = Conditions(tuple("abcd"), CONDITIONS.sites)
    module = LatentDiffusion(IMAGES, conditions, str(vaes[2]), network=NET)
    plain = Diffusion(ImageShape(2, (4, 4)), conditions, NET)
    before = {k: t.clone() for k, t in module.autoencoder.state_dict().items()}
    sent, memories, records = federated(module, phantoms())
    assert same(module.autoencoder.state_dict(), before)
    assert all(p.grad is None for p in module.autoencoder.parameters())
    assert sent.keys() == plain.state_dict().keys()
    once = sum(t.numel() * t.element_size() for t in plain.state_dict().values())
    for record in records:
        assert not record.refused
        for site in record.sites.values():
            assert (site.up.weights, site.down.weights) == (once, once)
    assert {name.split("/")[0] for held in memories.held.values() for name in held} == {"optimizer"}
    trained_ones = sum(1 for _ in module.denoiser.parameters())
    assert {len(held) for held in memories.held.values()} == {3 * trained_ones}  # Adam's two moments and its step


def test_a_worker_has_the_autoencoder_from_the_start(vaes: dict[int, Path]) -> None:
    trainer = LocalTrainer(latent_diffusion(vaes[2]), LatentDiffusion.share, Visit(accelerator="cpu"))
    assert same(rebuilt(unpack(pack(trainer))).module.state_dict(), trainer.module.state_dict())


@pytest.mark.parametrize("dims", [2, 3])
def test_a_run_saves_a_generator_that_needs_no_other_run(tmp_path: Path, vaes: dict[int, Path], dims: int) -> None:
    vae = copytree(vaes[dims], tmp_path / "vae")
    run = trained(tmp_path / "run", generator=learner(vae), data=phantoms(dims=dims))
    rmtree(vae)
    made = load_generator(run.path / "generator")
    assert isinstance(made, LatentGenerator)
    assert made.image_shape == ImageShape(1, (16,) * dims)
    assert same(made.network.autoencoder.state_dict(), load_generator(vaes[dims] / "generator").network.state_dict())
    manifest = sample(run.path, tmp_path / "set", 6, steps=2, batch_size=4)
    with manifest.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["label"] for row in rows[:4]] == list(made.conditions.classes)
    cohort = Data(manifest=str(manifest), size=16, cache=tmp_path / "cache").load()
    assert (cohort.channels, cohort.size) == (1, (16,) * dims)


def test_a_resumed_run_ends_with_the_same_bits(tmp_path: Path, vaes: dict[int, Path]) -> None:
    settings = {"generator": learner(vaes[2])}
    resumed = stopped_and_resumed(tmp_path / "run", **settings)
    assert same(weights(resumed), weights(trained(tmp_path / "whole", **settings)))


@pytest.mark.parametrize(
    ("image_shape", "found"),
    [
        (ImageShape(3, (16, 16)), "images of 3 channels and 16 x 16"),
        (ImageShape(1, (32, 16)), "images of 1 channel and 32 x 16"),
        (ImageShape(1, (16, 16, 16)), "images of 1 channel and 16 x 16 x 16"),
    ],
)
def test_an_autoencoder_of_other_images_is_refused(vaes: dict[int, Path], image_shape: ImageShape, found: str) -> None:
    with pytest.raises(
        InputError, match=rf"was trained on images of 1 channel and 16 x 16, the data are {found}; train one"
    ):
        LatentDiffusion(image_shape, CONDITIONS, str(vaes[2]))


def test_a_run_without_an_autoencoder_is_refused(tmp_path: Path, vaes: dict[int, Path]) -> None:
    (tmp_path / "unfinished").mkdir()
    with pytest.raises(InputError, match=r"holds no generator .* give the folder of a finished training"):
        LatentDiffusion(IMAGES, CONDITIONS, str(tmp_path / "unfinished"))
    other = trained(tmp_path / "run", generator=partial(Diffusion, network=NET), rounds=Rounds(1)).path
    with pytest.raises(InputError, match="holds a DiffusionGenerator and no autoencoder; name a run of generate train"):
        LatentDiffusion(IMAGES, CONDITIONS, str(other))


def test_the_error_of_a_latents_size_names_sizes_of_images(vaes: dict[int, Path]) -> None:
    """Latents of 4 x 4 with a U-Net of 4 levels: 2 + 3 halvings."""
    with pytest.raises(
        InputError, match=r"U-Net of 4 levels on latents of 2 halvings .* multiples of 32, got 16 x 16; .* 32 x 32"
    ):
        LatentDiffusion(IMAGES, CONDITIONS, str(vaes[2]), network=partial(UNet, widths=(8, 8, 8, 8)))
