"""Release criteria of a synthetic set: is it private, is it fit for use? Two verdicts from what its audit measured."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import floor, sqrt
from typing import Literal

Figures = Mapping[str, float]
LEAST_HELD = 20
"""Held-out images of a site below which it does not look for copies."""
LEAST_RATE = 100
"""Held-out images of a site below which no rate at 1 % false alarms is given."""


@dataclass(frozen=True)
class Verdict:
    answer: Literal["yes", "no", "not measured"]
    reasons: tuple[str, ...] = ()
    """Sentences; of "no" and "not measured" at least one."""
    not_measured: tuple[str, ...] = ()
    """What a "yes" does not cover."""


@dataclass(frozen=True)
class Gate:
    """Limits on what sites measured. None is a proof of privacy, and a datasheet has to state them.

    A set that fails by its copies alone can be released without them, as long as they are few in all, in every class
    and of every imitated site: where many are copies, the generator has memorised its images, and copies that were not
    found are no safer.
    """

    most_copies: float = 0.05
    """Part of the images, of all and of each class and imitated site, that may be copies and be dropped; one image of
    a group always may."""
    most_auc: float = 0.6
    """Of membership inference, where 0.5 is guessing; two standard errors of a guess are added."""
    most_tpr: float = 0.1
    """Trained images recognised at 1 % false alarms."""
    most_doubles: float = 0.1
    """Held-out images that are as near to trained ones as copies are: their patients are in both parts."""
    most_repeated: float = 0.1
    """Part of the images that are nearly equal to another one of the set, or of one brightness."""
    least_spread: float = 0.5
    """Of 1 - MS-SSIM of pairs of one class, relative to that of real pairs: below it the generator has collapsed."""
    least_alike: float = 0.5
    """Of precision, recall and coverage, relative to those of as many held-out images, where classes cannot be
    compared. They fall fast with what a classifier hardly minds (a blur of one pixel: coverage 0.26, gain 0.78)."""
    least_alike_by_class: float = 0.1
    """The same where classes are compared: less is a set of few different images, whatever a classifier learns."""
    least_tstr: float = 0.67
    """Of what a classifier of synthetic images gains over guessing, relative to one of as many real images; two
    standard errors are allowed. On brain MRI of 32 x 32 pixels and SimCLR features the parts are: real images 1.0, of
    which 3 in 10 have a random label 0.81, blurred by a pixel 0.78, of a diffusion after a third of the steps of
    docs/results.md 0.64, with noise of 0.5 0.47, blurred by two pixels 0.26, with random labels 0.08."""

    def safe(self, groups: Mapping[str, Mapping[str, int]], sites: Mapping[str, Figures]) -> Verdict:
        """Whether the set may be released as it is, as far as privacy goes.

        Args:
            groups: Numbers of `images`, `copies` among them and images `left_out` before, of `all`, of each `class X`
                and of each imitated `site X`.
            sites: What each site measured, see `fedgen.auditing.audit`.
        """
        against = [*self._copies(groups), *(text for site, told in sites.items() for text in self._of_site(site, told))]
        if not sites:
            against.append("no site compared the set with its images")
        unknown = tuple(text for site, told in sites.items() for text in self._unmeasured(site, told))
        return Verdict("no" if against else "yes", tuple(against), unknown)

    def droppable(self, groups: Mapping[str, Mapping[str, int]]) -> bool:
        """Whether the copies are so few in every group that the set may be released without them."""
        return not self._crowded(groups)

    def useful(self, sites: Mapping[str, Figures], own: Figures, lacking: tuple[str, ...] = ()) -> Verdict:
        """Whether the set is fit to train on.

        Args:
            sites: What each site measured: the quality of what imitates it beside that of its held-out images.
            own: `near_duplicates` and `blank`: parts of the set, which take no real image to measure.
            lacking: Classes that the set should have and has no image of.
        """
        learned = _learned(sites)
        least = self.least_alike_by_class if learned else self.least_alike
        against = [*self._collapsed(sites, own), *self._unlike(sites, least)]
        against += [f"no image is of class {name}" for name in lacking]
        if learned and learned.gain + 2 * learned.error < self.least_tstr * learned.reachable:
            against.append(
                f"a classifier of its images has a balanced accuracy of {learned.tstr:.2f} on held-out images, one of "
                f"as many real images {learned.trtr:.2f}, guessing {learned.guess:.2f}: less than "
                f"{self.least_tstr:.0%} of the gain"
            )
        if against:
            return Verdict("no", tuple(against))
        if not any("precision" in told for told in sites.values()):
            return Verdict("not measured", ("no features were compared; give the audit an encoder by --encoder",))
        if learned is None:
            return Verdict("yes", ("its images are spread as real ones are",), ("classes could not be compared",))
        return Verdict(
            "yes", (f"a classifier of its images reaches {learned.tstr:.2f}, of real ones {learned.trtr:.2f}",)
        )

    def _copies(self, groups: Mapping[str, Mapping[str, int]]) -> Iterator[str]:
        crowded = self._crowded(groups)
        for name, copies, images in crowded[:1] if "all" in [name for name, *_ in crowded] else crowded:
            yield (
                f"{copies} of {images} images{'' if name == 'all' else f' of {name}'} are copies of patients' images, "
                f"more than {self.most_copies:.0%}: the generator has memorised images; train it on more images or "
                "for fewer rounds"
            )
        if not crowded and (copies := groups["all"]["copies"]):
            yield f"{copies} of {groups['all']['images']} images are copies of patients' images (drop them)"

    def _crowded(self, groups: Mapping[str, Mapping[str, int]]) -> list[tuple[str, int, int]]:
        """Name, copies and images of the groups with too many copies, with those that were left out before."""
        counted = [(name, n["copies"] + n["left_out"], n["images"] + n["left_out"]) for name, n in groups.items()]
        return [(name, n, of) for name, n, of in counted if n > max(1, floor(self.most_copies * of + 1e-9))]

    def _of_site(self, site: str, told: Figures) -> Iterator[str]:
        trained, held = int(told["training_images"]), int(told["held_out_images"])
        if "copies_by_pixels" not in told:
            yield (
                f"{site} could not look for copies: it trained on {trained} images and held out {held}, the audit "
                f"needs {LEAST_HELD} held out; before training, give more of its rows the split val or test, or raise "
                "data.test_fraction where the manifest has no column split"
            )
            return
        for view in ("pixels", "features"):
            doubles = told.get(f"held_out_copies_by_{view}", 0.0)
            if doubles > self.most_doubles:
                yield (
                    f"{site}: {doubles:.0%} of its held-out images are doubles of trained ones by {view}, so copies "
                    "cannot be told; split by patient"
                )
        limit = self._auc_limit(trained, held)
        if "membership_auc" not in told or (held >= LEAST_RATE and "membership_tpr" not in told):
            yield f"{site} gave no figure for membership inference; audit the set again"
        elif told["membership_auc"] > limit:
            yield f"{site}: membership is inferred with an AUC of {told['membership_auc']:.2f}, above {limit:.2f}"
        if told.get("membership_tpr", 0.0) > self.most_tpr:
            yield f"{site}: {told['membership_tpr']:.0%} of its trained images are recognised at 1 % false alarms"

    def _unmeasured(self, site: str, told: Figures) -> Iterator[str]:
        trained, held = int(told["training_images"]), int(told["held_out_images"])
        if "copies_by_pixels" not in told:
            return
        if (limit := self._auc_limit(trained, held)) > self.most_auc + 0.1:
            yield f"{site}: membership inference with an AUC below {limit:.2f} ({held} images held out)"
        if "membership_tpr" not in told:
            yield f"{site}: recognition at 1 % false alarms ({held} images held out, {LEAST_RATE} are needed)"

    def _auc_limit(self, trained: int, held: int) -> float:
        """The standard error is that of the Mann-Whitney statistic of a guess."""
        return self.most_auc + 2 * sqrt((trained + held + 1) / (12 * trained * held))

    def _collapsed(self, sites: Mapping[str, Figures], own: Figures) -> Iterator[str]:
        nearly_equal = "nearly equal to another one of the set"
        for name, what in (("blank", "of one brightness"), ("near_duplicates", nearly_equal)):
            if own.get(name, 0.0) > self.most_repeated:
                yield f"{own[name]:.0%} of its images are {what}"
        drawn, real = (_mean(sites, name, "ms_ssim") for name in ("ms_ssim", "real_ms_ssim"))
        if drawn is not None and real is not None and 1 - drawn < self.least_spread * (1 - real):
            yield f"its images are too much alike: MS-SSIM of pairs of a class is {drawn:.2f}, of real pairs {real:.2f}"

    def _unlike(self, sites: Mapping[str, Figures], least: float) -> Iterator[str]:
        for name in ("precision", "recall", "coverage"):
            drawn, held = (_mean(sites, key, f"held_out_{name}") for key in (name, f"held_out_{name}"))
            if drawn is not None and held is not None and drawn < least * held:
                yield f"{name} is {drawn:.2f}, that of as many held-out images {held:.2f}"


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
    """None where it was not measured, or real images themselves teach no more than three standard errors."""
    told = [site for site in sites.values() if {"tstr", "trtr", "tstr_classes", "tstr_images"} <= site.keys()]
    images = sum(site["tstr_images"] for site in told)
    if not images:
        return None
    tstr, trtr = (sum(site[key] * site["tstr_images"] for site in told) / images for key in ("tstr", "trtr"))
    guess = sum(site["tstr_images"] / site["tstr_classes"] for site in told) / images
    learned = _Learned(tstr, trtr, guess, sqrt(guess * (1 - guess) / images))
    return learned if learned.reachable > 3 * learned.error else None


def _mean(sites: Mapping[str, Figures], key: str, targets: str) -> float | None:
    """Over the sites that have both figures, weighted by held-out images; None: none has."""
    both = [told for told in sites.values() if key in told and targets in told]
    weight = sum(told["held_out_images"] for told in both)
    return sum(told[key] * told["held_out_images"] for told in both) / weight if weight else None
