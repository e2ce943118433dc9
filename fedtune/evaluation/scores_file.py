"""Scores of a classifier as `scores.json` and as tables in the terminal."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from rich.table import Table

from fedcore.tables import terminal, text_table
from fedtune.evaluation.calibration import reliability_diagram
from fedtune.evaluation.classification import POOLED, ClassificationScores
from fedtune.evaluation.scores import Score

MAIN_COLUMNS = {"auroc": "AUROC", "balanced_accuracy": "balanced acc.", "f1": "F1"}
MORE_COLUMNS = {"ece": "ECE", "kappa_linear": "linear kappa", "kappa_quadratic": "quadratic kappa"}


def to_json(scores: ClassificationScores, classes: Sequence[str] = ()) -> dict[str, Any]:
    """The content of `scores.json`; a score that does not exist is null."""
    rows = {site: _row(scores, site, classes) for site in scores.table}
    return {"sites": {site: row for site, row in rows.items() if site != POOLED}, POOLED: rows[POOLED]}


def print_scores(scores: ClassificationScores, classes: Sequence[str] = ()) -> None:
    """Prints tables of at most 80 columns: scores by site, then calibration and kappa, then scores by finding."""
    console = terminal()
    console.print(_by_site(scores, MAIN_COLUMNS))
    columns = {name: title for name, title in MORE_COLUMNS.items() if name in scores.table[POOLED]}
    console.print(f"\ncalibration error (ECE, 0 is best){' and agreement of grades' if len(columns) > 1 else ''}")
    console.print(_by_site(scores, columns))
    if by_finding := dict(zip(classes, scores.findings[POOLED], strict=True)) if scores.findings[POOLED] else {}:
        present = scores.counts[POOLED].confusion[:, 1].sum(-1).tolist()
        rows = {
            name: (str(count), format_score(score))
            for (name, score), count in zip(by_finding.items(), present, strict=True)
        }
        console.print()
        console.print(text_table("finding", (f"{_unit(scores)} with it", "AUROC"), rows))
    for site, note in _notes(scores, classes).items():
        console.print(f"{site}: {note}")


def withheld_notes(
    withheld: Mapping[str, Sequence[str]], counted: Mapping[str, int], min_patients: int
) -> dict[str, str]:
    """For each site that withheld a class or structure, what is not counted and why."""
    few = f"fewer than {min_patients} test patients"
    return {
        site: f"{few} of {', '.join(names)}; not counted" if counted[site] else f"{few}; no score"
        for site, names in withheld.items()
        if names or not counted[site]
    }


def format_score(score: Score) -> str:
    if math.isnan(score.value):
        return "-"
    if math.isnan(score.low):
        return f"{score.value:.3f}"
    low, high = round_outward(score.low, score.high)
    return f"{score.value:.3f} ({low:.2f}-{high:.2f})"


def round_outward(low: float, high: float) -> tuple[float, float]:
    """The ends of an interval to two digits: the low end rounded down, the high end up."""
    return math.floor(low * 100 + 1e-6) / 100, math.ceil(high * 100 - 1e-6) / 100


def score_to_json(score: Score) -> dict[str, float | None]:
    """Rounded to six digits; null where a number does not exist."""
    return {k: None if math.isnan(v) else round(v, 6) for k, v in asdict(score).items()}


def _unit(scores: ClassificationScores) -> str:
    return "patients" if scores.per_patient else "images"


def _by_site(scores: ClassificationScores, columns: Mapping[str, str]) -> Table:
    counted = scores.patients if scores.per_patient else scores.images
    rows = {
        site: [str(counted[site]), *(format_score(row[name]) for name in columns)] for site, row in scores.table.items()
    }
    return text_table("site", (_unit(scores), *columns.values()), rows, highlight=POOLED)


def _notes(scores: ClassificationScores, classes: Sequence[str]) -> dict[str, str]:
    def names(indices: Sequence[int]) -> list[str]:
        return [classes[k] if classes else str(k) for k in indices]

    withheld = {site: names(indices) for site, indices in scores.withheld.items()}
    notes = withheld_notes(withheld, scores.images, scores.min_patients)
    counts = scores.counts[POOLED]
    present = counts.confusion[:, 1].sum(-1) if counts.multilabel else counts.confusion.sum(-1)
    absent = names((present == 0).nonzero().flatten().tolist())
    return notes | ({POOLED: f"no test image of {', '.join(absent)} is counted"} if absent else {})


def _row(scores: ClassificationScores, site: str, classes: Sequence[str]) -> dict[str, Any]:
    row: dict[str, Any] = {name: score_to_json(score) for name, score in scores.table[site].items()}
    row |= {"images": scores.images[site], "patients": scores.patients[site]}
    row |= {"calibration": [asdict(b) for b in reliability_diagram(scores.counts[site].reliability)]}
    if aurocs := scores.findings[site]:
        row["findings"] = {name: {"auroc": score_to_json(score)} for name, score in zip(classes, aurocs, strict=True)}
    note = _notes(scores, classes).get(site)
    return row | ({"note": note} if note else {})
