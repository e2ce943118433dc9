"""The audit of a drawn set: each site holds it against its own images, and sends verdicts and numbers, no image.

For its own page it keeps the pairs of images that are most alike (`fedgen.auditing.nearest_pairs`).

Copies are looked for by pixels and, with an encoder, by features, and so is membership, where the worse counts.
What the site held out from training says what is nearness without copying.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from fedcore.data.dataset import Images
from fedcore.messages.message import FEATURES, SAMPLES, STATISTICS, Contribution, Message, Weights
from fedcore.models.features import embed
from fedcore.site.figure_files import NearestPairsFile
from fedcore.site.figures import evenly, keep
from fedcore.site.site import Round, Site
from fedcore.training.local_trainer import LocalTrainer
from fedgen.auditing.diversity import PAIRS, likenesses
from fedgen.auditing.membership import LEAST as LEAST_MEMBERS
from fedgen.auditing.membership import by_features, by_pixels, membership, worst
from fedgen.auditing.moments import Moments
from fedgen.auditing.nearest_pairs import View, lookalikes
from fedgen.auditing.quality import Sample, alike
from fedgen.copies.copies import LEAST, NEIGHBOURS, PixelLooks, copies, near_by_features, together
from fedgen.copies.matching import working
from fedgen.generator import UNCONDITIONED, Conditions

BATCH = 256


@dataclass(frozen=True)
class Shown(Message):
    """What a site is shown.

    Among the images may be copies of other sites' patients: that is what is asked. Sites that trained the generator
    together hold its weights and could draw the same. Where each site's own drew (`fedgen.oneshot.joint_generator`,
    `fedgen.oneshot.invert`), they see here what they could not see before; so let each site audit its own images first,
    by a set of its own.
    """

    images: Float[Tensor, "n c *space"] = field(metadata=SAMPLES)
    """Drawn ones, in [-1, 1]."""
    features: Float[Tensor, "n d"] = field(metadata=FEATURES)
    """What the encoder makes of them; d = 0 without one."""
    imitates: Int[Tensor, " n"] = field(metadata=STATISTICS)
    """Whose look each was asked to have, as the generator counts sites; -1 for nobody's."""
    labels: Int[Tensor, " n"] = field(metadata=STATISTICS)
    """The class each was asked to have, as the run counts classes; -1 for none."""
    numbers: Int[Tensor, " n"] = field(metadata=STATISTICS)
    """What each is called in its set."""
    encoder: Weights


@dataclass(frozen=True)
class Finding(Message):
    """What a site answers beside its metrics."""

    copies: Bool[Tensor, "views n"] = field(metadata=FEATURES)
    """Which drawn images are too near to one that was trained on: by pixels, and by features if there are any. A yes
    or no for each image: who shows a site the image of a patient learns whether it was trained on."""
    trained: Moments
    """Of the features of what was trained on, by class; of no features without an encoder."""
    held: Moments
    """The same of what was held out: how far other patients of this site are from the trained ones."""


@dataclass(frozen=True)
class Audit:
    """Asked of every site. A figure that too few images stand behind is left out."""

    known: Conditions
    deviations: float = 5.0
    """How far below other patients' closeness a copy's lies, see `fedgen.copies.copies`; more let more pass."""
    digest: str = ""
    """Of the set."""

    def visit(self, site: Site, down: Shown, local: LocalTrainer, turn: Round) -> Contribution[Finding]:
        local.load(down.encoder.tensors)
        with local.measuring() as device:
            encoder, width = local.module.encoder, down.features.shape[1]
            trained, held = (_seen(images, encoder, width, device) for images in (site.images, site.test))
        views = self._views(down, trained, held)
        if site.folder is not None:
            pairs = lookalikes(views, down.images, down.numbers, site.images.batch, self.digest)
            keep(site, NearestPairsFile.NAME, pairs)
        metrics = {"trained": float(len(trained.labels)), "held_out": float(len(held.labels))} | _counts(views)
        metrics |= _members(down, trained, held) | self._alike(site, down, trained, held)
        classes = len(self.known.classes)
        moments = [Moments.by_class(part.features, part.labels, classes) for part in (trained, held)]
        return Contribution(site.name, Finding(_copies(views, down), *moments), site.size, metrics)

    def _views(self, down: Shown, trained: _Seen, held: _Seen) -> dict[str, View]:
        """None where too few images, or patients, stand behind a verdict."""
        if len(held.labels) < LEAST or len(trained.patients.unique()) <= NEIGHBOURS:
            return {}
        look = PixelLooks.of(trained.pixels, trained.patients)
        drawn = torch.cat([working(part) for part in down.images.split(BATCH)])
        views = {"pixels": View(*together(look(drawn), look.held_out(held.pixels), self.deviations))}
        if down.features.shape[1]:
            near, other = (
                near_by_features(features, trained.features, trained.patients)
                for features in (down.features, held.features)
            )
            views["features"] = View(near, other, copies(near.closeness, other.closeness, self.deviations))
        return views

    def _alike(self, site: Site, down: Shown, trained: _Seen, held: _Seen) -> dict[str, float]:
        """How near images that imitate this site are to its own, beside as many of its held-out ones."""
        own = imitating(down.imitates, self.known.site(site.name))
        drawn = Sample(down.features[own], down.labels[own])
        found = alike(Sample(trained.features, trained.labels), Sample(held.features, held.labels), drawn)
        some = evenly(site.size, 4 * PAIRS)
        return found | likenesses(down.images[own], down.labels[own], site.images.batch(some), site.images.labels[some])


def imitating(imitates: Int[Tensor, " n"], site: int) -> Bool[Tensor, " n"]:
    """Which drawn images are to look like a site's: those asked for that, and those asked for no site's look."""
    return (imitates == site) | (imitates == UNCONDITIONED)


@dataclass(frozen=True)
class _Seen:
    """A part of a site's images, and what they are compared by."""

    pixels: Float[Tensor, "n c *small"]
    members: Float[Tensor, "n p"]
    features: Float[Tensor, "n d"]
    labels: Int[Tensor, " n"]
    patients: Int[Tensor, " n"]


def _seen(images: Images | None, encoder: Any, width: int, device: torch.device) -> _Seen:
    """Reads the images batch by batch: a site's images may be more than its memory holds."""
    if images is None or not len(images):
        none = torch.empty(0, dtype=torch.int64)
        return _Seen(torch.empty(0, 1, 1), torch.empty(0, 1), torch.empty(0, width), none, none)
    small, members = [], []
    for start in range(0, len(images), BATCH):
        part = images.batch(range(start, min(start + BATCH, len(images))))
        small.append(working(part))
        members.append(by_pixels(part))
    features, labels = embed(encoder, images, len(images), device)
    return _Seen(torch.cat(small), torch.cat(members), features, labels, torch.from_numpy(images.patients))


def _copies(views: Mapping[str, View], down: Shown) -> Bool[Tensor, "views n"]:
    """A row for each view there could be; of one that could not judge, no image is a copy."""
    names = ("pixels", "features") if down.features.shape[1] else ("pixels",)
    none = torch.zeros(len(down.images), dtype=torch.bool)
    return torch.stack([views[name].judged.suspects if name in views else none for name in names])


def _counts(views: Mapping[str, View]) -> dict[str, float]:
    copied = {f"copies_by_{name}": float(view.judged.suspects.sum()) for name, view in views.items()}
    return copied | {f"held_out_by_{name}": view.judged.held for name, view in views.items()}


def _members(down: Shown, trained: _Seen, held: _Seen) -> dict[str, float]:
    """By pixels, by features, and the worse of both."""
    if len(held.labels) < LEAST:
        return {}
    shown = torch.cat([by_pixels(part) for part in down.images.split(BATCH)])
    found = {"pixels": membership(shown, trained.members, held.members)}
    if down.features.shape[1]:
        found["features"] = membership(*(by_features(part.features) for part in (down, trained, held)))
    told = {f"auc_by_{name}": guessed.auc for name, guessed in found.items()}
    most = worst(found.values())
    told["auc"] = most.auc
    return told | ({"tpr": most.tpr_at_1_percent} if len(held.labels) >= LEAST_MEMBERS else {})
