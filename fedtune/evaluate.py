"""Scores of a classifier at every site and pooled, asked through the same border as everything else."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import reduce
from operator import add
from typing import TypeVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from fedcore.algorithm import Visitor
from fedcore.data.images import Beside, Images
from fedcore.errors import InputError, Refused
from fedcore.local import LocalTrainer, personal
from fedcore.message import STATISTICS, Contribution, Message, Refusal, Weights
from fedcore.policy import Policy
from fedcore.site import Round, Site
from fedcore.transport import InProcess
from fedtune.calibration import calibration
from fedtune.counts import Counts, count, count_findings
from fedtune.kappa import kappas
from fedtune.patients import by_patient
from fedtune.scores import Score, exact, exact_findings, scores

Sent = TypeVar("Sent", bound=Message)
Table = dict[str, dict[str, Score]]
POOLED = "pooled"


@dataclass(frozen=True)
class SiteCounts(Message):
    """What a site sends: counts of itself and of its bootstrap draws (see `fedtune.counts`)."""

    confusion: Int[Tensor, "r k *cells"] = field(metadata=STATISTICS)
    histogram: Int[Tensor, "r k 2 b"] = field(metadata=STATISTICS)
    reliability: Int[Tensor, "2 f"] = field(metadata=STATISTICS)


@dataclass(frozen=True)
class Evaluate:
    """Asks a site how the classifier does on its test images; its personal one where it has one."""

    draws: int = 200
    """Bootstrap draws of patients for the 95 % intervals."""
    batch: int = 256
    patients: bool = False
    """Count patients instead of images (`fedtune.patients`)."""

    def visit(self, site: Site, down: Weights, local: LocalTrainer, turn: Round) -> Contribution[SiteCounts]:
        local.load(down.tensors | personal(site.memory))
        assert site.test is not None, "only sites with test images are asked"
        kind: Beside = getattr(local.module, "beside", "labels")
        with local.measuring() as device:
            logits = _predict(local, site.test, self.batch, device)
        answers = logits, site.test.beside(kind, range(len(site.test))), torch.from_numpy(site.test.patients)
        logits, truth, patients = by_patient(*answers) if self.patients else answers
        counting, exactly = (count, exact) if kind == "labels" else (count_findings, exact_findings)
        counted = counting(logits, truth, patients, self.draws, turn.seed_of(site.name, "bootstrap"))
        message = SiteCounts(counted.confusion.int(), counted.histogram.int(), counted.reliability.int())
        known = {name: v for name, v in exactly(logits, truth).items() if not math.isnan(v)}
        return Contribution(site.name, message, len(site.test), known)


@dataclass(frozen=True)
class Evaluation:
    """What sites counted, by site and last of all sites together under POOLED."""

    table: Table
    images: dict[str, int]
    """Test images."""
    counts: dict[str, Counts]
    patients: bool = False
    """Whether patients were counted instead of images."""


def evaluate(
    transport: InProcess, seed: int, draws: int = 200, grades: Sequence[int] = (), patients: bool = False
) -> Evaluation:
    """Scores of the module that `transport.local` holds, per site and pooled.

    Args:
        transport: The sites.
        seed: Of the bootstrap.
        draws: Of the bootstrap.
        grades: Places of the classes from the least grade to the greatest, where they are grades: agreement is scored
            too.
        patients: Count patients instead of images.

    Raises:
        InputError: No site has labelled test images, or a site may not send its counts.
    """
    given = answers(transport, Evaluate(draws, patients=patients), seed)
    counts = {a.site: _counts(a.message) for a in given}
    counts[POOLED] = reduce(add, counts.values())
    images = {a.site: a.examples for a in given} | {POOLED: sum(a.examples for a in given)}
    table = {site: scored(c, grades) for site, c in counts.items()}
    for a in given:
        table[a.site] |= {n: dataclasses.replace(table[a.site][n], value=v) for n, v in a.metrics.items()}
    return Evaluation(table, images, counts, patients)


def answers(transport: InProcess, visitor: Visitor[Weights, Sent], seed: int) -> list[Contribution[Sent]]:
    """What every site that has test images says of the module that `transport.local` holds; raises as `evaluate`."""
    require_tests(transport.test)
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
    nothing = torch.zeros(1, 1, 2, 1, dtype=torch.int32)
    try:
        policy.check(SiteCounts(nothing[:, :, 0], nothing, nothing[0, 0]))
    except Refused as e:
        raise InputError(f"no score could be computed: {e}") from e


def require_tests(tests: Mapping[str, Images], what: str = "labelled test images") -> None:
    """Raises InputError if no site has them."""
    if not tests:
        raise InputError(f"no site has {what}; give the manifest a split column with 'test', or set data.test_fraction")


def _counts(message: SiteCounts) -> Counts:
    return Counts(message.confusion.long(), message.histogram.long(), message.reliability.long())


def scored(counts: Counts, grades: Sequence[int]) -> dict[str, Score]:
    return scores(counts) | calibration(counts.reliability) | (kappas(counts.confusion, grades) if grades else {})


def _predict(local: LocalTrainer, images: Images, batch: int, device: torch.device) -> Float[Tensor, "n k"]:
    parts = torch.arange(len(images)).split(batch)
    return torch.cat([local.module(images.batch(part).to(device)).float().cpu() for part in parts])
