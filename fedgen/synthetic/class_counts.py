"""Training images by class and site, and which combinations of class and site a synthetic set contains.

A generator can be conditioned on any class and any site, also on combinations without a training image. Such images
would carry a label that nothing supports, so a set leaves those combinations out.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

import torch
from jaxtyping import Int
from torch import Tensor

from fedcore.data.dataset import Images
from fedcore.errors import InputError
from fedcore.messages.answer import Contribution
from fedcore.messages.message import Empty, Message
from fedcore.messages.reveals import STATISTICS
from fedcore.messages.round import Round
from fedcore.server.sites import Sites
from fedcore.site.site import Site
from fedcore.training.local_trainer import LocalTrainer
from fedgen.generator import Conditions

COUNT = "count"
"""The word of the request for `ClassCounts`."""
ClassAndSite = tuple[str | None, str | None]
"""None: left open."""


@dataclass(frozen=True)
class ClassCounts(Message):
    """A site's training images by class."""

    images: Int[Tensor, " rows"] = field(metadata=STATISTICS)
    """Of each class; last, those without a class. 0 where they belong to fewer than `policy.min_patients` patients."""


@dataclass(frozen=True)
class CountClasses:
    """Requests the `ClassCounts` of a site, for so many classes."""

    classes: int

    def visit(self, site: Site, down: Empty, local: LocalTrainer, turn: Round) -> Contribution[ClassCounts]:
        return Contribution(
            site.name, ClassCounts(self.counts(site.images, site.policy.min_patients)), len(site.images)
        )

    def counts(self, images: Images, min_patients: int) -> Int[Tensor, " rows"]:
        rows = torch.where(images.labels < 0, self.classes, images.labels)
        patients = torch.from_numpy(images.patients)
        of = [rows == row for row in range(self.classes + 1)]
        return torch.tensor([int(o.sum()) if len(patients[o].unique()) >= min_patients else 0 for o in of])


def collect_class_counts(sites: Sites, conditions: Conditions, turn: Round) -> dict[str, tuple[int, ...]] | None:
    """Training images by class of each site, from `ClassCounts`; None if a site does not send them."""
    if not conditions.classes + conditions.sites:
        return None
    answers = sites.query(COUNT, Empty(), sites.training, turn, ClassCounts)
    found = {a.site: a.message.images.tolist() for a in answers if isinstance(a, Contribution)}
    return {site: _of(of, conditions) for site, of in found.items()} if len(found) == len(answers) else None


def own_class_counts(site: Site, conditions: Conditions) -> dict[str, tuple[int, ...]] | None:
    """As `collect_class_counts`, at one site, for that site alone: 0 for all others."""
    if not conditions.classes + conditions.sites:
        return None
    own = CountClasses(len(conditions.classes)).counts(site.images, site.policy.min_patients).tolist()
    found = {name: (0,) * len(_of(own, conditions)) for name in conditions.sites}
    return found | {site.name: _of(own, conditions)}


def _of(counts: Sequence[int], conditions: Conditions) -> tuple[int, ...]:
    """Of the classes; without classes, of the images without one."""
    return tuple(counts[: len(conditions.classes)] or counts)


def with_image_counts(
    conditions: Conditions, counts: dict[str, tuple[int, ...]] | None, only: str | None = None
) -> Conditions:
    """The conditions of a generator that was trained by all these sites, or by the site `only`."""
    if counts is None:
        return conditions
    trained = {site: of if only in (None, site) else (0,) * len(of) for site, of in counts.items()}
    columns = [trained[site] for site in conditions.sites] or [tuple(map(sum, zip(*trained.values(), strict=True)))]
    return replace(conditions, image_counts=tuple(zip(*columns, strict=True)))


@dataclass(frozen=True)
class SamplingPlan:
    """Class and site of each image of a set: classes equally often; within a class, sites in proportion to their images
    of it, or equally often if these are unknown."""

    weights: dict[ClassAndSite, int]
    """How often each site is chosen within its class."""
    left_out: tuple[ClassAndSite, ...]
    """Requested, but too few patients of the site have the class, while other sites have enough."""
    counts_unknown: bool = False
    """Nothing is left out, because the class counts of the sites are unknown."""

    @classmethod
    def of(cls, conditions: Conditions, classes: Sequence[str] | None, sites: Sequence[str] | None) -> SamplingPlan:
        """Raises InputError for an unknown class or site, or where all combinations are left out."""
        requested: list[ClassAndSite] = [
            (c, s) for c in classes or conditions.classes or (None,) for s in sites or conditions.sites or (None,)
        ]
        counts = {combination: conditions.image_count(*combination) for combination in requested}
        weights = {combination: count for combination, count in counts.items() if count}
        left_out = tuple(combination for combination in counts if combination not in weights)
        if not weights:
            raise InputError(
                f"the generator was trained on too few patients, or none, of {listed(left_out)}; choose sites that "
                "have the class, or omit --sites"
            )
        several = min(len(conditions.classes), len(conditions.sites)) > 1
        return cls(weights, left_out, conditions.image_counts is None and several)

    def note(self) -> str:
        """A warning on combinations of class and site for readers of the set; empty if there is nothing to say."""
        if self.counts_unknown:
            return (
                "Unknown which classes each site has: the set also contains combinations of class and site without a "
                "training image."
            )
        if not self.left_out:
            return ""
        return f"Not generated, since too few patients, or none, were trained on: {listed(self.left_out)}."

    @property
    def classes(self) -> tuple[str | None, ...]:
        return tuple(dict.fromkeys(label for label, _ in self.weights))

    @property
    def sites(self) -> tuple[str | None, ...]:
        return tuple(dict.fromkeys(site for _, site in self.weights))

    def conditions_of(self, count: int) -> list[ClassAndSite]:
        """Class and site of the first `count` images; a larger count begins with the same."""
        of_class = [
            (label, _interleaved({s: n for (c, s), n in self.weights.items() if c == label})) for label in self.classes
        ]
        return [(label, next(sites)) for label, sites in (of_class[i % len(of_class)] for i in range(count))]


def listed(combinations: Sequence[ClassAndSite]) -> str:
    """Combinations as a text: cat at b, dog at c."""
    names = [" at ".join(name for name in combination if name is not None) for combination in combinations]
    return ", ".join(names[:10]) + (f" and {len(names) - 10} more" if len(names) > 10 else "")


def _interleaved(weights: dict[str | None, int]) -> Iterator[str | None]:
    """Endless: each site as often as its weight, spaced as evenly as possible; ties in order."""
    total, credit = sum(weights.values()), dict.fromkeys(weights, 0)
    while True:
        credit = {site: credit[site] + weight for site, weight in weights.items()}
        site = max(credit, key=credit.__getitem__)
        credit[site] -= total
        yield site
