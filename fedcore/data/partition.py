"""Dealing one data set's patients to sites, to study what skew does."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np

from fedcore.data.manifest.manifest import SPLITS, Row
from fedcore.errors import InputError


@runtime_checkable
class Partition(Protocol):
    """Names a site for every row.

    Laws: all rows of a patient get one name; equal rows and seed give equal names; no site is empty.
    """

    def __call__(self, rows: Sequence[Row], seed: int) -> list[str]: ...


@dataclass(frozen=True)
class ByColumn:
    """The sites of the manifest."""

    def __call__(self, rows: Sequence[Row], seed: int) -> list[str]:
        return [row.site for row in rows]


@dataclass(frozen=True)
class Pooled:
    """One site that holds everything: the centralised baseline, which no federation can have."""

    def __call__(self, rows: Sequence[Row], seed: int) -> list[str]:
        return ["all"] * len(rows)


@dataclass(frozen=True)
class Dirichlet:
    """Label skew by a Dirichlet prior (Hsu et al. 2019, arXiv 1909.06335).

    Site k draws its class mix q_k ~ Dirichlet(alpha p), p the patients' classes, and the sites in turn draw a
    patient of a class of their mix, so that they have equally many. Where a class has run out q_k is
    renormalised over the rest. Patients stand for their images, with their commonest label; those without a
    label are a class. Train, val and test are dealt with the same mixes.
    """

    alpha: float = 0.5
    """Small: a class or two a site; 100: all alike."""
    sites: int = 4
    min_images: int = 10
    """Fewer images at any site is an InputError."""

    def __call__(self, rows: Sequence[Row], seed: int) -> list[str]:
        if self.alpha <= 0:
            raise InputError(f"Dirichlet: alpha must be positive, got {self.alpha}")
        _require_sites("Dirichlet", self.sites)
        rng = np.random.default_rng(seed)
        label_of = _labels(rows)
        classes = sorted(set(label_of.values()))
        counts = Counter(label_of.values())
        prior = np.array([counts[name] for name in classes], dtype=float) / len(label_of)
        mixes = rng.dirichlet(self.alpha * prior, self.sites)
        dealt: dict[str, int] = {}
        for patients in _by_split(rows, rng):
            piles = [[patient for patient in patients if label_of[patient] == name] for name in classes]
            dealt |= _take_turns(piles, mixes, rng)
        return _named("Dirichlet", rows, dealt, self.sites, self.min_images)


@dataclass(frozen=True)
class Quantity:
    """Skew of size: the sites' shares of the patients are one draw of Dirichlet(beta)."""

    sites: int = 4
    beta: float = 0.5
    """Small: one site has nearly all; 100: all alike."""

    def __call__(self, rows: Sequence[Row], seed: int) -> list[str]:
        if self.beta <= 0:
            raise InputError(f"Quantity: beta must be positive, got {self.beta}")
        _require_sites("Quantity", self.sites)
        rng = np.random.default_rng(seed)
        shares = rng.dirichlet([self.beta] * self.sites)
        dealt: dict[str, int] = {}
        for patients in _by_split(rows, rng):
            sizes = _whole(shares, len(patients))
            dealt |= zip(patients, np.repeat(np.arange(self.sites), sizes).tolist(), strict=True)
        return _named("Quantity", rows, dealt, self.sites, min_images=1)


def _require_sites(rule: str, sites: int) -> None:
    if sites < 1:
        raise InputError(f"{rule}: sites must be at least 1, got {sites}")


def _labels(rows: Sequence[Row]) -> dict[str, str]:
    """Each patient's commonest label, the first in the alphabet of equally common ones; none is ''."""
    seen: dict[str, Counter[str]] = defaultdict(Counter)
    for row in rows:
        seen[row.patient][row.label or ""] += 1
    return {patient: min(labels, key=lambda name: (-labels[name], name)) for patient, labels in seen.items()}


def _by_split(rows: Sequence[Row], rng: np.random.Generator) -> list[list[str]]:
    """The patients of each split, shuffled."""
    splits = dict.fromkeys(SPLITS.values())
    groups = [sorted({row.patient for row in rows if row.split == split}) for split in splits]
    return [[group[at] for at in rng.permutation(len(group))] for group in groups if group]


def _take_turns(piles: list[list[str]], mixes: np.ndarray, rng: np.random.Generator) -> dict[str, int]:
    """Sites draw one patient after another, each from a pile chosen by its mix, until the piles are empty."""
    dealt = {}
    left = np.array([len(pile) for pile in piles])
    turns = rng.permutation(len(mixes))
    for turn in range(left.sum()):
        site = int(turns[turn % len(turns)])
        odds = mixes[site] * (left > 0)
        if odds.sum() <= 1e-12:  # its own classes have run out
            odds = left.astype(float)
        pile = rng.choice(len(piles), p=odds / odds.sum())
        left[pile] -= 1
        dealt[piles[pile].pop()] = site
    return dealt


def _whole(shares: np.ndarray, count: int) -> np.ndarray:
    """Whole numbers of sum `count` nearest to the shares, none zero where `count` allows."""
    least = int(count >= len(shares))
    exact = shares * (count - least * len(shares))
    sizes = np.floor(exact).astype(int)
    largest_rest = np.argsort(sizes - exact, kind="stable")[: count - least * len(shares) - sizes.sum()]
    sizes[largest_rest] += 1
    return np.asarray(sizes + least)


def _named(rule: str, rows: Sequence[Row], dealt: dict[str, int], sites: int, min_images: int) -> list[str]:
    """The names in the rows' order, once every site has enough."""
    numbers = [dealt[row.patient] for row in rows]
    images = Counter(numbers)
    if fewest := [images[site] for site in range(sites) if images[site] < max(1, min_images)]:
        raise InputError(
            f"{rule}: each of {sites} sites must get {max(1, min_images)} images or more, but one got "
            f"{min(fewest)} of {len(rows)} (patients stay whole, there are {len(dealt)}); "
            "try fewer sites or another seed"
        )
    return [f"site_{number + 1}" for number in numbers]
