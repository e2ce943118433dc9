"""One-shot federation of generators: every site trains its own and sends it once; together they draw one set.

Ensembles of models that are sent once are of Guha et al. 2019 (arXiv 1902.11175); FedCVAE (Heinbaugh et al. 2023,
ICLR) sends decoders, from which the server draws. Here any kind of generator goes, and images that imitate a site come
from that site's own.

A generator of one site has seen nobody else's images, and no mean hides it among others: what it knows by heart, it
may draw, and it says of whom. Whoever holds the files can draw without end; so hand on the set that passed an audit,
not the generators.
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
    """Each site's generator, which draws what imitates that site; holds all of them in memory."""

    each: Mapping[str, Generator]

    @classmethod
    def of(cls, each: Mapping[str, Generator]) -> JointGenerator:
        """Of generators by site, of one run: with the same classes and canvas."""
        one = next(iter(each.values()))
        networks = nn.ModuleList([made.network for made in each.values()])
        return cls(networks, Conditions(one.conditions.classes, tuple(each), _counts(each)), one.image_shape, each)

    @property
    def settings(self) -> dict[str, Any]:
        return {"each": {site: config_of(made) for site, made in self.each.items()}}

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
        """As each generator would draw its images.

        Raises:
            ValueError: A site is left open; no generator here has the look of all.
        """
        if (sites < 0).any():
            raise ValueError("generators of single sites draw for named sites, got one left open")
        images = noise.new_empty(len(noise), *self.image_shape.shape)
        masks = torch.zeros_like(images[:, 0], dtype=torch.int64)
        paired = False
        for place, (site, own) in enumerate(self.each.items()):
            at = (sites == place).nonzero()[:, 0]
            if len(at):
                look = torch.full_like(at, own.conditions.site_index(site if own.conditions.sites else None))
                drawn, classes = own.sample_with_masks(noise[at], labels[at], look, sampler)
                images[at] = drawn.to(images.dtype)
                if classes is not None:
                    masks[at], paired = classes, True
        return images, masks if paired else None


def _counts(each: Mapping[str, Generator]) -> tuple[tuple[int, ...], ...] | None:
    """Of each site, what its own generator was trained on."""
    columns = []
    for site, own in each.items():
        if own.conditions.image_counts is None:
            return None
        place = own.conditions.site_index(site) if own.conditions.sites else 0
        columns.append([row[place] for row in own.conditions.image_counts])
    return tuple(zip(*columns, strict=True))


def folders_of(run: Path) -> dict[str, Path]:
    """The folders of the sites' own generators; none where the sites have one together."""
    return {path.parent.name: path for path in sorted(run.glob(f"sites/*/{GENERATOR}"))}


def load_drawing(run: Path) -> Generator:
    """The generator of a run, or those of its sites as one, in the run's order; raises as `load_generator`."""
    own = {site: load_generator(folder) for site, folder in folders_of(run).items()}
    if not own:
        return load_generator(run / GENERATOR)
    known = next(iter(own.values())).conditions.sites or own
    return JointGenerator.of({site: own[site] for site in known if site in own})
