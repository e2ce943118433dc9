"""How many copies of patients' images the audit finds, disguise by disguise, and how many honest images it accuses.

python -m benchmarks.copies                                     # phantom hospitals, about 15 minutes on two cores
python -m benchmarks.copies --manifest images/manifest.csv      # images of your own, by their sites
python -m benchmarks.copies --time                              # 1,000 images against 5,000
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterator
from math import radians
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from fedcore.augment.blur import blur
from fedcore.data.dataset import Images
from fedcore.data.phantom.phantoms import Phantoms
from fedcore.data.source import Data
from fedgen.copies.copies import PixelLooks, together
from fedgen.copies.matching import working
from fedgen.copies.registration import moved, transforms

Look = Callable[[Float[Tensor, "n c *space"]], Float[Tensor, "n c *space"]]
HONEST = "honest", "honest, blurred", "honest, noise 0.3", "honest, noise 0.6", "noise alone"


def disguises(
    copied: Float[Tensor, "n c *space"], other: Float[Tensor, "n c *space"], strangers: Float[Tensor, "n c *space"]
) -> Iterator[tuple[str, Float[Tensor, "n c *space"]]]:
    """Copies of trained images in every disguise; `other` are trained ones too, `strangers` are not."""
    noise = torch.randn(copied.shape, generator=torch.Generator().manual_seed(101))
    dims, half = copied.dim() - 2, copied.shape[-1] // 2
    yield "verbatim", copied
    yield "noise 0.1", (copied + 0.1 * noise).clamp(-1, 1)
    yield "noise 0.6", (copied + 0.6 * noise).clamp(-1, 1)
    for axis in range(dims):
        yield f"mirrored, axis {axis}", copied.flip(axis + 2)
    for pixels in (1, 2, 3):
        yield f"shift {pixels} px, every axis", moved(copied, shift(copied, pixels))
    for degrees in (2, 5, 10):
        yield f"turned {degrees} degrees", moved(copied, turn(copied, degrees))
    for zoom in (1.1, 0.9):
        yield f"zoomed {zoom}", moved(copied, magnification(copied, zoom))
    yield "gamma 2", 2 * ((copied + 1) / 2) ** 2 - 1
    yield "inverted", -copied
    yield "mirrored and shifted 1 px", moved(copied.flip(-1), shift(copied, 1))
    yield "half A, half B", torch.cat([copied[..., :half], other[..., half:]], -1)
    yield "half A, half stranger", torch.cat([copied[..., :half], strangers[..., half:]], -1)


def unlike(honest: Float[Tensor, "n c *space"]) -> list[Float[Tensor, "n c *space"]]:
    """What is no copy, in the order of `HONEST`."""
    noise = torch.randn(honest.shape, generator=torch.Generator().manual_seed(102))
    blurred = blur(honest, torch.full((len(honest),), 0.7), 3)
    return [honest, blurred, *((honest + sd * noise).clamp(-1, 1) for sd in (0.3, 0.6)), noise.clamp(-1, 1)]


def shift(images: Float[Tensor, "n c *space"], pixels: float) -> Float[Tensor, "n p"]:
    found = transforms(len(images), images.dim() - 2)
    for axis, size in enumerate(images.shape[2:]):
        found[:, axis] = (-1) ** axis * 2 * pixels / size
    return found


def turn(images: Float[Tensor, "n c *space"], degrees: float) -> Float[Tensor, "n p"]:
    """Half of the images one way, half the other."""
    found = transforms(len(images), images.dim() - 2)
    found[:, images.dim() - 1] = radians(degrees)
    found[::2] *= -1
    return found


def magnification(images: Float[Tensor, "n c *space"], zoom: float) -> Float[Tensor, "n p"]:
    found = transforms(len(images), images.dim() - 2)
    found[:, images.dim() - 2] = -np.log(zoom)
    return found


def split(images: Images, seed: int) -> tuple[Int[Tensor, " m"], Int[Tensor, " h"], Int[Tensor, " d"]]:
    """Places of trained (60 %), held-out (15 %) and honest images, by patient."""
    patients = np.unique(images.patients)
    np.random.default_rng(seed).shuffle(patients)
    cuts = np.split(patients, [int(0.6 * len(patients)), int(0.75 * len(patients))])
    first, second, third = (torch.from_numpy(np.flatnonzero(np.isin(images.patients, cut))) for cut in cuts)
    return first, second, third


def rates(images: Images, planted: int, seed: int) -> dict[str, tuple[int, int]]:
    """Disguise -> images taken for copies, of how many. The rest of a set does not change what is said of an image."""
    trained, held, honest = (images.batch(at) for at in split(images, seed))
    patients = torch.from_numpy(images.patients[split(images, seed)[0].numpy()])
    looks = PixelLooks.of(working(trained), patients)
    other = looks.held_out(working(held))
    chosen = torch.randperm(len(trained), generator=torch.Generator().manual_seed(seed))[: 2 * planted]
    copied, partner = trained[chosen].chunk(2)
    strangers = honest[torch.arange(len(copied)) % len(honest)]
    shown = dict(disguises(copied, partner[: len(copied)], strangers))
    shown |= dict(zip(HONEST, unlike(honest), strict=True))
    found = {}
    for name, drawn in shown.items():
        suspects = together(looks(working(drawn)), other)[2].suspects
        found[name] = (int(suspects.sum()), len(suspects))
    return found


def main() -> None:
    ask = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ask.add_argument("--manifest", default="phantom")
    ask.add_argument("--size", type=int, nargs="+", default=[32, 64])
    ask.add_argument("--dims", type=int, default=2)
    ask.add_argument("--images", type=int, default=600, help="a phantom hospital")
    ask.add_argument("--planted", type=int, default=40, help="copies a disguise and site")
    ask.add_argument("--seeds", type=int, nargs="+", default=[0])
    ask.add_argument("--sites", nargs="*")
    ask.add_argument("--time", action="store_true")
    asked = ask.parse_args()
    for size in asked.size:
        if asked.time:
            passed, worked = seconds(size, asked.dims)
            print(f"{asked.dims}D, {size} pixels: {passed:.0f} s, {worked:.0f} s of CPU time", flush=True)
            continue
        total: dict[str, list[int]] = {}
        for seed in asked.seeds:
            for name, images in _sites(asked, size, seed).items():
                found = rates(images, asked.planted, seed)
                print(size, seed, name, {k: f"{a}/{n}" for k, (a, n) in found.items() if a < 0.95 * n}, file=sys.stderr)
                for disguise, counts in found.items():
                    total[disguise] = [a + b for a, b in zip(total.get(disguise, [0, 0]), counts, strict=True)]
        print(f"\n| {size} pixels | found | of |\n|---|---|---|")
        for disguise, (hits, count) in total.items():
            print(f"| {disguise} | {hits / count:.1%} | {count} |", flush=True)


def _sites(asked: argparse.Namespace, size: int, seed: int) -> dict[str, Images]:
    if asked.manifest == "phantom":
        data = Data(size=size, phantom=Phantoms(images_per_site=asked.images, spatial_dims=asked.dims, seed=seed))
    else:
        data = Data(manifest=str(Path(asked.manifest)), size=size)
    sites = data.load().sites
    return {name: images for name, images in sites.items() if not asked.sites or name in asked.sites}


def seconds(size: int, dims: int, drawn: int = 1000, trained: int = 5000) -> tuple[float, float]:
    """On the clock, and of CPU time, of the search through pixels, held-out images (250) and learning the metrics
    included."""
    held = 250
    images = next(iter(Phantoms(1, drawn + trained + held, dims, test_fraction=0.0).cohort(size).sites.values()))
    parts = [working(images.batch(range(start, stop))) for start, stop in ((0, trained), (trained, len(images)))]
    began = time.perf_counter(), time.process_time()
    looks = PixelLooks.of(parts[0], torch.from_numpy(images.patients[:trained]))
    looks.held_out(parts[1][:held])
    looks(parts[1][held:])
    return time.perf_counter() - began[0], time.process_time() - began[1]


if __name__ == "__main__":
    main()
