"""Which classes each site's look was learned with: numbers of images by class and site, and what they mean for drawing.

A generator can be asked for any class in any site's look, also for pairs that no image had. What it then draws has the
label that was asked for, and nothing says that it shows it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

import torch
from jaxtyping import Int
from torch import Tensor

from fedcore.data.dataset import Images
from fedcore.errors import InputError
from fedcore.messages.message import STATISTICS, Contribution, Empty, Message
from fedcore.messages.round import Round
from fedcore.server.sites import Sites
from fedcore.site.site import Site
from fedcore.training.local_trainer import LocalTrainer
from fedgen.generator import Conditions

COUNT = "count"
"""The word by which sites are asked for their `ClassCounts`."""
Pair = tuple[str | None, str | None]
"""Class and site; None: left open."""


@dataclass(frozen=True)
class ClassCounts(Message):
    """What a site says of the images it trained on."""

    images: Int[Tensor, " known"] = field(metadata=STATISTICS)
    """Of each class; last, those without one. 0 where they are of fewer than `policy.min_patients` patients."""


@dataclass(frozen=True)
class CountClasses:
    """Asks a site for its `ClassCounts`, of so many classes."""

    classes: int

    def visit(self, site: Site, down: Empty, local: LocalTrainer, turn: Round) -> Contribution[ClassCounts]:
        return Contribution(
            site.name, ClassCounts(self.counts(site.images, site.policy.min_patients)), len(site.images)
        )

    def counts(self, images: Images, least: int) -> Int[Tensor, " known"]:
        rows = torch.where(images.labels < 0, self.classes, images.labels)
        patients = torch.from_numpy(images.patients)
        of = [rows == row for row in range(self.classes + 1)]
        return torch.tensor([int(o.sum()) if len(patients[o].unique()) >= least else 0 for o in of])


def counted(sites: Sites, known: Conditions, turn: Round) -> dict[str, tuple[int, ...]] | None:
    """Images of each class that each site trained on, of `ClassCounts`; None where a site does not say it."""
    if not known.classes + known.sites:
        return None
    answers = sites.query(COUNT, Empty(), sites.training, turn)
    found = {a.site: a.message.images.tolist() for a in answers
             if isinstance(a, Contribution) and isinstance(a.message, ClassCounts)}  # fmt: skip
    return {site: _of(of, known) for site, of in found.items()} if len(found) == len(answers) else None


def own_counts(site: Site, known: Conditions) -> dict[str, tuple[int, ...]] | None:
    """As `counted`, of one site, as it knows it: 0 for all others."""
    if not known.classes + known.sites:
        return None
    own = CountClasses(len(known.classes)).counts(site.images, site.policy.min_patients).tolist()
    found = {name: (0,) * len(_of(own, known)) for name in known.sites}
    return found | {site.name: _of(own, known)}


def _of(counts: Sequence[int], known: Conditions) -> tuple[int, ...]:
    """Of the classes; where there are none, of the images without one."""
    return tuple(counts[: len(known.classes)] or counts)


def with_counts(known: Conditions, counts: dict[str, tuple[int, ...]] | None, only: str | None = None) -> Conditions:
    """`known` of a generator that was trained by all these sites, or by one `only`."""
    if counts is None:
        return known
    there = {site: of if only in (None, site) else (0,) * len(of) for site, of in counts.items()}
    columns = [there[site] for site in known.sites] or [tuple(map(sum, zip(*there.values(), strict=True)))]
    return replace(known, images=tuple(zip(*columns, strict=True)))


@dataclass(frozen=True)
class Wanted:
    """Which class and whose look the images of a set have: classes evenly; of a class, each site as often as it has
    images of it, or evenly where that is not known."""

    pairs: dict[Pair, int]
    """What is drawn, and how often a site is within its class."""
    left_out: tuple[Pair, ...]
    """What was asked for, but for whose class only other sites have images of enough patients."""
    unknown: bool = False
    """Nobody knows which classes the sites have, so that all pairs are drawn."""

    @classmethod
    def of(cls, known: Conditions, classes: Sequence[str] | None, sites: Sequence[str] | None) -> Wanted:
        """Raises InputError for a class or site that the generator does not know, or where no pair is left."""
        asked: list[Pair] = [
            (c, s) for c in classes or known.classes or (None,) for s in sites or known.sites or (None,)
        ]
        weights = {pair: known.count(*pair) for pair in asked}
        drawn = {pair: weight for pair, weight in weights.items() if weight}
        left_out = tuple(pair for pair in weights if pair not in drawn)
        if not drawn:
            raise InputError(
                f"the generator learned {named(left_out)} from too few patients or none; ask for sites that have the "
                f"class, or leave --sites out"
            )
        return cls(drawn, left_out, known.images is None and min(len(known.classes), len(known.sites)) > 1)

    def note(self) -> str:
        """What somebody has to know who takes the pairs for what their names say; empty where there is nothing."""
        if self.unknown:
            return "Not known: which classes each site has. All pairs are drawn, also those that no image had."
        if not self.left_out:
            return ""
        return f"Not drawn, since the generator learned them from too few patients or none: {named(self.left_out)}."

    @property
    def classes(self) -> tuple[str | None, ...]:
        return tuple(dict.fromkeys(label for label, _ in self.pairs))

    @property
    def sites(self) -> tuple[str | None, ...]:
        return tuple(dict.fromkeys(site for _, site in self.pairs))

    def names(self, count: int) -> list[Pair]:
        """Class and site of the first so many images; of more, the first are the same."""
        turns = [(label, _in_turn({s: n for (c, s), n in self.pairs.items() if c == label})) for label in self.classes]
        return [(label, next(sites)) for label, sites in (turns[i % len(turns)] for i in range(count))]


def named(pairs: Sequence[Pair]) -> str:
    """Pairs as a text: cat at b, dog at c."""
    told = [" at ".join(name for name in pair if name is not None) for pair in pairs]
    return ", ".join(told[:10]) + (f" and {len(told) - 10} more" if len(told) > 10 else "")


def _in_turn(weights: dict[str | None, int]) -> Iterator[str | None]:
    """Without end, each as often as its weight says and as evenly apart as that allows; equal ones in their order."""
    whole, credit = sum(weights.values()), dict.fromkeys(weights, 0)
    while True:
        credit = {site: credit[site] + weight for site, weight in weights.items()}
        site = max(credit, key=credit.__getitem__)
        credit[site] -= whole
        yield site
