"""What an evaluation says: `scores.json` and the tables in the terminal."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from rich.table import Table

from fedcore.tables import terminal, text_table
from fedtune.evaluation.calibration import diagram
from fedtune.evaluation.classification import POOLED, Evaluation
from fedtune.evaluation.scores import Score

FIRST = {"auroc": "AUROC", "balanced_accuracy": "balanced acc.", "f1": "F1"}
SECOND = {"ece": "ECE", "kappa_linear": "linear kappa", "kappa_quadratic": "quadratic kappa"}


def as_json(found: Evaluation, classes: Sequence[str] = ()) -> dict[str, Any]:
    """The layout of `scores.json`; a score that does not exist is null."""
    rows = {site: _row(found, site, classes) for site in found.table}
    return {"sites": {site: row for site, row in rows.items() if site != POOLED}, POOLED: rows[POOLED]}


def show(found: Evaluation, classes: Sequence[str] = ()) -> None:
    """Tables of at most 80 columns: scores by site, then calibration and kappa, then scores by finding."""
    console = terminal()
    console.print(_by_site(found, FIRST))
    second = {name: title for name, title in SECOND.items() if name in found.table[POOLED]}
    console.print(f"\ncalibration error (ECE, 0 is best){' and agreement of grades' if len(second) > 1 else ''}")
    console.print(_by_site(found, second))
    if by_finding := dict(zip(classes, found.findings[POOLED], strict=True)) if found.findings[POOLED] else {}:
        present = found.counts[POOLED].confusion[:, 1].sum(-1).tolist()
        rows = {
            name: (str(count), format_score(score))
            for (name, score), count in zip(by_finding.items(), present, strict=True)
        }
        console.print()
        console.print(text_table("finding", (f"{_unit(found)} with it", "AUROC"), rows))
    for site, note in _notes(found, classes).items():
        console.print(f"{site}: {note}")


def left_out_notes(withheld: Mapping[str, Sequence[str]], counted: Mapping[str, int], least: int) -> dict[str, str]:
    """What each site that left anything out did not count, and why."""
    few = f"fewer than {least} test patients"
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
    low, high = outward(score.low, score.high)
    return f"{score.value:.3f} ({low:.2f}-{high:.2f})"


def outward(low: float, high: float) -> tuple[float, float]:
    """The ends of an interval to two digits, rounded so that what lies inside still does."""
    return math.floor(low * 100 + 1e-6) / 100, math.ceil(high * 100 - 1e-6) / 100


def _unit(found: Evaluation) -> str:
    return "patients" if found.by_patient else "images"


def _by_site(found: Evaluation, titles: Mapping[str, str]) -> Table:
    rows = {
        site: [str(_counted(found, site)), *(format_score(row[name]) for name in titles)]
        for site, row in found.table.items()
    }
    return text_table("site", (_unit(found), *titles.values()), rows, highlight=POOLED)


def _counted(found: Evaluation, site: str) -> int:
    return (found.patients if found.by_patient else found.images)[site]


def _notes(found: Evaluation, classes: Sequence[str]) -> dict[str, str]:
    def named(places: Sequence[int]) -> list[str]:
        return [classes[k] if classes else str(k) for k in places]

    notes = left_out_notes({site: named(few) for site, few in found.withheld.items()}, found.images, found.least)
    counts = found.counts[POOLED]
    shown = counts.confusion[:, 1].sum(-1) if counts.several else counts.confusion.sum(-1)
    absent = named((shown == 0).nonzero().flatten().tolist())
    return notes | ({POOLED: f"no test image of {', '.join(absent)} is counted"} if absent else {})


def _row(found: Evaluation, site: str, classes: Sequence[str]) -> dict[str, Any]:
    row: dict[str, Any] = {name: rounded(score) for name, score in found.table[site].items()}
    row |= {"images": found.images[site], "patients": found.patients[site]}
    row |= {"calibration": [asdict(b) for b in diagram(found.counts[site].reliability)]}
    if told := found.findings[site]:
        row["findings"] = {name: {"auroc": rounded(score)} for name, score in zip(classes, told, strict=True)}
    note = _notes(found, classes).get(site)
    return row | ({"note": note} if note else {})


def rounded(score: Score) -> dict[str, float | None]:
    """As JSON has it: null where a number does not exist."""
    return {k: None if math.isnan(v) else round(v, 6) for k, v in asdict(score).items()}
