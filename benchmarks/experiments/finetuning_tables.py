"""The tables of fine-tuning that benchmarks.experiments.page writes to docs/results.md."""

from __future__ import annotations

from statistics import fmean

from benchmarks.experiments.plots import plot_by_labels
from benchmarks.experiments.results import Results, format_mean, markdown_table

SCORES = {
    "nuclei": "dice", "hippocampus": "dice", "brain_tumor": "balanced_accuracy", "chest_xray": "balanced_accuracy"
}  # fmt: skip
NAMES = {"dice": "Dice", "balanced_accuracy": "balanced accuracy"}
FRACTIONS = {"0.05": "5 %", "0.2": "20 %", "1.0": "100 %"}
STARTS = {
    "local": "local, random initialisation", "scratch": "federated, random initialisation",
    "pretrained": "federated, pretrained (SimCLR)", "central": "centralised, random initialisation",
    "synthetic": "federated, pretrained, with synthetic images",
}  # fmt: skip
VARIANTS = {
    "local": "local", "central": "centralised", "scratch": "FedAvg",
    "batch": "FedAvg, batch norm", "fedbn": "FedBN, batch norm", "fedprox": "FedProx",
    "scaffold": "SCAFFOLD", "fedadam": "FedAdam", "ditto": "Ditto, one model per site",
}  # fmt: skip


def label_efficiency_table(results: Results, dataset: str) -> list[str]:
    """The pooled score by fraction of the labels, as a table and a plot."""
    lines = {
        name: [_values(results, dataset, variant, "pooled", fraction) for fraction in FRACTIONS]
        for variant, name in STARTS.items()
        if _values(results, dataset, variant, "pooled")
    }
    rows = [[name, str(max(map(len, values))), *map(format_mean, values)] for name, values in lines.items()]
    for variant, title in {
        "pretrained": "points gained by pretraining",
        "synthetic": "and with synthetic images",
    }.items():
        gains = [results.delta(dataset, variant, "scratch", f"{SCORES[dataset]} pooled@{f}") for f in FRACTIONS]
        if any(gains):
            rows.append(
                [title, "", *(format_mean([100 * gain for gain in of_seeds], 1, sign=True) for of_seeds in gains)]
            )
    score = NAMES[SCORES[dataset]]
    file = plot_by_labels(lines, list(FRACTIONS), score, f"labels_{dataset}.svg")
    plot = ["", f"![{score[0].upper()}{score[1:]} by fraction of labels](images/{file})"] if file else []
    return [*markdown_table(["trained", "seeds", *FRACTIONS.values()], rows), *plot]


def algorithm_table(results: Results, dataset: str) -> list[str]:
    """With all labels, from random initialisation."""
    metric = f"{SCORES[dataset]} pooled@1.0"
    central, rows = results.by_seed(dataset, "central", metric), []
    for variant, name in VARIANTS.items():
        if not (by_seed := results.by_seed(dataset, variant, metric)):
            continue
        pooled = list(by_seed.values())
        ratios = [by_seed[seed] / central[seed] for seed in by_seed.keys() & central.keys()]
        ratio = f"{100 * fmean(ratios):.1f} %" if ratios else "-"
        seconds = results.values(dataset, variant, "seconds@1.0")
        sites = format_mean(_values(results, dataset, variant, "mean"))
        minutes = f"{fmean(seconds) / 60:.1f}" if seconds else "-"
        rows.append([name, str(len(pooled)), sites, format_mean(pooled), ratio, minutes])
    return markdown_table(
        ["trained by", "seeds", "mean over sites", "all test images", "of centralised", "minutes"], rows
    )


def _values(results: Results, dataset: str, variant: str, part: str, fraction: str = "1.0") -> list[float]:
    return results.values(dataset, variant, f"{SCORES[dataset]} {part}@{fraction}")
