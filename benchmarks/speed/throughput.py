"""Images per second of pretraining: the kit, a plain PyTorch loop, and lightly as in its examples.

    python -m benchmarks.speed.throughput   (three minutes; uses a GPU if there is one)

One site, 64 x 64, batches of 64, fp32, in one process, alternating:

kit        a round of FedAvg: policy, audit file, ledger, Lightning, memory and checkpoint on disk
loop       upper limit: images in one tensor on the device, the same module (views, encoder, loss, optimizer, memory
           format)
lightly    its SimCLRTransform (defaults) on PIL images in a DataLoader without and with two workers, its losses, the
           same encoder with three channels, Lightning's Trainer with its defaults, except for printing

2026-11-21, 2-core x86 CPU, one thread; torch 2.15.0, lightly 1.6.0; images per second, and the
speed-up of the kit:

                             kit   loop        lightly      lightly, 2 workers
SimCLR, ResNet-10, stem 32   440   461 (0.95)  272 (1.58)   306 (1.44)
SimCLR, ResNet-18, stem 64    81    80 (1.03)   72 (1.13)    69 (1.18)
MoCo, ResNet-10, stem 32     702   742 (0.95)
MoCo, ResNet-18, stem 64     119   131 (0.91)

The main loss of MoCo with ResNet-18 is the checkpoint of the round, 86 MB on disk for one visit of eight steps; with
more sites or longer visits its share is smaller.
"""

from __future__ import annotations

import logging
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytorch_lightning as pl
import torch
from lightly.loss import NTXentLoss
from lightly.models.modules.heads import SimCLRProjectionHead
from lightly.transforms import SimCLRTransform
from PIL.Image import Image
from torch import Tensor
from torch.optim import SGD
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms.functional import to_pil_image

from benchmarks.speed.simulated import run_rounds, simulated
from benchmarks.speed.visit_overhead import make_sites
from fedcore.data.dataset import Images
from fedcore.models.resnet import ResNet
from fedcore.training.local_trainer import LocalTrainer
from fedcore.training.memory_format import channels_last
from fedcore.training.visit import Visit
from fedssl.methods.base import Method
from fedssl.methods.moco import MoCo
from fedssl.methods.simclr import SimCLR

SIZE, BATCH = 64, 64
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
Run = Callable[[], object]
"""Trains on all images once."""


def kit(module: Method, images: Images, folder: Path) -> Run:
    local = LocalTrainer(module, module.share, Visit(BATCH))
    transport = simulated(local, {images.site: images}, folder / "sites")
    return lambda: run_rounds(local, transport, folder)


def loop(module: Method, images: Images) -> Run:
    channels_last(module).to(DEVICE)
    resident = images.batch(range(len(images))).to(DEVICE)

    def run() -> None:
        optimizer = module.configure_optimizers()
        for at in torch.split(torch.randperm(len(resident), device=DEVICE), BATCH):
            optimizer.zero_grad()
            module.training_step(resident[at], 0).backward()
            optimizer.step()

    return run


class Pictures(Dataset[tuple[list[Tensor], int, str]]):
    """The items of lightly's LightlyDataset: views, target and name of an image; the images are in memory."""

    def __init__(self, images: Images):
        unit = images.batch(range(len(images))) / 2 + 0.5
        self.pictures: list[Image] = [to_pil_image(image).convert("RGB") for image in unit]
        self.transform = SimCLRTransform(input_size=SIZE)

    def __len__(self) -> int:
        return len(self.pictures)

    def __getitem__(self, at: int) -> tuple[list[Tensor], int, str]:
        return self.transform(self.pictures[at]), 0, str(at)


class Lightly(pl.LightningModule):
    """lightly's example of SimCLR."""

    def __init__(self, encoder: ResNet):
        super().__init__()
        self.encoder, self.head = encoder, SimCLRProjectionHead(encoder.width, 256, 128)
        self.criterion = NTXentLoss()

    def training_step(self, batch: tuple[list[Tensor], Tensor, list[str]], _: int) -> Tensor:
        a, b = (self.head(self.encoder(view)) for view in batch[0])
        loss: Tensor = self.criterion(a, b)
        self.log("train_loss", loss)
        return loss

    def configure_optimizers(self) -> SGD:
        return SGD(self.parameters(), lr=0.06, momentum=0.9, weight_decay=5e-4)


def lightly(module: pl.LightningModule, images: Images, workers: int, folder: Path) -> Run:
    batches = DataLoader(Pictures(images), BATCH, shuffle=True, drop_last=True, num_workers=workers)

    def run() -> None:
        trainer = pl.Trainer(
            max_epochs=1, default_root_dir=folder, enable_progress_bar=False, enable_model_summary=False, devices=1
        )
        trainer.fit(module, batches)

    return run


def images_per_second(implementations: dict[str, Run], images: int, repeats: int) -> dict[str, list[float]]:
    """Images per second of each, alternating so that other load affects all equally; the first repeat warms up."""
    rates: dict[str, list[float]] = {name: [] for name in implementations}
    for repeat in range(repeats + 1):
        for name, run in implementations.items():
            start = time.perf_counter()
            run()
            if DEVICE.type == "cuda":
                torch.cuda.synchronize()
            if repeat:
                rates[name].append(images / (time.perf_counter() - start))
    return rates


def compare(title: str, encoder: Callable[..., ResNet], method: type[Method], count: int, repeats: int) -> None:
    images = make_sites(1, count, SIZE)["site_0"]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        implementations = {"loop": loop(method(encoder()), images), "kit": kit(method(encoder()), images, folder)}
        if method is SimCLR:  # lightly's example of MoCo has a different training step
            for workers in (0, 2):
                module = Lightly(encoder(channels=3))
                implementations[f"lightly, {workers} workers"] = lightly(module, images, workers, folder)
        rates = images_per_second(implementations, count, repeats)
    print(f"\n{title}")
    for name, rate in rates.items():
        ratio = statistics.median(k / r for k, r in zip(rates["kit"], rate, strict=True))
        print(f"  {name:<20}{statistics.median(rate):8.0f} images/s   speed-up of the kit {ratio:5.2f}", flush=True)


def main() -> None:
    torch.set_num_threads(1)  # lightly's workers use the other cores
    warnings.filterwarnings("ignore")  # Lightning and torch advise more workers than there are cores
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    device = torch.cuda.get_device_name() if DEVICE.type == "cuda" else "CPU, one thread"
    print(f"torch {torch.__version__}, {device}; medians of interleaved runs")
    small, large = partial(ResNet, depth=10, stem=32), partial(ResNet, depth=18, stem=64)
    for method in (SimCLR, MoCo):
        compare(f"{method.__name__}, ResNet-10, stem 32, 640 images", small, method, 640, repeats=5)
        compare(f"{method.__name__}, ResNet-18, stem 64, 480 images", large, method, 480, repeats=3)


if __name__ == "__main__":
    main()
