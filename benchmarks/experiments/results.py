"""docs/results.csv, and the tables and plots of pretraining that are made of it."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from math import sqrt
from pathlib import Path
from statistics import fmean, stdev

TABLE, PLOTS = Path("docs/results.csv"), Path("docs/images")
COLUMNS = ("cell", "measure", "value", "device", "torch", "commit")
# Student's t at 97.5 % by the number of values.
T = {2: 12.71, 3: 4.30, 4: 3.18, 5: 2.78}
FRACTIONS = {"0.01 frozen": "1 %, frozen", "0.01": "1 %", "0.05": "5 %", "0.1": "10 %", "1.0": "100 %"}
NAMES = {
    "random": "random init", "local": "local SSL, each site alone",
    "central": "centralised SSL", "central_sgd": "centralised SSL, SGD",
    "simclr": "FedSimCLR", "none": "FedMoCo, no bank shared", "vectors": "FedMoCo, bank of vectors",
    "statistics": "FedMoCo, bank of statistics", "statistics_rsa": "the same, weighted by RSA",
    "byol": "FedBYOL", "fedema": "FedEMA", "fedu": "FedU", "simsiam": "SimSiam", "vicreg": "VICReg",
    "dino": "DINO", "mae": "Fed-MAE", "fedx": "FedX", "ldawa": "L-DAWA (SimCLR)", "rotation": "Rotation",
    "random_vit": "random init, the vision transformer",
    "fcl": "FCL: vectors, matched by position",
}  # fmt: skip
MAIN = ("random", "local", "central", "central_sgd", "simclr", "none", "vectors", "statistics", "statistics_rsa")
FAMILY = ("byol", "fedema", "fedu", "simsiam", "vicreg", "dino", "random_vit", "mae", "fedx", "ldawa", "rotation")


@dataclass(frozen=True)
class Result:
    """One number of a cell, named data set/way/seed."""

    cell: str
    measure: str
    value: float


@dataclass
class Results:
    """Every number measured so far, by cell and measure, with where it was measured."""

    rows: dict[tuple[str, str], dict[str, str]] = field(default_factory=dict)

    @classmethod
    def load(cls, path: Path = TABLE) -> Results:
        if not path.exists():
            return cls()
        with path.open(newline="", encoding="utf-8") as file:
            return cls({(row["cell"], row["measure"]): row for row in csv.DictReader(file)})

    def put(self, found: Iterable[Result], where: dict[str, str]) -> Results:
        for one in found:
            row = {"cell": one.cell, "measure": one.measure, "value": f"{one.value:.5g}", **where}
            self.rows[one.cell, one.measure] = row
        return self

    def save(self, path: Path = TABLE) -> None:
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
            writer.writeheader()
            writer.writerows(self.rows[key] for key in sorted(self.rows))

    def by_seed(self, data: str, way: str, measure: str) -> dict[str, float]:
        """Seed to value."""
        cells = {cell: row for (cell, name), row in self.rows.items() if name == measure}
        prefix = f"{data}/{way}/"
        return {
            cell.removeprefix(prefix): float(row["value"]) for cell, row in cells.items() if cell.startswith(prefix)
        }

    def delta(self, data: str, way: str, base: str, measure: str) -> list[float]:
        """Differences of cells of one seed."""
        a, b = self.by_seed(data, way, measure), self.by_seed(data, base, measure)
        return [a[seed] - b[seed] for seed in sorted(a.keys() & b.keys())]


def half_width(values: Sequence[float]) -> float | None:
    """Half of the 95 % interval of the mean (Student's t), None for fewer than two values."""
    return T[len(values)] * stdev(values) / sqrt(len(values)) if len(values) in T else None


def shown(values: Sequence[float], digits: int = 3, sign: bool = False) -> str:
    if not values:
        return "-"
    half = half_width(values)
    text = f"{fmean(values):{'+' if sign else ''}.{digits}f}"
    return text if half is None else f"{text} ± {half:.{digits}f}"


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    return [f"| {' | '.join(cells)} |" for cells in (head, ["---"] * len(head), *rows)]


def main_table(results: Results, data: str) -> list[str]:
    measures = ("knn", "linear", *(f"balanced_accuracy@{f}" for f in FRACTIONS))
    rows = []
    for way in MAIN:
        values = [list(results.by_seed(data, way, m).values()) for m in measures]
        if any(values):
            seeds = str(max(map(len, values)))
            rows.append([NAMES[way], seeds, *map(shown, values), *_cost(results, data, way)])
    head = ["encoder", "seeds", "kNN", "linear", *FRACTIONS.values(), "weights up, MB", "exchange up, MB", "minutes"]
    return table(head, rows)


def _cost(results: Results, data: str, way: str) -> list[str]:
    if way.startswith("random"):
        return ["-"] * 3
    mean = {m: list(results.by_seed(data, way, m).values()) for m in ("weights_mb", "exchange_mb", "seconds")}
    if not all(mean.values()) or way.startswith("central"):
        return ["-", "-", f"{fmean(mean['seconds']) / 60:.1f}" if mean["seconds"] else "-"]
    return [
        f"{fmean(mean['weights_mb']):.2f}",
        f"{fmean(mean['exchange_mb']):.3f}",
        f"{fmean(mean['seconds']) / 60:.1f}",
    ]


def delta_table(results: Results, data: str) -> list[str]:
    """Differences in points (hundredths) between rows of one seed."""
    pairs = (
        ("the bank alone: vectors", "vectors", "none"),
        ("the bank alone: statistics", "statistics", "none"),
        ("weighting by RSA", "statistics_rsa", "statistics"),
        ("the federation: no bank, against local", "none", "local"),
        ("the federation: statistics, against local", "statistics", "local"),
        ("statistics, against centralised", "statistics", "central"),
        ("pretraining: statistics, against random", "statistics", "random"),
    )
    measures = ("knn", "linear", *(f"balanced_accuracy@{f}" for f in FRACTIONS))
    rows = [
        [title, *(shown([100 * d for d in results.delta(data, way, base, m)], 1, sign=True) for m in measures)]
        for title, way, base in pairs
    ]
    return table(["points", "kNN", "linear", *FRACTIONS.values()], rows)


def family_table(results: Results) -> list[str]:
    measures = ("knn", "linear", "balanced_accuracy@0.1")
    rows = []
    for way in ("random", "simclr", "none", *FAMILY):
        first = [results.by_seed("brain", way, m).get("0") for m in measures]
        rows.append(
            [NAMES[way], *("-" if v is None else f"{v:.3f}" for v in first), *_cost(results, "brain", way)[::2]]
        )
    return table(["method", "kNN", "linear", "10 %", "weights up, MB", "minutes"], rows)


def skew_table(results: Results) -> list[str]:
    rows = []
    for alpha in ("0.1", "1", "10"):
        for way in ("none", "vectors", "statistics"):
            found = [
                results.by_seed("brain", f"{way}_dirichlet_{alpha}", m).get("0")
                for m in ("knn", "linear", "balanced_accuracy@0.1")
            ]
            rows.append([alpha, NAMES[way], *("-" if v is None else f"{v:.3f}" for v in found)])
    return table(["alpha", "encoder", "kNN", "linear", "10 %"], rows)


def structural_table(results: Results) -> list[str]:
    rows = []
    for way in ("random", "none", "vectors", "fcl"):
        found = [results.by_seed("hippocampus", way, m).get("0") for m in ("knn", "linear")]
        cost = _cost(results, "hippocampus", way)
        rows.append([NAMES[way], *("-" if v is None else f"{v:.3f}" for v in found), *cost])
    return table(["encoder", "kNN", "linear", "weights up, MB", "exchange up, MB", "minutes"], rows)


def plots(results: Results, data: str, title: str) -> list[str]:
    """Draws both pictures of a set and returns their lines; none of a set that was not measured."""
    found = (
        (f"Balanced accuracy by fraction of labels, {title}", plot_label_efficiency(results, data)),
        (f"Linear probe by traffic, {title}", plot_traffic(results, data)),
    )
    lines = [f"![{told}](images/{name})" for told, name in found if name]
    return ["", *lines] if lines else []


def plot_label_efficiency(results: Results, data: str) -> str | None:
    fractions = [f for f in FRACTIONS if "frozen" not in f]
    lines = {
        NAMES[way]: [list(results.by_seed(data, way, f"balanced_accuracy@{f}").values()) for f in fractions]
        for way in ("random", "local", "central", "simclr", "none", "statistics")
    }
    return plot_by_labels(lines, fractions, "balanced accuracy", f"label_efficiency_{data}.svg")


def plot_by_labels(
    lines: Mapping[str, Sequence[Sequence[float]]], fractions: Sequence[str], score: str, name: str
) -> str | None:
    """A line a start, from its values of all seeds at each fraction, with the range of seeds."""
    figure, axes = _figure()
    for start, values in lines.items():
        if not all(values):
            continue
        x, y = [100 * float(f) for f in fractions], [fmean(v) for v in values]
        low, high = ([fmean(v) - min(v) for v in values], [max(v) - fmean(v) for v in values])
        axes.errorbar(x, y, yerr=[low, high], label=start, marker="o", markersize=4, capsize=3, linewidth=1.6)
    ticks = [100 * float(f) for f in fractions]
    axes.set(xscale="log", xlabel="labels used, %", ylabel=score)
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.minorticks_off()
    return _save(figure, axes, name)


def plot_traffic(results: Results, data: str) -> str | None:
    figure, axes = _figure()
    for way in ("local", "simclr", "none", "vectors", "statistics", "statistics_rsa"):
        score, mb = (list(results.by_seed(data, way, m).values()) for m in ("linear", "weights_mb"))
        more = list(results.by_seed(data, way, "exchange_mb").values())
        if score:
            x = fmean(mb) + fmean(more)
            axes.errorbar([x], [fmean(score)], yerr=[[fmean(score) - min(score)], [max(score) - fmean(score)]],
                          marker="o", capsize=3, label=NAMES[way], linestyle="none")  # fmt: skip
    axes.set(xlabel="up, MB a visit", ylabel="accuracy of the linear probe")
    return _save(figure, axes, f"traffic_{data}.svg")


def _figure():  # type: ignore[no-untyped-def]
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams |= {"svg.hashsalt": "fedpretrain", "font.size": 9.5, "axes.spines.top": False,
                            "axes.spines.right": False, "axes.grid": True, "grid.alpha": 0.3}  # fmt: skip
    import matplotlib.pyplot as plt

    return plt.subplots(figsize=(6.2, 3.6), layout="constrained")


def _save(figure, axes, name: str) -> str | None:  # type: ignore[no-untyped-def]
    drawn = axes.has_data()
    if drawn:
        axes.legend(frameon=False, fontsize=8.5)
        figure.savefig(PLOTS / name, metadata={"Date": None})
    import matplotlib.pyplot as plt

    plt.close(figure)
    return name if drawn else None
