"""Scores of a classifier at every site and pooled, asked through the same border as everything else."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, TypeVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from fedcore.algorithm import Visitor
from fedcore.border import Policy
from fedcore.data.images import Images
from fedcore.errors import InputError, Refused
from fedcore.local import LocalTrainer, personal
from fedcore.message import STATISTICS, Contribution, Message, Refusal, Weights
from fedcore.site import Round, Site
from fedcore.transport import InProcess
from fedtune.scores import Counts, Score, count, exact, scores

Sent = TypeVar("Sent", bound=Message)
Table = dict[str, dict[str, Score]]
POOLED = "pooled"


@dataclass(frozen=True)
class SiteCounts(Message):
    """What a site sends: counts of itself and of its bootstrap draws (see `fedtune.scores`)."""

    confusion: Int[Tensor, "r k k"] = field(metadata=STATISTICS)
    histogram: Int[Tensor, "r k 2 b"] = field(metadata=STATISTICS)


@dataclass(frozen=True)
class Evaluate:
    """Asks a site how the classifier does on its test images; its personal one where it has one."""

    draws: int = 200
    """Bootstrap draws of patients for the 95 % intervals."""
    batch: int = 256

    def visit(self, site: Site, down: Weights, local: LocalTrainer, turn: Round) -> Contribution[SiteCounts]:
        local.load(down.tensors | personal(site.memory))
        assert site.test is not None, "only sites with test images are asked"
        with local.measuring() as device:
            logits = _predict(local, site.test, self.batch, device)
        patients = torch.from_numpy(site.test.patients)
        counted = count(logits, site.test.labels, patients, self.draws, turn.seed_of(site.name, "bootstrap"))
        message = SiteCounts(counted.confusion.int(), counted.histogram.int())
        known = {name: v for name, v in exact(logits, site.test.labels).items() if not math.isnan(v)}
        return Contribution(site.name, message, len(site.test), known)


def evaluate(transport: InProcess, seed: int, draws: int = 200) -> tuple[Table, dict[str, int]]:
    """Scores of the module that `transport.local` holds, per site and pooled, and the test images of each.

    Raises:
        InputError: No site has labelled test images, or a site may not send its counts.
    """
    given = answers(transport, Evaluate(draws), seed)
    return _table(given), {a.site: a.examples for a in given} | {POOLED: sum(a.examples for a in given)}


def answers(transport: InProcess, visitor: Visitor[Weights, Sent], seed: int) -> list[Contribution[Sent]]:
    """What every site that has test images says of the module that `transport.local` holds; raises as `evaluate`."""
    require_tests(transport.test)
    weights = Weights(transport.local.shared())
    asked = dataclasses.replace(transport, train=transport.test)  # a site may have test images only
    found = list(asked.ask(visitor, ((name, weights) for name in asked.names()), Round(0, 1, seed)))
    for refusal in found:
        if isinstance(refusal, Refusal):
            raise InputError(f"{refusal.site} could not be evaluated: {refusal.reason}") from refusal.cause
    return [a for a in found if not isinstance(a, Refusal)]


def require_countable(policy: Policy) -> None:
    """Raises InputError, before anything is trained, if sites may not send what scores are made of."""
    nothing = torch.zeros(1, 1, 2, 1, dtype=torch.int32)
    try:
        policy.check(SiteCounts(nothing[:, :, 0], nothing))
    except Refused as e:
        raise InputError(f"no score could be computed: {e}") from e


def require_tests(tests: Mapping[str, Images], what: str = "labelled test images") -> None:
    """Raises InputError if no site has them."""
    if not tests:
        raise InputError(f"no site has {what}; give the manifest a split column with 'test', or set data.test_fraction")


def _table(answers: Sequence[Contribution[SiteCounts]]) -> Table:
    counts = {a.site: Counts(a.message.confusion.long(), a.message.histogram.long()) for a in answers}
    table = {}
    for a in answers:
        table[a.site] = {
            name: Score(a.metrics.get(name, s.value), s.low, s.high) for name, s in scores(counts[a.site]).items()
        }
    table[POOLED] = scores(_sum(counts.values()))
    return table


def _sum(counts: Iterable[Counts]) -> Counts:
    first, *rest = counts
    for c in rest:
        first = first + c
    return first


def as_json(table: Table, images: Mapping[str, int]) -> dict[str, Any]:
    """The layout of `scores.json`; a score that does not exist is null."""
    rows = {
        site: {k: _without_nan(asdict(s)) for k, s in row.items()} | {"images": images[site]}
        for site, row in table.items()
    }
    return {"sites": {site: row for site, row in rows.items() if site != POOLED}, POOLED: rows[POOLED]}


def show(table: Table, images: Mapping[str, int]) -> None:
    """The table in the terminal."""
    from rich.console import Console
    from rich.table import Table as Grid

    grid = Grid(box=None, pad_edge=False)
    grid.add_column("site", overflow="fold")
    for title in ("images", "AUROC", "balanced acc.", "F1"):
        grid.add_column(title, justify="right", no_wrap=True)
    for site, row in table.items():
        cells = [format_score(row[name]) for name in ("auroc", "balanced_accuracy", "f1")]
        grid.add_row(site, str(images[site]), *cells, style="bold" if site == POOLED else None)
    Console().print(grid)


def format_score(score: Score) -> str:
    if math.isnan(score.value):
        return "-"
    if math.isnan(score.low):
        return f"{score.value:.3f}"
    return f"{score.value:.3f} ({score.low:.2f}-{score.high:.2f})"


def _predict(local: LocalTrainer, images: Images, batch: int, device: torch.device) -> Float[Tensor, "n k"]:
    parts = torch.arange(len(images)).split(batch)
    return torch.cat([local.module(images.batch(part).to(device)).float().cpu() for part in parts])


def _without_nan(score: Mapping[str, float]) -> dict[str, float | None]:
    return {k: None if math.isnan(v) else round(v, 6) for k, v in score.items()}
