"""Scores of a classifier at every site and pooled, asked through the same border as everything else."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import reduce
from operator import add
from typing import TypeVar

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, Integer
from torch import Tensor

from fedcore.algorithms.base import Visitor
from fedcore.data.dataset import Images, Target
from fedcore.errors import InputError
from fedcore.messages.message import STATISTICS, Contribution, Message, Refusal, Weights
from fedcore.privacy.policy import Policy
from fedcore.site.site import Round, Site
from fedcore.training.local_trainer import LocalTrainer
from fedcore.training.site_state import personal_weights
from fedcore.transport.in_process import InProcess
from fedtune.evaluation.calibration import calibration
from fedtune.evaluation.counts import Cells, Counts, cells, cells_of_findings, withheld
from fedtune.evaluation.intervals import bound, design_effects, proportion, slopes
from fedtune.evaluation.patients import by_patient
from fedtune.evaluation.scores import Score, finding

Sent = TypeVar("Sent", bound=Message)
Table = dict[str, dict[str, Score]]
POOLED = "pooled"


MORE_TESTS = (
    "give more rows of the manifest the split 'test' (where it has no column 'split', raise data.test_fraction; of "
    "phantom hospitals, data.phantom.images_per_site)"
)
"""How to have more to measure on: each way helps in one case alone."""


@dataclass(frozen=True)
class SiteCounts(Message):
    """What a site sends: counts, without the classes of which it has fewer than `policy.min_patients` patients."""

    counts: Counts
    design: Float[Tensor, "s"] = field(metadata=STATISTICS)
    """A design effect for each of `fedtune.evaluation.scores.measures`, in their order, to two digits."""
    patients: Int[Tensor, ""] = field(metadata=STATISTICS)
    """Who were counted; 0: the site has too few of every class, and all counts are 0."""
    withheld: Bool[Tensor, " k"] = field(metadata=STATISTICS)
    """The classes that are left out since they are of too few."""


@dataclass(frozen=True)
class Evaluate:
    """Asks a site how the classifier does on its test images; its personal one where it has one."""

    batch: int = 256
    grades: Sequence[int] = ()
    """Places of the classes from the least grade to the greatest, where they are grades."""
    patients: bool = False
    """Count patients instead of images (`fedtune.evaluation.patients`)."""

    def visit(self, site: Site, down: Weights, local: LocalTrainer, turn: Round) -> Contribution[SiteCounts]:
        local.load(down.tensors | personal_weights(site.memory))
        assert site.test is not None, "only sites with test images are asked"
        truth, owner = _truth(site.test, _kind(local)), torch.from_numpy(site.test.patients)
        with local.measuring() as device:
            logits = _predict(local, site.test, self.batch, device)
        images = owner
        if self.patients:
            logits, truth, owner = by_patient(logits, truth, owner)
        few = withheld(truth, owner, logits.shape[1], site.policy.min_patients)
        counted, kept = _counted(logits, truth, few)
        owner = owner[kept]
        effects = torch.tensor(design_effects(counted, owner, self.grades))
        message = SiteCounts(counted.count(), effects, torch.tensor(len(owner.unique())), few)
        return Contribution(site.name, message, int(torch.isin(images, owner).sum() if self.patients else kept.sum()))


@dataclass(frozen=True)
class Evaluation:
    """What sites counted, by site and last of all sites together under POOLED."""

    table: Table
    findings: dict[str, list[Score]]
    """AUROC of each finding; empty where an image is of one class."""
    counts: dict[str, Counts]
    images: dict[str, int]
    """Test images that were counted."""
    patients: dict[str, int]
    """Whose they are."""
    withheld: dict[str, tuple[int, ...]]
    """Classes that a site left out, since it has fewer than `least` patients of them; of findings also those that
    fewer do not have."""
    least: int
    by_patient: bool = False
    """Whether patients were counted instead of images."""


def evaluate(transport: InProcess, seed: int, grades: Sequence[int] = (), by_patient: bool = False) -> Evaluation:
    """Scores of the module that `transport.local` holds, per site and pooled.

    Args:
        transport: The sites.
        seed: Of the round in which they are asked.
        grades: Places of the classes from the least grade to the greatest, where they are grades: agreement is scored
            too.
        by_patient: Count patients instead of images.

    Raises:
        InputError: No site has labelled test images of enough patients, or a site may not send its counts.
    """
    given = answers(transport, Evaluate(grades=grades, patients=by_patient), seed)
    told = {a.site: a.message for a in given if a.message.patients}
    if not told:
        raise too_few(transport.policy, " of a class")
    empty = {a.site: a.message for a in given if not a.message.patients}
    rows = {site: scored([message], grades) for site, message in (told | empty).items()}
    rows |= {POOLED: scored(list(told.values()), grades)}
    counts = {a.site: a.message.counts for a in given}
    counts[POOLED] = reduce(add, counts.values())
    images, patients = {a.site: a.examples for a in given}, {a.site: int(a.message.patients) for a in given}
    names = [finding(k) for k in range(len(counts[POOLED].histogram))] if counts[POOLED].several else []
    return Evaluation(
        {site: {name: score for name, score in rows[site].items() if name not in names} for site in counts},
        {site: [rows[site][name] for name in names] for site in counts},
        counts, images | {POOLED: sum(images.values())}, patients | {POOLED: sum(patients.values())},
        {a.site: tuple(a.message.withheld.nonzero().flatten().tolist()) for a in given}, transport.policy.min_patients,
        by_patient,
    )  # fmt: skip


def scored(sites: Sequence[SiteCounts], grades: Sequence[int] = ()) -> dict[str, Score]:
    """The measures of all these sites together, with 95 % intervals; variances of sites are added."""
    total, patients = reduce(add, (site.counts for site in sites)), sum(int(site.patients) for site in sites)
    found = {}
    for at, (name, (value, by_cell)) in enumerate(slopes(total, grades).items()):
        design = [float(site.design[at]) for site in sites]
        variance = sum(d * bound(site.counts, by_cell) for d, site in zip(design, sites, strict=True))
        answered = sum(site.counts.images / d for d, site in zip(design, sites, strict=True))
        found[name] = proportion(value, variance, answered, patients, -1.0 if name.startswith("kappa") else 0.0)
    return found | calibration(total.reliability)


def answers(transport: InProcess, visitor: Visitor[Weights, Sent], seed: int) -> list[Contribution[Sent]]:
    """What every site that has test images says of the module that `transport.local` holds; raises as `evaluate`."""
    require_tests(transport.test, transport.policy)
    weights = Weights(transport.local.shared())
    asked = dataclasses.replace(transport, train=transport.test)  # a site may have test images only
    found = list(asked.ask(visitor, ((name, weights) for name in asked.names()), Round(0, 1, seed)))
    transport.local.load(weights.tensors)  # a site's personal model was in their place
    for refusal in found:
        if isinstance(refusal, Refusal):
            raise InputError(f"{refusal.site} could not be evaluated: {refusal.reason}") from refusal.cause
    return [a for a in found if not isinstance(a, Refusal)]


def require_countable(policy: Policy) -> None:
    """Raises InputError, before anything is trained, if sites may not send what scores are made of."""
    try:
        policy.foresee(SiteCounts)
    except InputError as e:
        raise InputError(f"no score could be computed: {e}") from e


def require_tests(tests: Mapping[str, Images], policy: Policy, what: str = "labelled test images") -> None:
    """Raises InputError if no site has them, or none of enough patients."""
    if not tests:
        raise InputError(f"no site has {what}; {MORE_TESTS}")
    if max(len(np.unique(images.patients)) for images in tests.values()) < policy.min_patients:
        raise too_few(policy)


def require_classes(tests: Mapping[str, Images], kind: Target, k: int, policy: Policy) -> None:
    """Raises InputError, before anything is trained, if every site would withhold every class."""
    for images in tests.values():
        truth, patients = _truth(images, kind), torch.from_numpy(images.patients)
        few = withheld(truth, patients, k, policy.min_patients)
        if not few.all() and len(_counted(torch.zeros(len(truth), k), truth, few)[1].nonzero()):
            return
    raise too_few(policy, " of a class")


def too_few(policy: Policy, of: str = "") -> InputError:
    return InputError(
        f"no site has {policy.min_patients} test patients{of}, so none sends a score; {MORE_TESTS}; or lower "
        "policy.min_patients if the sites agree"
    )


def _kind(local: LocalTrainer) -> Target:
    kind: Target = getattr(local.module, "targets", "labels")
    return kind


def _truth(images: Images, kind: Target) -> Tensor:
    return images.targets(kind, range(len(images)))


def _counted(
    logits: Float[Tensor, "n k"], truth: Integer[Tensor, "n *several"], few: Bool[Tensor, " k"]
) -> tuple[Cells, Bool[Tensor, " n"]]:
    """The cells of what is counted, and which rows these are: all where one finding of them is counted."""
    if truth.dim() == 2:
        kept = torch.full((len(truth),), not bool(few.all()))
        return cells_of_findings(logits[kept], truth[kept], few), kept
    kept = ~few[truth]
    return cells(logits[kept], truth[kept]), kept


def _predict(local: LocalTrainer, images: Images, batch: int, device: torch.device) -> Float[Tensor, "n k"]:
    parts = torch.arange(len(images)).split(batch)
    return torch.cat([local.module(images.batch(part, device)).float().cpu() for part in parts])
