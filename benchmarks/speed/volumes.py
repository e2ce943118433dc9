"""An epoch of fine-tuning on volumes: the kit compared with plain MONAI; same network, steps, loss and optimizer.

    python -m benchmarks.speed.volumes --manifest FOLDER/hippocampus3d/manifest.csv

One site with all training volumes, 40 x 40 x 40, patches of 32, batches of 8, fp32, alternating; decoding is not
measured:

kit     a visit: patches, views, Lightning
monai   CacheDataset in memory, RandCropByPosNegLabeld, RandAffined, RandGaussianNoised and RandAdjustContrastd as in
        MONAI's tutorials, a DataLoader without workers, DiceCELoss, a plain loop

2026-11-21, 2-core x86 CPU with other load, one thread; torch 2.15.0, MONAI 1.6.1; 216 volumes, 27 steps: kit 5.8 s per
epoch, MONAI 25.1 s (ratio 0.23). Nearly all of the difference is in the random transforms, which MONAI applies to one
volume at a time and the kit to a batch at a time.
"""

from __future__ import annotations

import argparse
import statistics
import time
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch
from monai.data import CacheDataset, DataLoader
from monai.losses import DiceCELoss
from monai.transforms import (
    Compose,
    RandAdjustContrastd,
    RandAffined,
    RandCropByPosNegLabeld,
    RandFlipd,
    RandGaussianNoised,
)
from torch.optim import AdamW

from fedcore.data.dataset import Images
from fedcore.data.partition import Pooled
from fedcore.data.source import Data
from fedcore.messages.round import Round
from fedcore.models.resnet import ResNet
from fedcore.site.site import Site
from fedcore.training.local_trainer import LocalTrainer
from fedcore.training.memory_format import channels_last
from fedcore.training.visit import Visit
from fedtune.segmentation.networks import EncoderUNet
from fedtune.segmentation.segmenter import Segmenter

SIZE, PATCH, BATCH = 40, 32, 8
REPEATS = 5
optimizer = partial(AdamW, lr=1e-3, weight_decay=1e-4, fused=True)


def network() -> EncoderUNet:
    torch.manual_seed(0)
    return EncoderUNet(3, 1, 3, encoder=partial(ResNet, depth=10, stem=16), decoder_channels=(64, 32, 16, 16, 8))


def kit_epoch(images: Images) -> Callable[[], None]:
    module = Segmenter(network(), images.space, patch_size=PATCH, optimizer=optimizer)
    local = LocalTrainer(module, module.share, Visit(batch_size=BATCH))
    site = Site("all", images)

    def epoch() -> None:
        local.fit(site, Round(0, 1, 0), {})

    return epoch


def monai_epoch(images: Images) -> Callable[[], None]:
    at = range(len(images))
    pixels, masks = images.batch(at), images.mask_batch(at)[:, None]
    keys = ["image", "label"]
    transforms = Compose([
        RandCropByPosNegLabeld(keys, "label", (PATCH,) * 3, num_samples=1),
        RandAffined(keys, prob=1.0, rotate_range=(0.17,) * 3, scale_range=(0.1,) * 3, mode=("bilinear", "nearest"),
                    padding_mode="border"),
        *(RandFlipd(keys, prob=0.5, spatial_axis=axis) for axis in range(3)),
        RandGaussianNoised("image", prob=1.0, std=0.05),
        RandAdjustContrastd("image", prob=1.0, gamma=(0.75, 1.35)),
    ])  # fmt: skip
    data = CacheDataset(
        [{"image": p, "label": m} for p, m in zip(pixels, masks, strict=True)], transforms, progress=False
    )
    batches = DataLoader(data, batch_size=BATCH, shuffle=True)
    net = channels_last(network())
    loss = DiceCELoss(to_onehot_y=True, softmax=True, include_background=False, batch=True)
    step = optimizer(net.parameters())

    def epoch() -> None:
        for batch in batches:
            step.zero_grad()
            loss(net(batch["image"].as_tensor()), batch["label"].as_tensor()).backward()
            step.step()

    return epoch


def seconds(epoch: Callable[[], None]) -> float:
    start = time.perf_counter()
    epoch()
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--manifest", type=Path, required=True)
    warnings.filterwarnings("ignore")
    cohort = Data(str(parser.parse_args().manifest), size=SIZE, partition=Pooled()).load()
    (images,) = cohort.split("train").values()
    images = images.take(np.arange(len(images) // BATCH * BATCH))  # the same number of steps for both
    epochs = {"kit": kit_epoch(images), "monai": monai_epoch(images)}
    for epoch in epochs.values():
        epoch()
    times: dict[str, list[float]] = {name: [] for name in epochs}
    for _ in range(REPEATS):
        for name, epoch in epochs.items():
            times[name].append(seconds(epoch))
    print(f"{len(images)} volumes, {torch.get_num_threads()} threads; seconds per epoch, medians of {REPEATS}")
    for name, seconds_of in times.items():
        print(f"{name:<8}{statistics.median(seconds_of):6.2f}")
    print(f"ratio   {statistics.median(a / b for a, b in zip(times['kit'], times['monai'], strict=True)):6.2f}")


if __name__ == "__main__":
    main()
