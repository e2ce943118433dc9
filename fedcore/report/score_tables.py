"""Scores of several runs in the terminal: one row per family of runs, one column per fraction of the labels."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from statistics import fmean

from rich.table import Table

from fedcore.report.read.run import Estimate, Run
from fedcore.report.sections.comparison import ComparedRun, compared, measures
from fedcore.report.sections.comparison import families as families_of
from fedcore.report.units import percent
from fedcore.tables import terminal, text_table

NOTE = "In brackets: 95 % interval; of several runs: mean (lowest-highest)."


def print_scores(runs: Sequence[Run], families: Sequence[str]) -> None:
    """Prints tables of the pooled scores; nothing if no run has any."""
    scored = [entry for entry in compared(runs, families) if entry.pooled]
    console = terminal()
    for table in _tables(scored):
        console.print()
        console.print(table)
    if scored:
        console.print(NOTE, style="dim")


def _tables(scored: Sequence[ComparedRun]) -> Iterator[Table]:
    """One table per measure, by fraction of the labels; with a single fraction, one table of all measures."""
    fractions = sorted({entry.fraction for entry in scored if entry.fraction})
    titles = measures(scored)
    if len(fractions) == 1:
        columns = {title: (measure, fractions[0]) for measure, title in titles.items()}
        yield _table(f"with {percent(fractions[0])} of the labels", columns, scored)
        return
    for measure, title in titles.items():
        by_fraction = {percent(fraction): (measure, fraction) for fraction in fractions}
        yield _table(f"{title}, by labels", by_fraction, [entry for entry in scored if measure in entry.pooled])


def _table(first: str, columns: Mapping[str, tuple[str, float]], scored: Sequence[ComparedRun]) -> Table:
    rows = {
        family: [
            _cell([e.pooled[measure] for e in scored
                   if (e.family, e.fraction) == (family, fraction) and measure in e.pooled])
            for measure, fraction in columns.values()
        ]
        for family in families_of(scored)
    }  # fmt: skip
    return text_table(first, list(columns), rows)


def _cell(found: Sequence[Estimate]) -> str:
    """Short, so that four fit next to a name in a terminal of 80 columns."""
    if not found:
        return "-"
    values = [estimate.value for estimate in found]
    low, high = (found[0].low, found[0].high) if len(found) == 1 else (min(values), max(values))
    ends = "" if low is None or high is None else f" ({low:.2f}-{high:.2f})".replace("0.", ".")
    return f"{fmean(values):.2f}{ends}"
