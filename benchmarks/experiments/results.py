"""docs/results.csv: reading, writing and statistics over seeds."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from math import sqrt
from pathlib import Path
from statistics import fmean, stdev

TABLE = Path("docs/results.csv")
COLUMNS = ("cell", "measure", "value", "device", "torch", "commit")
"""cell: the experiment, dataset/variant/seed. measure: the metric."""
# Student's t at 97.5 % by the number of values.
T = {2: 12.71, 3: 4.30, 4: 3.18, 5: 2.78}


@dataclass(frozen=True)
class Result:
    """One number of an experiment, which is named dataset/variant/seed."""

    experiment: str
    metric: str
    value: float


@dataclass
class Results:
    """All rows of docs/results.csv by experiment and metric."""

    rows: dict[tuple[str, str], dict[str, str]] = field(default_factory=dict)

    @classmethod
    def load(cls, path: Path = TABLE) -> Results:
        if not path.exists():
            return cls()
        with path.open(newline="", encoding="utf-8") as file:
            return cls({(row["cell"], row["measure"]): row for row in csv.DictReader(file)})

    def put(self, results: Iterable[Result], environment: dict[str, str]) -> Results:
        for result in results:
            row = {"cell": result.experiment, "measure": result.metric, "value": f"{result.value:.5g}", **environment}
            self.rows[result.experiment, result.metric] = row
        return self

    def save(self, path: Path = TABLE) -> None:
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
            writer.writeheader()
            writer.writerows(self.rows[key] for key in sorted(self.rows))

    def by_seed(self, dataset: str, variant: str, metric: str) -> dict[str, float]:
        """Seed to value."""
        rows = {experiment: row for (experiment, name), row in self.rows.items() if name == metric}
        prefix = f"{dataset}/{variant}/"
        return {name.removeprefix(prefix): float(row["value"]) for name, row in rows.items() if name.startswith(prefix)}

    def values(self, dataset: str, variant: str, metric: str) -> list[float]:
        """The values of all seeds."""
        return list(self.by_seed(dataset, variant, metric).values())

    def delta(self, dataset: str, variant: str, base: str, metric: str) -> list[float]:
        """Differences of two variants, seed by seed."""
        a, b = self.by_seed(dataset, variant, metric), self.by_seed(dataset, base, metric)
        return [a[seed] - b[seed] for seed in sorted(a.keys() & b.keys())]


def half_width(values: Sequence[float]) -> float | None:
    """Half of the 95 % interval of the mean (Student's t), None for fewer than two values."""
    return T[len(values)] * stdev(values) / sqrt(len(values)) if len(values) in T else None


def format_mean(values: Sequence[float], digits: int = 3, sign: bool = False) -> str:
    """Mean and half width of its interval; `-` without values."""
    if not values:
        return "-"
    half = half_width(values)
    text = f"{fmean(values):{'+' if sign else ''}.{digits}f}"
    return text if half is None else f"{text} ± {half:.{digits}f}"


def markdown_table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    return [f"| {' | '.join(cells)} |" for cells in (head, ["---"] * len(head), *rows)]
