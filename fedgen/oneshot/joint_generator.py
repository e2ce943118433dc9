"""One-shot federation of generators: every site trains its own and sends it once; together they make one synthetic set.

Ensembles of models that are sent once are due to Guha et al. 2019 (arXiv 1902.11175); in FedCVAE (Heinbaugh et al.
2023, ICLR) sites send decoders, from which the server samples. Here generators of any kind are possible, and images in
the style of a site come from that site's generator.

A generator of one site was trained on that site's images alone, and no mean over sites hides what it has memorised: it
may generate memorised images, and their site is known. Whoever holds the files can generate any number of images; so
share a set that passed its audit, not the generators.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from fedgen.diffusion.sampler import Sampler
from fedgen.generator import Conditions, Generator, ImageShape
from fedgen.generator_store import GENERATOR, build_generator, config_of, load_generator


@dataclass(frozen=True)
class JointGenerator(Generator):
    """The generators of all sites, held in memory; each generates the images in the style of its site."""

    each: Mapping[str, Generator]

    @classmethod
    def of(cls, each: Mapping[str, Generator]) -> JointGenerator:
        """Generators of one run by site: with the same classes and image shape."""
        one = next(iter(each.values()))
        networks = nn.ModuleList([generator.network for generator in each.values()])
        return cls(networks, Conditions(one.conditions.classes, tuple(each), _counts(each)), one.image_shape, each)

    @property
    def settings(self) -> dict[str, Any]:
        return {"each": {site: config_of(generator) for site, generator in self.each.items()}}

    @classmethod
    def build(cls, conditions: Conditions, image_shape: ImageShape, settings: Mapping[str, Any]) -> JointGenerator:
        return cls.of({site: build_generator(plan) for site, plan in settings["each"].items()})

    @property
    def noise_shape(self) -> tuple[int, ...]:
        return next(iter(self.each.values())).noise_shape

    def sample(
        self, noise: Float[Tensor, "n *shape"], labels: Int[Tensor, " n"], sites: Int[Tensor, " n"],
        sampler: Sampler = Sampler(),
    ) -> Float[Tensor, "n c *space"]:  # fmt: skip
        return self.sample_with_masks(noise, labels, sites, sampler)[0]

    def sample_with_masks(
        self, noise: Float[Tensor, "n *shape"], labels: Int[Tensor, " n"], sites: Int[Tensor, " n"],
        sampler: Sampler = Sampler(),
    ) -> tuple[Float[Tensor, "n c *space"], Int[Tensor, "n *space"] | None]:  # fmt: skip
        """Each image from the generator of its site.

        Raises:
            ValueError: An image has no site; no generator here has the style of all sites.
        """
        if (sites < 0).any():
            raise ValueError("generators of single sites need a site for each image, got an image without a site")
        images = noise.new_empty(len(noise), *self.image_shape.shape)
        masks = torch.zeros_like(images[:, 0], dtype=torch.int64)
        paired = False
        for place, (site, own) in enumerate(self.each.items()):
            at = (sites == place).nonzero()[:, 0]
            if len(at):
                style = torch.full_like(at, own.conditions.site_index(site if own.conditions.sites else None))
                synthetic, classes = own.sample_with_masks(noise[at], labels[at], style, sampler)
                images[at] = synthetic.to(images.dtype)
                if classes is not None:
                    masks[at], paired = classes, True
        return images, masks if paired else None


def _counts(each: Mapping[str, Generator]) -> tuple[tuple[int, ...], ...] | None:
    """Images by class and site: of each site those that its own generator was trained on."""
    columns = []
    for site, own in each.items():
        if own.conditions.image_counts is None:
            return None
        place = own.conditions.site_index(site) if own.conditions.sites else 0
        columns.append([row[place] for row in own.conditions.image_counts])
    return tuple(zip(*columns, strict=True))


def folders_of(run: Path) -> dict[str, Path]:
    """Folders of the sites' own generators; empty where all sites have one together."""
    return {path.parent.name: path for path in sorted(run.glob(f"sites/*/{GENERATOR}"))}


def load_run_generator(run: Path) -> Generator:
    """The generator of a run, or those of its sites as one, in the order of the run; raises as `load_generator`."""
    own = {site: load_generator(folder) for site, folder in folders_of(run).items()}
    if not own:
        return load_generator(run / GENERATOR)
    known = next(iter(own.values())).conditions.sites or own
    return JointGenerator.of({site: own[site] for site in known if site in own})
