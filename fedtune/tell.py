"""What an evaluation says: `scores.json` and the tables in the terminal."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from rich.console import Console

from fedcore.grid import grid
from fedtune.calibration import diagram
from fedtune.counts import Counts
from fedtune.evaluate import POOLED, Evaluation
from fedtune.scores import Score, scores_by_finding

FIRST = {"auroc": "AUROC", "balanced_accuracy": "balanced acc.", "f1": "F1"}
SECOND = {"ece": "ECE", "kappa_linear": "linear kappa", "kappa_quadratic": "quadratic kappa"}


def as_json(found: Evaluation, classes: Sequence[str] = ()) -> dict[str, Any]:
    """The layout of `scores.json`; a score that does not exist is null."""
    rows = {site: _row(found, site, classes) for site in found.table}
    return {"sites": {site: row for site, row in rows.items() if site != POOLED}, POOLED: rows[POOLED]}


def show(found: Evaluation, classes: Sequence[str] = ()) -> None:
    """Tables of at most 80 columns: scores by site, then what is told besides, then scores by finding."""
    _show_sites(found, FIRST)
    _show_sites(found, {name: title for name, title in SECOND.items() if name in found.table[POOLED]})
    if by_finding := _by_finding(found.counts[POOLED], classes):
        present = found.counts[POOLED].confusion[0, :, 1].sum(-1).tolist()
        rows = {
            name: (str(count), format_score(row["auroc"]))
            for (name, row), count in zip(by_finding.items(), present, strict=True)
        }
        Console().print(grid("finding", (f"{_unit(found)} with it", "AUROC"), rows))


def format_score(score: Score) -> str:
    if math.isnan(score.value):
        return "-"
    if math.isnan(score.low):
        return f"{score.value:.3f}"
    return f"{score.value:.3f} ({score.low:.2f}-{score.high:.2f})"


def _unit(found: Evaluation) -> str:
    return "patients" if found.patients else "images"


def _show_sites(found: Evaluation, titles: Mapping[str, str]) -> None:
    rows = {
        site: [str(found.counts[site].counted), *(format_score(row[name]) for name in titles)]
        for site, row in found.table.items()
    }
    Console().print(grid("site", (_unit(found), *titles.values()), rows, standing_out=POOLED))


def _row(found: Evaluation, site: str, classes: Sequence[str]) -> dict[str, Any]:
    counts = found.counts[site]
    row: dict[str, Any] = {name: rounded(score) for name, score in found.table[site].items()}
    row |= {"patients": counts.counted} if found.patients else {}
    row |= {"images": found.images[site], "calibration": [asdict(b) for b in diagram(counts.reliability)]}
    if by_finding := _by_finding(counts, classes):
        row["findings"] = {
            name: {key: rounded(score) for key, score in told.items()} for name, told in by_finding.items()
        }
    return row


def _by_finding(counts: Counts, classes: Sequence[str]) -> dict[str, dict[str, Score]]:
    """Empty where an image is of one class."""
    return dict(zip(classes, scores_by_finding(counts), strict=True)) if counts.confusion.dim() == 4 else {}


def rounded(score: Score) -> dict[str, float | None]:
    """As JSON has it: null where a number does not exist."""
    return {k: None if math.isnan(v) else round(v, 6) for k, v in asdict(score).items()}
