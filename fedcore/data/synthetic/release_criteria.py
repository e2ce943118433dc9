"""Release criteria of a synthetic set: verdicts on privacy and on fitness for use, from the figures of its audit."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import floor, sqrt
from typing import Literal

Figures = Mapping[str, float]
MIN_HELD_OUT = 20
"""Held-out images that a site needs to search for copies."""
MIN_HELD_OUT_FOR_TPR = 100
"""Held-out images that a site needs for a true positive rate at 1 % false positives."""


@dataclass(frozen=True)
class Verdict:
    answer: Literal["yes", "no", "not measured"]
    reasons: tuple[str, ...] = ()
    """Sentences; at least one for "no" and "not measured"."""
    not_measured: tuple[str, ...] = ()
    """What a "yes" does not cover."""


@dataclass(frozen=True)
class ReleaseCriteria:
    """Limits on the figures of the sites. None of them proves privacy, and a datasheet has to state them.

    A set that fails only by its copies can be released without them, if they are few in total, in every class and for
    every site whose style was requested. Many copies mean that the generator has memorised its images; copies that
    were not found are then as unsafe.
    """

    max_copies: float = 0.05
    """Fraction of all images, of each class and of each requested site, that may be copies and be dropped; one image
    per group is always allowed."""
    max_auc: float = 0.6
    """Of membership inference, where 0.5 is guessing; two standard errors of a guess are added."""
    max_tpr: float = 0.1
    """Of membership inference: true positive rate at 1 % false positives."""
    max_doubles: float = 0.1
    """Fraction of held-out images that are as close to training images as copies are: their patients are in both."""
    max_repeated: float = 0.1
    """Fraction of images that are nearly equal to another one of the set, or of constant brightness."""
    min_diversity: float = 0.5
    """Of 1 - MS-SSIM of pairs within a class, relative to that of real pairs: below it the generator has collapsed."""
    min_coverage: float = 0.5
    """Of precision, recall and coverage, relative to those of as many held-out images, where classes cannot be
    compared. They fall quickly with changes that hardly affect a classifier (a blur of one pixel: coverage 0.26, gain
    0.78)."""
    min_coverage_with_classes: float = 0.1
    """The same where classes are compared: below it the set has few different images, whatever a classifier learns."""
    min_tstr: float = 0.67
    """Of what a classifier trained on synthetic images gains over guessing, relative to one trained on as many real
    images; two standard errors are allowed. On brain MRI of 32 x 32 pixels and SimCLR features these are: real images
    1.0; with random labels for 3 in 10 0.81; blurred by one pixel 0.78; of a diffusion model after a third of the
    steps of docs/results.md 0.64; with noise of 0.5 0.47; blurred by two pixels 0.26; with random labels 0.08."""

    def safe(self, groups: Mapping[str, Mapping[str, int]], sites: Mapping[str, Figures]) -> Verdict:
        """Whether the set may be released as it is, as far as privacy is concerned.

        Args:
            groups: Numbers of `images`, of `copies` among them and of images `left_out` before, for `all`, each
                `class X` and each requested `site X`.
            sites: The figures of each site, see `fedgen.auditing.audit`.
        """
        against = [*self._copies(groups), *(text for site, own in sites.items() for text in self._of_site(site, own))]
        if not sites:
            against.append("no site compared the set with its images")
        unknown = tuple(text for site, own in sites.items() for text in self._unmeasured(site, own))
        return Verdict("no" if against else "yes", tuple(against), unknown)

    def droppable(self, groups: Mapping[str, Mapping[str, int]]) -> bool:
        """Whether the copies are so few in every group that the set may be released without them."""
        return not self._groups_over_limit(groups)

    def useful(self, sites: Mapping[str, Figures], of_set: Figures, missing_classes: tuple[str, ...] = ()) -> Verdict:
        """Whether the set is fit to train on.

        Args:
            sites: The figures of each site: the quality of the images in its style, and that of its held-out images.
            of_set: `near_duplicates` and `blank`: fractions of the set, measured without real images.
            missing_classes: Requested classes of which the set has no image.
        """
        learned = _learned(sites)
        least = self.min_coverage_with_classes if learned else self.min_coverage
        against = [*self._collapsed(sites, of_set), *self._low_coverage(sites, least)]
        against += [f"no image is of class {name}" for name in missing_classes]
        if learned and learned.gain + 2 * learned.error < self.min_tstr * learned.reachable:
            against.append(
                f"a classifier trained on its images has a balanced accuracy of {learned.tstr:.2f} on held-out images, "
                f"one trained on as many real images {learned.trtr:.2f}, guessing {learned.guess:.2f}: the gain over "
                f"guessing is less than {self.min_tstr:.0%} of that with real images"
            )
        if against:
            return Verdict("no", tuple(against))
        if not any("precision" in own for own in sites.values()):
            return Verdict("not measured", ("no features were compared; give the audit an encoder with --encoder",))
        if learned is None:
            return Verdict("yes", ("its images are as diverse as real ones",), ("classes could not be compared",))
        return Verdict(
            "yes",
            (f"a classifier trained on its images reaches {learned.tstr:.2f}, one on real images {learned.trtr:.2f}",),
        )

    def _copies(self, groups: Mapping[str, Mapping[str, int]]) -> Iterator[str]:
        over = self._groups_over_limit(groups)
        for name, copies, images in over[:1] if "all" in [name for name, *_ in over] else over:
            yield (
                f"{copies} of {images} images{'' if name == 'all' else f' of {name}'} are copies of patients' images, "
                f"more than {self.max_copies:.0%}: the generator has memorised images; train it on more images or "
                "for fewer rounds"
            )
        if not over and (copies := groups["all"]["copies"]):
            yield f"{copies} of {groups['all']['images']} images are copies of patients' images (drop them)"

    def _groups_over_limit(self, groups: Mapping[str, Mapping[str, int]]) -> list[tuple[str, int, int]]:
        """Name, copies and images of groups with too many copies, including images that were left out before."""
        counted = [(name, n["copies"] + n["left_out"], n["images"] + n["left_out"]) for name, n in groups.items()]
        return [(name, n, of) for name, n, of in counted if n > max(1, floor(self.max_copies * of + 1e-9))]

    def _of_site(self, site: str, figures: Figures) -> Iterator[str]:
        trained, held_out = int(figures["training_images"]), int(figures["held_out_images"])
        if "copies_by_pixels" not in figures:
            yield (
                f"{site} could not search for copies: it trained on {trained} images and held out {held_out}, the "
                f"audit needs {MIN_HELD_OUT} held out; before training, give more of its rows the split val or test, "
                "or raise data.test_fraction if the manifest has no column split"
            )
            return
        for view in ("pixels", "features"):
            doubles = figures.get(f"held_out_copies_by_{view}", 0.0)
            if doubles > self.max_doubles:
                yield (
                    f"{site}: {doubles:.0%} of its held-out images are near-duplicates of training images by {view}, "
                    "so copies cannot be detected; split by patient"
                )
        limit = self._auc_limit(trained, held_out)
        if "membership_auc" not in figures or (held_out >= MIN_HELD_OUT_FOR_TPR and "membership_tpr" not in figures):
            yield f"{site} sent no result of membership inference; audit the set again"
        elif figures["membership_auc"] > limit:
            yield f"{site}: membership inference has an AUC of {figures['membership_auc']:.2f}, above {limit:.2f}"
        if figures.get("membership_tpr", 0.0) > self.max_tpr:
            yield (
                f"{site}: membership inference finds {figures['membership_tpr']:.0%} of its training images at 1 % "
                f"false positives, more than {self.max_tpr:.0%}"
            )

    def _unmeasured(self, site: str, figures: Figures) -> Iterator[str]:
        trained, held_out = int(figures["training_images"]), int(figures["held_out_images"])
        if "copies_by_pixels" not in figures:
            return
        if (limit := self._auc_limit(trained, held_out)) > self.max_auc + 0.1:
            yield f"{site}: membership inference with an AUC below {limit:.2f} ({held_out} images held out)"
        if "membership_tpr" not in figures:
            yield (
                f"{site}: membership inference at 1 % false positives ({held_out} images held out, "
                f"{MIN_HELD_OUT_FOR_TPR} are needed)"
            )

    def _auc_limit(self, trained: int, held_out: int) -> float:
        """The standard error is that of the Mann-Whitney statistic of a guess."""
        return self.max_auc + 2 * sqrt((trained + held_out + 1) / (12 * trained * held_out))

    def _collapsed(self, sites: Mapping[str, Figures], of_set: Figures) -> Iterator[str]:
        for name, what in (("blank", "blank"), ("near_duplicates", "nearly equal to another one of the set")):
            if of_set.get(name, 0.0) > self.max_repeated:
                yield f"{of_set[name]:.0%} of its images are {what}"
        synthetic, real = (_mean(sites, name, "ms_ssim") for name in ("ms_ssim", "real_ms_ssim"))
        if synthetic is not None and real is not None and 1 - synthetic < self.min_diversity * (1 - real):
            yield (
                f"its images are too similar: MS-SSIM of pairs of a class is {synthetic:.2f}, of real pairs {real:.2f}"
            )

    def _low_coverage(self, sites: Mapping[str, Figures], least: float) -> Iterator[str]:
        for name in ("precision", "recall", "coverage"):
            synthetic, held_out = (_mean(sites, key, f"held_out_{name}") for key in (name, f"held_out_{name}"))
            if synthetic is not None and held_out is not None and synthetic < least * held_out:
                yield f"{name} is {synthetic:.2f}, that of as many held-out images {held_out:.2f}"


@dataclass(frozen=True)
class _Learned:
    """Balanced accuracies on held-out images over all sites, see `fedgen.auditing.tstr`."""

    tstr: float
    trtr: float
    guess: float
    error: float
    """Standard error of a guess."""

    @property
    def gain(self) -> float:
        return self.tstr - self.guess

    @property
    def reachable(self) -> float:
        return self.trtr - self.guess


def _learned(sites: Mapping[str, Figures]) -> _Learned | None:
    """None if it was not measured, or if real images themselves gain at most three standard errors."""
    measured = [site for site in sites.values() if {"tstr", "trtr", "tstr_classes", "tstr_images"} <= site.keys()]
    images = sum(site["tstr_images"] for site in measured)
    if not images:
        return None
    tstr, trtr = (sum(site[key] * site["tstr_images"] for site in measured) / images for key in ("tstr", "trtr"))
    guess = sum(site["tstr_images"] / site["tstr_classes"] for site in measured) / images
    learned = _Learned(tstr, trtr, guess, sqrt(guess * (1 - guess) / images))
    return learned if learned.reachable > 3 * learned.error else None


def _mean(sites: Mapping[str, Figures], key: str, other: str) -> float | None:
    """Over the sites that have both figures, weighted by held-out images; None if no site has."""
    both = [figures for figures in sites.values() if key in figures and other in figures]
    weight = sum(figures["held_out_images"] for figures in both)
    return sum(figures[key] * figures["held_out_images"] for figures in both) / weight if weight else None
