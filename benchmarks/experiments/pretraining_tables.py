"""Tables and plots of pretraining that benchmarks.experiments.page writes to docs/results.md."""

from __future__ import annotations

from collections.abc import Iterable
from statistics import fmean

from benchmarks.experiments.plots import new_figure, plot_by_labels, save_figure
from benchmarks.experiments.results import Results, format_mean, markdown_table

FRACTIONS = {"0.01 frozen": "1 %, frozen", "0.01": "1 %", "0.05": "5 %", "0.1": "10 %", "1.0": "100 %"}
NAMES = {
    "random": "random initialisation", "local": "local SSL, per site",
    "central": "centralised SSL", "central_sgd": "centralised SSL, SGD",
    "simclr": "FedSimCLR", "none": "FedMoCo, no exchange", "vectors": "FedMoCo, feature vectors",
    "statistics": "FedMoCo, feature statistics", "statistics_rsa": "FedMoCo, statistics, weighted by RSA",
    "byol": "FedBYOL", "fedema": "FedEMA", "fedu": "FedU", "simsiam": "SimSiam", "vicreg": "VICReg",
    "dino": "DINO", "mae": "Fed-MAE", "fedx": "FedX", "ldawa": "L-DAWA (SimCLR)", "rotation": "Rotation",
    "random_vit": "random initialisation, vision transformer",
    "fcl": "FCL: feature vectors, matched by position",
}  # fmt: skip
MAIN = ("random", "local", "central", "central_sgd", "simclr", "none", "vectors", "statistics", "statistics_rsa")
FAMILY = ("byol", "fedema", "fedu", "simsiam", "vicreg", "dino", "random_vit", "mae", "fedx", "ldawa", "rotation")
SCORES = ("knn", "linear", *(f"balanced_accuracy@{f}" for f in FRACTIONS))
COST_HEAD = ("weights up, MB", "exchange up, MB", "minutes")


def main_table(results: Results, dataset: str) -> list[str]:
    rows = []
    for variant in MAIN:
        values = [results.values(dataset, variant, metric) for metric in SCORES]
        if any(values):
            seeds = str(max(map(len, values)))
            rows.append([NAMES[variant], seeds, *map(format_mean, values), *_cost(results, dataset, variant)])
    return markdown_table(["encoder", "seeds", "kNN", "linear", *FRACTIONS.values(), *COST_HEAD], rows)


def _cost(results: Results, dataset: str, variant: str) -> list[str]:
    """The cells of COST_HEAD."""
    if variant.startswith("random"):
        return ["-"] * 3
    weights, exchange, seconds = (results.values(dataset, variant, m) for m in ("weights_mb", "exchange_mb", "seconds"))
    minutes = f"{fmean(seconds) / 60:.1f}" if seconds else "-"
    if not (weights and exchange and seconds) or variant.startswith("central"):
        return ["-", "-", minutes]
    return [f"{fmean(weights):.2f}", f"{fmean(exchange):.3f}", minutes]


def delta_table(results: Results, dataset: str) -> list[str]:
    """Differences in percentage points between two variants, seed by seed."""
    pairs = (
        ("feature vectors, compared with no exchange", "vectors", "none"),
        ("feature statistics, compared with no exchange", "statistics", "none"),
        ("weighting by RSA", "statistics_rsa", "statistics"),
        ("federated without exchange, compared with local", "none", "local"),
        ("federated with statistics, compared with local", "statistics", "local"),
        ("federated with statistics, compared with centralised", "statistics", "central"),
        ("federated with statistics, compared with random", "statistics", "random"),
    )
    rows = [[title, *_points(results, dataset, variant, base)] for title, variant, base in pairs]
    return markdown_table(["points", "kNN", "linear", *FRACTIONS.values()], rows)


def _points(results: Results, dataset: str, variant: str, base: str) -> list[str]:
    deltas = (results.delta(dataset, variant, base, metric) for metric in SCORES)
    return [format_mean([100 * d for d in delta], 1, sign=True) for delta in deltas]


def family_table(results: Results) -> list[str]:
    rows = [
        [NAMES[variant], *_of_seed_0(results, "brain", variant), *_cost(results, "brain", variant)[::2]]
        for variant in ("random", "simclr", "none", *FAMILY)
    ]
    return markdown_table(["method", "kNN", "linear", "10 %", COST_HEAD[0], COST_HEAD[2]], rows)


def skew_table(results: Results) -> list[str]:
    rows = [
        [alpha, NAMES[variant], *_of_seed_0(results, "brain", f"{variant}_dirichlet_{alpha}")]
        for alpha in ("0.1", "1", "10")
        for variant in ("none", "vectors", "statistics")
    ]
    return markdown_table(["alpha", "encoder", "kNN", "linear", "10 %"], rows)


def structural_table(results: Results) -> list[str]:
    rows = [
        [
            NAMES[variant], *_of_seed_0(results, "hippocampus", variant, ("knn", "linear")),
            *_cost(results, "hippocampus", variant),
        ]
        for variant in ("random", "none", "vectors", "fcl")
    ]  # fmt: skip
    return markdown_table(["encoder", "kNN", "linear", *COST_HEAD], rows)


def _of_seed_0(
    results: Results, dataset: str, variant: str, metrics: Iterable[str] = ("knn", "linear", "balanced_accuracy@0.1")
) -> list[str]:
    values = [results.by_seed(dataset, variant, metric).get("0") for metric in metrics]
    return ["-" if value is None else f"{value:.3f}" for value in values]


def plots(results: Results, dataset: str, title: str) -> list[str]:
    """Draws both plots of a dataset and returns their Markdown lines; none of a dataset without results."""
    found = (
        (f"Balanced accuracy by fraction of labels, {title}", plot_label_efficiency(results, dataset)),
        (f"Linear probe by traffic, {title}", plot_traffic(results, dataset)),
    )
    lines = [f"![{caption}](images/{name})" for caption, name in found if name]
    return ["", *lines] if lines else []


def plot_label_efficiency(results: Results, dataset: str) -> str | None:
    fractions = [f for f in FRACTIONS if "frozen" not in f]
    lines = {
        NAMES[variant]: [results.values(dataset, variant, f"balanced_accuracy@{f}") for f in fractions]
        for variant in ("random", "local", "central", "simclr", "none", "statistics")
    }
    return plot_by_labels(lines, fractions, "balanced accuracy", f"label_efficiency_{dataset}.svg")


def plot_traffic(results: Results, dataset: str) -> str | None:
    figure, axes = new_figure()
    for variant in ("local", "simclr", "none", "vectors", "statistics", "statistics_rsa"):
        scores = results.values(dataset, variant, "linear")
        if scores:
            mb = sum(fmean(results.values(dataset, variant, metric)) for metric in ("weights_mb", "exchange_mb"))
            low, high = fmean(scores) - min(scores), max(scores) - fmean(scores)
            axes.errorbar([mb], [fmean(scores)], yerr=[[low], [high]],
                          marker="o", capsize=3, label=NAMES[variant], linestyle="none")  # fmt: skip
    axes.set(xlabel="up, MB per visit", ylabel="accuracy of the linear probe")
    return save_figure(figure, axes, f"traffic_{dataset}.svg")
