"""What a site keeps of a generator for its own page: some of its images, generated images next to them, and the
denoising of one. Nothing of it is sent.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from fedcore.data.dataset import Images
from fedcore.errors import Refused
from fedcore.models.features import evenly_spaced
from fedcore.site.figure_files import GeneratorSamplesFile
from fedcore.site.figures import Arrays, keep, thumbnails
from fedcore.site.site import Site
from fedcore.training.local_trainer import LocalTrainer
from fedgen.diffusion.sampler import Sampler, noise_of
from fedgen.generative_model import GenerativeModel
from fedgen.generator import UNCONDITIONED, Generator, IterativeGenerator


@dataclass(frozen=True)
class SampleGallery:
    """How many images a site keeps. With the U-Net of recipes/generate/diffusion.yaml on 32 x 32 pixels, 64 images of
    50 steps take 16 seconds of one CPU core, as training on 1000 images does.

    The arrays are `real` and `synthetic` (n, c, h, w), with `real_labels` and `synthetic_labels` (n,), class indices or
    -1 without a class. Of a generator that denoises in steps also `denoised` (k, c, h, w): the first synthetic image as
    predicted at `steps` (k,) of `step_count`, counted from 1. Pixels are uint8, of a volume the middle slice.
    """

    max_images: int = 96
    """Synthetic images of all sites together, though at least one per site."""
    max_per_class: int = 4
    """Synthetic images of a class at a site; of volumes one."""
    max_classes: int = 6
    """Per site: the classes with most images there."""
    denoised: int = 7
    """Steps whose prediction is kept."""
    sampler: Sampler = Sampler()
    seed: int = 0

    sites: int = 1
    """Number of sites that share `max_images`."""
    whole: bool = True
    """The federation has one generator; else a part of it is each site's own."""

    @property
    def what(self) -> str:
        return "synthetic images"

    def make(self, site: Site, local: LocalTrainer) -> None:
        """Writes the gallery of a site."""
        if not self.whole and not site.memory:
            raise Refused("no visit succeeded, so the site's own part of the generator is untrained")
        limit, generator = max(1, self.max_images // self.sites), cast(GenerativeModel, local.module).generator
        with local.measuring() as device:
            arrays = self.arrays(generator, site.name, site.images, limit, device)
        keep(site, GeneratorSamplesFile.NAME, arrays)

    def arrays(self, generator: Generator, site: str, images: Images, limit: int, device: torch.device) -> Arrays:
        """The arrays of a site's images and of at most `limit` synthetic ones."""
        rows = self._classes(generator, images.labels, limit)
        volumes = len(generator.image_shape.size) == 3
        per_class = min(1 if volumes else self.max_per_class, max(1, limit // len(rows)))
        of_class = [_of(images.labels, row, generator) for row in rows]
        real = torch.cat([of[evenly_spaced(len(of), per_class)] for of in of_class])
        labels = torch.tensor(rows).repeat_interleave(per_class)
        conditions = generator.conditions
        # The noise depends on class and position alone, so images of two sites differ by the style of the site only.
        numbers = _noise_numbers(rows, per_class, len(conditions.classes))
        noise = noise_of(self.seed, numbers, generator.noise_shape).to(device)
        index = conditions.site_index(site) if site in conditions.sites else UNCONDITIONED
        request = noise, labels.to(device), torch.full_like(labels, index).to(device)
        return GeneratorSamplesFile(
            real=thumbnails(images.batch(real)), real_labels=_conditioned(images.labels[real], generator).numpy(),
            synthetic=thumbnails(generator.sample(*request, self.sampler)), synthetic_labels=labels.numpy(),
            **self._denoised(generator, *(of[:1] for of in request)),
        ).arrays()  # fmt: skip

    def _classes(self, generator: Generator, labels: Int[Tensor, " n"], limit: int) -> list[int]:
        """The classes to show, in order; UNCONDITIONED last, if there are images without a class."""
        counts = {row: len(_of(labels, row, generator)) for row in range(len(generator.conditions.classes))}
        counts |= {UNCONDITIONED: len(_of(labels, UNCONDITIONED, generator))}
        there = [row for row, count in counts.items() if count or row != UNCONDITIONED]
        chosen = sorted(there, key=lambda row: -counts[row])[: min(self.max_classes, limit)]
        return sorted(chosen, key=lambda row: (row == UNCONDITIONED, row))

    def _denoised(self, generator: Generator, noise: Tensor, labels: Tensor, sites: Tensor) -> Arrays:
        if not isinstance(generator, IterativeGenerator):
            return {}
        steps = sorted(set(np.linspace(0, self.sampler.steps - 1, self.denoised).round().astype(int).tolist()))
        images = generator.denoised(noise, labels, sites, self.sampler, steps)[:, 0]
        return {
            "denoised": thumbnails(images),
            "steps": np.array(steps) + 1,
            "step_count": np.array(self.sampler.steps),
        }


def _conditioned(labels: Int[Tensor, " n"], generator: Generator) -> Int[Tensor, " n"]:
    """The labels that the generator is conditioned on."""
    return labels if generator.conditions.classes else torch.full_like(labels, UNCONDITIONED)


def _of(labels: Int[Tensor, " n"], row: int, generator: Generator) -> Int[Tensor, " m"]:
    """Indices of the images of this class."""
    return (_conditioned(labels, generator) == row).nonzero().flatten()


def _noise_numbers(rows: Sequence[int], per_class: int, classes: int) -> list[int]:
    """The number of each synthetic image's noise."""
    return [(row % (classes + 1)) * 1000 + at for row in rows for at in range(per_class)]
