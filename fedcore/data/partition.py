"""Partitions: the patients of one data set are assigned to simulated sites, to study the effect of skew."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np

from fedcore.data.manifest.manifest import SPLITS
from fedcore.data.manifest.row import Row
from fedcore.errors import InputError


@runtime_checkable
class Partition(Protocol):
    """Assigns a site to every row.

    All rows of a patient get one site. Equal rows and seeds give equal sites. No site is empty.
    """

    def __call__(self, rows: Sequence[Row], seed: int) -> list[str]: ...


@dataclass(frozen=True)
class ByColumn:
    """The sites of the manifest, unchanged."""

    def __call__(self, rows: Sequence[Row], seed: int) -> list[str]:
        return [row.site for row in rows]


@dataclass(frozen=True)
class Pooled:
    """One site with all images: the centralised baseline, which a federation cannot have."""

    def __call__(self, rows: Sequence[Row], seed: int) -> list[str]:
        return ["all"] * len(rows)


@dataclass(frozen=True)
class Dirichlet:
    """Label skew by a Dirichlet prior (Hsu et al. 2019, arXiv 1909.06335).

    Site k has the class distribution q_k ~ Dirichlet(alpha p), where p is that of the patients. The sites take turns:
    each draws a class from its q_k, then a patient of that class, so that all sites get equally many patients. When a
    class has no patient left, q_k is renormalised over the others. A patient has the most frequent label of its
    images; patients without a label are a class. Train, val and test are assigned with the same q_k.
    """

    alpha: float = 0.5
    """Small: one or two classes per site; 100: equal distributions."""
    sites: int = 4
    min_images: int = 10
    """Fewer images at any site raise an InputError."""

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
        site_of: dict[str, int] = {}
        for patients in _by_split(rows, rng):
            by_class = [[patient for patient in patients if label_of[patient] == name] for name in classes]
            site_of |= _take_turns(by_class, mixes, rng)
        return _names("Dirichlet", rows, site_of, self.sites, self.min_images)


@dataclass(frozen=True)
class Quantity:
    """Skew of size: the fractions of the patients at the sites are sampled from Dirichlet(beta)."""

    sites: int = 4
    beta: float = 0.5
    """Small: one site has nearly all patients; 100: equal sizes."""

    def __call__(self, rows: Sequence[Row], seed: int) -> list[str]:
        if self.beta <= 0:
            raise InputError(f"Quantity: beta must be positive, got {self.beta}")
        _require_sites("Quantity", self.sites)
        rng = np.random.default_rng(seed)
        fractions = rng.dirichlet([self.beta] * self.sites)
        site_of: dict[str, int] = {}
        for patients in _by_split(rows, rng):
            sizes = _rounded_counts(fractions, len(patients))
            site_of |= zip(patients, np.repeat(np.arange(self.sites), sizes).tolist(), strict=True)
        return _names("Quantity", rows, site_of, self.sites, min_images=1)


def _require_sites(rule: str, sites: int) -> None:
    if sites < 1:
        raise InputError(f"{rule}: sites must be at least 1, got {sites}")


def _labels(rows: Sequence[Row]) -> dict[str, str]:
    """Each patient's most frequent label (of equally frequent ones the first in the alphabet); '' without a label."""
    seen: dict[str, Counter[str]] = defaultdict(Counter)
    for row in rows:
        seen[row.patient][row.label or ""] += 1
    return {patient: min(labels, key=lambda name: (-labels[name], name)) for patient, labels in seen.items()}


def _by_split(rows: Sequence[Row], rng: np.random.Generator) -> list[list[str]]:
    """The patients of each split, shuffled."""
    splits = dict.fromkeys(SPLITS.values())
    groups = [sorted({row.patient for row in rows if row.split == split}) for split in splits]
    return [[group[at] for at in rng.permutation(len(group))] for group in groups if group]


def _take_turns(by_class: list[list[str]], mixes: np.ndarray, rng: np.random.Generator) -> dict[str, int]:
    """Sites draw one patient at a time, of a class drawn from their distribution, until none is left."""
    site_of = {}
    left = np.array([len(patients) for patients in by_class])
    turns = rng.permutation(len(mixes))
    for turn in range(left.sum()):
        site = int(turns[turn % len(turns)])
        odds = mixes[site] * (left > 0)
        if odds.sum() <= 1e-12:  # no patient is left of the site's classes
            odds = left.astype(float)
        k = rng.choice(len(by_class), p=odds / odds.sum())
        left[k] -= 1
        site_of[by_class[k].pop()] = site
    return site_of


def _rounded_counts(fractions: np.ndarray, count: int) -> np.ndarray:
    """Whole numbers of sum `count` nearest to the fractions of it, none zero if `count` allows."""
    least = int(count >= len(fractions))
    exact = fractions * (count - least * len(fractions))
    sizes = np.floor(exact).astype(int)
    largest_rest = np.argsort(sizes - exact, kind="stable")[: count - least * len(fractions) - sizes.sum()]
    sizes[largest_rest] += 1
    return np.asarray(sizes + least)


def _names(rule: str, rows: Sequence[Row], site_of: dict[str, int], sites: int, min_images: int) -> list[str]:
    """The site names in the order of the rows; raises InputError where a site has too few images."""
    numbers = [site_of[row.patient] for row in rows]
    images = Counter(numbers)
    if fewest := [images[site] for site in range(sites) if images[site] < max(1, min_images)]:
        raise InputError(
            f"{rule}: each of {sites} sites must get {max(1, min_images)} images or more, but one got "
            f"{min(fewest)} of {len(rows)} (all images of a patient stay at one site, there are {len(site_of)} "
            "patients); try fewer sites or another seed"
        )
    return [f"site_{number + 1}" for number in numbers]
