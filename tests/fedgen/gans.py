"""The smallest GAN, its sites, and runs of it that are stopped and resumed."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor
from torch.optim import SGD

from fedcore.data.phantom.phantoms import Phantoms
from fedcore.data.source import Data
from fedcore.runs.folder import RunFolder
from fedcore.server.rounds import Rounds
from fedcore.training.visit import Visit
from fedgen.gan.diffaugment import DiffAugment
from fedgen.gan.discriminator import Discriminator
from fedgen.gan.gan import GAN
from fedgen.gan.generator_network import GeneratorNetwork
from fedgen.generator import Conditions, ImageShape
from fedgen.training import train
from tests.stopping import killed_in

CONDITIONS = Conditions(("cat", "dog"), ("a", "b", "c"))
VISIT = Visit(batch_size=4, accelerator="cpu")
small = partial(
    GAN, generator_network=partial(GeneratorNetwork, widths=(8, 16), latent_dim=4),
    discriminator=partial(Discriminator, widths=(8, 16)),
    generator_optimizer=lambda p: SGD(p, lr=0.02), discriminator_optimizer=lambda p: SGD(p, lr=0.02, momentum=0.5),
)  # fmt: skip


def gan(**settings: Any) -> GAN:
    torch.manual_seed(0)
    return small(ImageShape(1, (8, 8)), CONDITIONS, **settings)


def phantoms(dims: int = 2) -> Data:
    return Data(size=16, phantom=Phantoms(sites=2, images_per_site=8, spatial_dims=dims))


def trained(folder: Path, resume: bool = False, **changes: Any) -> RunFolder:
    """Two simulated hospitals of 6 training images each, two rounds."""
    run = RunFolder(folder, "seed: 0\n", resume)
    visit = Visit(batch_size=4, accelerator="cpu", keep_optimizer=True)
    generator = partial(small, augment=DiffAugment(cutout=0.25))
    train(run, **{"generator": generator, "data": phantoms(), "visit": visit, "rounds": Rounds(2), **changes})
    return run


def stopped_and_resumed(folder: Path, **changes: Any) -> RunFolder:
    """Stopped after its second round was trained and before it was committed."""
    with killed_in(1):
        trained(folder, **changes)
    return trained(folder, resume=True, **changes)


def tensors_of(run: RunFolder) -> dict[str, Tensor]:
    """Every tensor of the run: the generator's, the server's, the sites'."""
    files = sorted([*run.path.rglob("*.safetensors")])
    return {f"{p.relative_to(run.path)}/{k}": t for p in files for k, t in safetensors.torch.load_file(p).items()}
