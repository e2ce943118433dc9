"""What a site keeps of a generator for its own page: some of its images, images drawn to be like them, and the way to
one of those. Nothing of it is sent.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from fedcore.data.dataset import Images
from fedcore.errors import Refused
from fedcore.site.figure_files import GeneratorSamplesFile
from fedcore.site.figures import Arrays, evenly, kept_by_each, thumbnails
from fedcore.site.site import Site
from fedcore.transport.in_process import InProcess
from fedgen.diffusion.sampler import Sampler, noise_of
from fedgen.generative import Generative
from fedgen.generator import UNCONDITIONED, Generator, InSteps


@dataclass(frozen=True)
class Exhibit:
    """How much a site keeps. With the U-Net of recipes/generate/diffusion.yaml on 32 x 32 pixels, 64 images of 50 steps
    take 16 seconds of one CPU core, as training on 1000 images does.

    The arrays are those of a `fedcore.site.figure_files.GeneratorSamplesFile`.
    """

    images: int = 96
    """Drawn images at most over all sites, though one at each."""
    each: int = 4
    """Of a class and site at most; of volumes one."""
    classes: int = 6
    """Of a site at most: those it has most images of."""
    guesses: int = 7
    sampler: Sampler = Sampler()
    seed: int = 0

    def keep(self, sites: InProcess, module: Generative, whole: bool) -> list[str]:
        """Writes the exhibit of every site, and returns notes on those that could not.

        `whole`: what draws is the federation's; else a part of it is each site's own.
        """

        def arrays(site: Site) -> Arrays:
            if not whole and not site.memory:
                raise Refused("no visit of it succeeded, so its own part of the generator is as it was made")
            with sites.local.at(site), sites.local.measuring() as device:
                most = max(1, self.images // len(sites.names()))
                return self.arrays(module.generator, site.name, site.images, most, device)

        return kept_by_each(sites, "synthetic images", GeneratorSamplesFile.NAME, arrays)

    def arrays(self, generator: Generator, site: str, images: Images, most: int, device: torch.device) -> Arrays:
        """Of a site's images and at most so many drawn ones."""
        rows = self._rows(generator, images.labels, most)
        each = min(1 if len(generator.canvas.size) == 3 else self.each, max(1, most // len(rows)))
        asked = [_of(images.labels, row, generator) for row in rows]
        places = torch.cat([of[evenly(len(of), each)] for of in asked])
        labels = torch.tensor(rows).repeat_interleave(each)
        known = generator.known
        # The noise is of class and place alone, so sites differ by nothing but their look.
        noise = noise_of(self.seed, _numbers(rows, each, len(known.classes)), generator.noise_shape).to(device)
        at = torch.full_like(labels, known.sites.index(site) if site in known.sites else UNCONDITIONED)
        drawn = noise, labels.to(device), at.to(device), self.sampler
        return GeneratorSamplesFile(
            real=thumbnails(images.batch(places)), real_labels=_said(images.labels[places], generator).numpy(),
            synthetic=thumbnails(generator.draw(*drawn)), synthetic_labels=labels.numpy(),
            **self._way(generator, *(of[:1] for of in drawn[:3])),
        ).arrays()  # fmt: skip

    def _rows(self, generator: Generator, labels: Int[Tensor, " n"], most: int) -> list[int]:
        """The classes to show, in order, and UNSAID last where images have none."""
        counts = {row: len(_of(labels, row, generator)) for row in range(len(generator.known.classes))}
        counts |= {UNCONDITIONED: len(_of(labels, UNCONDITIONED, generator))}
        asked = [row for row, count in counts.items() if count or row != UNCONDITIONED]
        shown = sorted(asked, key=lambda row: -counts[row])[: min(self.classes, most)]
        return sorted(shown, key=lambda row: (row == UNCONDITIONED, row))

    def _way(self, generator: Generator, noise: Tensor, labels: Tensor, sites: Tensor) -> Arrays:
        if not isinstance(generator, InSteps):
            return {}
        steps = sorted(set(np.linspace(0, self.sampler.steps - 1, self.guesses).round().astype(int).tolist()))
        guesses = generator.guesses(noise, labels, sites, self.sampler, steps)[:, 0]
        return {
            "denoised": thumbnails(guesses),
            "steps": np.array(steps) + 1,
            "step_count": np.array(self.sampler.steps),
        }


def _said(labels: Int[Tensor, " n"], generator: Generator) -> Int[Tensor, " n"]:
    """The labels that the generator knows."""
    return labels if generator.known.classes else torch.full_like(labels, UNCONDITIONED)


def _of(labels: Int[Tensor, " n"], row: int, generator: Generator) -> Int[Tensor, " m"]:
    """Places of the images of this row."""
    return (_said(labels, generator) == row).nonzero().flatten()


def _numbers(rows: Sequence[int], each: int, classes: int) -> list[int]:
    """Of the noise of each drawn image."""
    return [(row % (classes + 1)) * 1000 + at for row in rows for at in range(each)]
