"""Detection rate of the audit for transformed copies of patients' images, and false alarms for images that are none.

python -m benchmarks.copy_detection                                 # simulated hospitals, 15 minutes on two cores
python -m benchmarks.copy_detection --manifest images/manifest.csv  # your own images, site by site
python -m benchmarks.copy_detection --time                          # duration: 1,000 images against 5,000
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
from fedgen.copies.copies import PixelComparisons, detect_copies_by_any
from fedgen.copies.matching import at_search_size
from fedgen.copies.registration import identity_transforms, warp

Transform = Callable[[Float[Tensor, "n c *space"]], Float[Tensor, "n c *space"]]
NO_COPIES = "honest", "honest, blurred", "honest, noise 0.3", "honest, noise 0.6", "noise alone"


def transformed_copies(
    copied: Float[Tensor, "n c *space"], other: Float[Tensor, "n c *space"], untrained: Float[Tensor, "n c *space"]
) -> Iterator[tuple[str, Float[Tensor, "n c *space"]]]:
    """Copies of training images with each transformation; `other` are training images too, `untrained` are not."""
    noise = torch.randn(copied.shape, generator=torch.Generator().manual_seed(101))
    dims, half = copied.dim() - 2, copied.shape[-1] // 2
    yield "verbatim", copied
    yield "noise 0.1", (copied + 0.1 * noise).clamp(-1, 1)
    yield "noise 0.6", (copied + 0.6 * noise).clamp(-1, 1)
    for axis in range(dims):
        yield f"mirrored, axis {axis}", copied.flip(axis + 2)
    for pixels in (1, 2, 3):
        yield f"shift {pixels} px, every axis", warp(copied, translation(copied, pixels))
    for degrees in (2, 5, 10):
        yield f"turned {degrees} degrees", warp(copied, rotation(copied, degrees))
    for zoom in (1.1, 0.9):
        yield f"zoomed {zoom}", warp(copied, scaling(copied, zoom))
    yield "gamma 2", 2 * ((copied + 1) / 2) ** 2 - 1
    yield "inverted", -copied
    yield "mirrored and shifted 1 px", warp(copied.flip(-1), translation(copied, 1))
    yield "half A, half B", torch.cat([copied[..., :half], other[..., half:]], -1)
    yield "half A, half another person", torch.cat([copied[..., :half], untrained[..., half:]], -1)


def images_without_copies(originals: Float[Tensor, "n c *space"]) -> list[Float[Tensor, "n c *space"]]:
    """Images that are no copies, in the order of `NO_COPIES`."""
    noise = torch.randn(originals.shape, generator=torch.Generator().manual_seed(102))
    blurred = blur(originals, torch.full((len(originals),), 0.7), 3)
    return [originals, blurred, *((originals + sd * noise).clamp(-1, 1) for sd in (0.3, 0.6)), noise.clamp(-1, 1)]


def translation(images: Float[Tensor, "n c *space"], pixels: float) -> Float[Tensor, "n p"]:
    found = identity_transforms(len(images), images.dim() - 2)
    for axis, size in enumerate(images.shape[2:]):
        found[:, axis] = (-1) ** axis * 2 * pixels / size
    return found


def rotation(images: Float[Tensor, "n c *space"], degrees: float) -> Float[Tensor, "n p"]:
    """Rotation of half of the images in one direction, of the other half in the opposite one."""
    found = identity_transforms(len(images), images.dim() - 2)
    found[:, images.dim() - 1] = radians(degrees)
    found[::2] *= -1
    return found


def scaling(images: Float[Tensor, "n c *space"], zoom: float) -> Float[Tensor, "n p"]:
    found = identity_transforms(len(images), images.dim() - 2)
    found[:, images.dim() - 2] = -np.log(zoom)
    return found


def split(images: Images, seed: int) -> tuple[Int[Tensor, " m"], Int[Tensor, " h"], Int[Tensor, " d"]]:
    """Indices of training (60 %), held-out (15 %) and original images, split by patient."""
    patients = np.unique(images.patients)
    np.random.default_rng(seed).shuffle(patients)
    cuts = np.split(patients, [int(0.6 * len(patients)), int(0.75 * len(patients))])
    first, second, third = (torch.from_numpy(np.flatnonzero(np.isin(images.patients, cut))) for cut in cuts)
    return first, second, third


def rates(images: Images, planted: int, seed: int) -> dict[str, tuple[int, int]]:
    """Transformation -> (images detected as copies, number of images). Each image is judged independently."""
    trained, held, originals = (images.batch(at) for at in split(images, seed))
    patients = torch.from_numpy(images.patients[split(images, seed)[0].numpy()])
    looks = PixelComparisons.fit(at_search_size(trained), patients)
    other = looks.held_out(at_search_size(held))
    chosen = torch.randperm(len(trained), generator=torch.Generator().manual_seed(seed))[: 2 * planted]
    copied, partner = trained[chosen].chunk(2)
    untrained = originals[torch.arange(len(copied)) % len(originals)]
    images_by_name = dict(transformed_copies(copied, partner[: len(copied)], untrained))
    images_by_name |= dict(zip(NO_COPIES, images_without_copies(originals), strict=True))
    found = {}
    for name, synthetic in images_by_name.items():
        is_copy = detect_copies_by_any(looks(at_search_size(synthetic)), other)[2].is_copy
        found[name] = (int(is_copy.sum()), len(is_copy))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--manifest", default="phantom")
    parser.add_argument("--size", type=int, nargs="+", default=[32, 64])
    parser.add_argument("--dims", type=int, default=2)
    parser.add_argument("--images", type=int, default=600, help="per simulated hospital")
    parser.add_argument("--planted", type=int, default=40, help="copies per transformation and site")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--sites", nargs="*")
    parser.add_argument("--time", action="store_true")
    options = parser.parse_args()
    for size in options.size:
        if options.time:
            wall, cpu = seconds(size, options.dims)
            print(f"{options.dims}D, {size} pixels: {wall:.0f} s, {cpu:.0f} s of CPU time", flush=True)
            continue
        total: dict[str, list[int]] = {}
        for seed in options.seeds:
            for name, images in _sites(options, size, seed).items():
                found = rates(images, options.planted, seed)
                print(size, seed, name, {k: f"{a}/{n}" for k, (a, n) in found.items() if a < 0.95 * n}, file=sys.stderr)
                for name_of_copy, counts in found.items():
                    total[name_of_copy] = [a + b for a, b in zip(total.get(name_of_copy, [0, 0]), counts, strict=True)]
        print(f"\n| {size} pixels | detected | images |\n|---|---|---|")
        for name, (hits, count) in total.items():
            print(f"| {name} | {hits / count:.1%} | {count} |", flush=True)


def _sites(options: argparse.Namespace, size: int, seed: int) -> dict[str, Images]:
    if options.manifest == "phantom":
        data = Data(size=size, phantom=Phantoms(images_per_site=options.images, spatial_dims=options.dims, seed=seed))
    else:
        data = Data(manifest=str(Path(options.manifest)), size=size)
    sites = data.load().sites
    return {name: images for name, images in sites.items() if not options.sites or name in options.sites}


def seconds(size: int, dims: int, synthetic: int = 1000, trained: int = 5000) -> tuple[float, float]:
    """Wall-clock and CPU seconds of the pixel search, including 250 held-out images and learning the metrics."""
    held = 250
    images = next(iter(Phantoms(1, synthetic + trained + held, dims, test_fraction=0.0).cohort(size).sites.values()))
    parts = [at_search_size(images.batch(range(first, stop))) for first, stop in ((0, trained), (trained, len(images)))]
    start = time.perf_counter(), time.process_time()
    looks = PixelComparisons.fit(parts[0], torch.from_numpy(images.patients[:trained]))
    looks.held_out(parts[1][:held])
    looks(parts[1][held:])
    return time.perf_counter() - start[0], time.process_time() - start[1]


if __name__ == "__main__":
    main()
