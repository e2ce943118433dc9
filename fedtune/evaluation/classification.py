"""Scores of a classifier at every site and pooled, from counts that sites send under their policies."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import reduce
from operator import add
from typing import TypeVar

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, Integer
from torch import Tensor

from fedcore.data.dataset import Images, Target
from fedcore.errors import InputError
from fedcore.messages.answer import Contribution
from fedcore.messages.message import Message, Weights
from fedcore.messages.request import EVALUATE
from fedcore.messages.reveals import STATISTICS
from fedcore.messages.round import Round
from fedcore.messages.tensors import Tensors
from fedcore.privacy.policy import Policy
from fedcore.server.sites import Sites
from fedcore.site.site import Site
from fedcore.training.local_trainer import LocalTrainer
from fedcore.training.site_state import personal_weights
from fedtune.evaluation.calibration import calibration_error
from fedtune.evaluation.counts import CellIndices, Counts, cell_indices, multilabel_cell_indices, withheld_classes
from fedtune.evaluation.intervals import design_effects, score_gradients, variance_bound, wilson_interval
from fedtune.evaluation.patients import average_by_patient
from fedtune.evaluation.scores import Score, finding_auroc

Sent = TypeVar("Sent", bound=Message)
Table = dict[str, dict[str, Score]]
"""Scores by site and name."""
POOLED = "pooled"


MORE_TESTS = (
    "give more rows of the manifest the split 'test' (where it has no column 'split', raise data.test_fraction; for "
    "simulated hospitals, data.phantom.images_per_site)"
)
"""Advice for more test images: each way helps in one case only."""


@dataclass(frozen=True)
class SiteCounts(Message):
    """Counts of a site, without the classes of which it has fewer than `policy.min_patients` patients."""

    counts: Counts
    design_effects: Float[Tensor, "s"] = field(metadata=STATISTICS)
    """One for each of `fedtune.evaluation.scores.compute_scores`, in their order, to two digits."""
    patients: Int[Tensor, ""] = field(metadata=STATISTICS)
    """Number of counted patients; 0: the site has too few of every class, and all counts are 0."""
    withheld: Bool[Tensor, " k"] = field(metadata=STATISTICS)
    """The classes that are not counted because of too few patients."""


@dataclass(frozen=True)
class EvaluateClassifier:
    """Counts the predictions on a site's test images, by the site's personal classifier if it has one."""

    batch: int = 256
    grades: Sequence[int] = ()
    """Indices of the classes in order of their grades, if they are grades."""
    per_patient: bool = False
    """Count patients instead of images (`fedtune.evaluation.patients`)."""

    def visit(self, site: Site, down: Weights, local: LocalTrainer, turn: Round) -> Contribution[SiteCounts]:
        local.load(down.tensors | personal_weights(site.memory))
        assert site.test is not None, "only sites with test images are visited"
        truth, patients = _truth(site.test, _target(local)), torch.from_numpy(site.test.patients)
        with local.measuring() as device:
            logits = _predict(local, site.test, self.batch, device)
        of_images = patients
        if self.per_patient:
            logits, truth, patients = average_by_patient(logits, truth, patients)
        withheld = withheld_classes(truth, patients, logits.shape[1], site.policy.min_patients)
        cells, counted = _cells(logits, truth, withheld)
        patients = patients[counted]
        effects = torch.tensor(design_effects(cells, patients, self.grades))
        message = SiteCounts(cells.count(), effects, torch.tensor(len(patients.unique())), withheld)
        images = torch.isin(of_images, patients).sum() if self.per_patient else counted.sum()
        return Contribution(site.name, message, int(images))


@dataclass(frozen=True)
class ClassificationScores:
    """Scores and counts, by site and last of all sites together under POOLED."""

    table: Table
    findings: dict[str, list[Score]]
    """AUROC of each finding; empty for one class per image."""
    counts: dict[str, Counts]
    images: dict[str, int]
    """Counted test images."""
    patients: dict[str, int]
    """Their patients."""
    withheld: dict[str, tuple[int, ...]]
    """Classes that a site did not count because it has fewer than `min_patients` patients of them; for findings also
    those that fewer patients do not have."""
    min_patients: int
    per_patient: bool = False
    """Whether patients were counted instead of images."""


def evaluate_classifier(
    sites: Sites, weights: Tensors, seed: int, policy: Policy, grades: Sequence[int] = (), per_patient: bool = False
) -> ClassificationScores:
    """Scores of a classifier, per site and pooled.

    Args:
        sites: The sites, which know the word `evaluate` (`EvaluateClassifier`).
        weights: Of the classifier.
        seed: Seed of the evaluation round.
        policy: The policy whose `min_patients` the notes name.
        grades: Indices of the classes in order of their grades, if they are grades: kappa is computed too.
        per_patient: Patients were counted instead of images.

    Raises:
        InputError: No site has labelled test images of enough patients, or a site's policy forbids sending counts.
    """
    results = evaluate_sites(sites, weights, seed, SiteCounts)
    scored = {r.site: r.message for r in results if r.message.patients}
    if not scored:
        raise too_few(policy, " of a class")
    empty = {r.site: r.message for r in results if not r.message.patients}
    rows = {site: score_sites([message], grades) for site, message in (scored | empty).items()}
    rows |= {POOLED: score_sites(list(scored.values()), grades)}
    counts = {r.site: r.message.counts for r in results}
    counts[POOLED] = reduce(add, counts.values())
    images, patients = {r.site: r.examples for r in results}, {r.site: int(r.message.patients) for r in results}
    names = [finding_auroc(k) for k in range(len(counts[POOLED].histogram))] if counts[POOLED].multilabel else []
    return ClassificationScores(
        {site: {name: score for name, score in rows[site].items() if name not in names} for site in counts},
        {site: [rows[site][name] for name in names] for site in counts},
        counts, images | {POOLED: sum(images.values())}, patients | {POOLED: sum(patients.values())},
        {r.site: tuple(r.message.withheld.nonzero().flatten().tolist()) for r in results},
        policy.min_patients, per_patient,
    )  # fmt: skip


def score_sites(sites: Sequence[SiteCounts], grades: Sequence[int] = ()) -> dict[str, Score]:
    """The scores of all these sites together, with 95 % intervals; variances of sites are added."""
    total, patients = reduce(add, (site.counts for site in sites)), sum(int(site.patients) for site in sites)
    found = {}
    for at, (name, (value, gradients)) in enumerate(score_gradients(total, grades).items()):
        effects = [float(site.design_effects[at]) for site in sites]
        variance = sum(d * variance_bound(site.counts, gradients) for d, site in zip(effects, sites, strict=True))
        trials = sum(site.counts.images / d for d, site in zip(effects, sites, strict=True))
        found[name] = wilson_interval(value, variance, trials, patients, -1.0 if name.startswith("kappa") else 0.0)
    return found | calibration_error(total.reliability)


def evaluate_sites(sites: Sites, weights: Tensors, seed: int, kind: type[Sent]) -> list[Contribution[Sent]]:
    """The contributions of all sites with test images.

    Raises:
        InputError: A site declined, or sent something else than `kind`.
    """
    return sites.query_all(EVALUATE, Weights(weights), sites.testing, Round(0, 1, seed), kind, "evaluated")


def require_counts_allowed(policy: Policy) -> None:
    """Raises InputError, before training, if the policy forbids sending counts."""
    try:
        policy.foresee(SiteCounts)
    except InputError as e:
        raise InputError(f"no score could be computed: {e}") from e


def require_tests(tests: Mapping[str, Images], policy: Policy, what: str = "labelled test images") -> None:
    """Raises InputError if no site has test images, or none of enough patients."""
    if not tests:
        raise InputError(f"no site has {what}; {MORE_TESTS}")
    if max(len(np.unique(images.patients)) for images in tests.values()) < policy.min_patients:
        raise too_few(policy)


def require_classes(tests: Mapping[str, Images], target: Target, k: int, policy: Policy) -> None:
    """Raises InputError, before training, if every site would withhold every class."""
    for images in tests.values():
        truth, patients = _truth(images, target), torch.from_numpy(images.patients)
        withheld = withheld_classes(truth, patients, k, policy.min_patients)
        if not withheld.all() and len(_cells(torch.zeros(len(truth), k), truth, withheld)[1].nonzero()):
            return
    raise too_few(policy, " of a class")


def too_few(policy: Policy, of: str = "") -> InputError:
    return InputError(
        f"no site has {policy.min_patients} test patients{of}, so no site sends a score; {MORE_TESTS}; or lower "
        "policy.min_patients if the sites agree"
    )


def _target(local: LocalTrainer) -> Target:
    target: Target = getattr(local.module, "targets", "labels")
    return target


def _truth(images: Images, target: Target) -> Tensor:
    return images.targets(target, range(len(images)))


def _cells(
    logits: Float[Tensor, "n k"], truth: Integer[Tensor, "n *findings"], withheld: Bool[Tensor, " k"]
) -> tuple[CellIndices, Bool[Tensor, " n"]]:
    """The cells of the counted rows, and which rows are counted: for findings all, if one finding is counted."""
    if truth.dim() == 2:
        counted = torch.full((len(truth),), not bool(withheld.all()))
        return multilabel_cell_indices(logits[counted], truth[counted], withheld), counted
    counted = ~withheld[truth]
    return cell_indices(logits[counted], truth[counted]), counted


def _predict(local: LocalTrainer, images: Images, batch: int, device: torch.device) -> Float[Tensor, "n k"]:
    parts = torch.arange(len(images)).split(batch)
    return torch.cat([local.module(images.batch(part, device)).float().cpu() for part in parts])
