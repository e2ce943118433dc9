"""The tables of fine-tuning that benchmarks.experiments.page puts into docs/results.md."""

from __future__ import annotations

from statistics import fmean

from benchmarks.experiments.results import Results, plot_by_labels, shown, table

SCORES = {
    "nuclei": "dice", "hippocampus": "dice", "brain_tumor": "balanced_accuracy", "chest_xray": "balanced_accuracy"
}  # fmt: skip
NAMES = {"dice": "Dice", "balanced_accuracy": "balanced accuracy"}
FRACTIONS = {"0.05": "5 %", "0.2": "20 %", "1.0": "100 %"}
STARTS = {
    "local": "each site alone", "scratch": "together, random weights", "pretrained": "together, pretrained (SimCLR)",
    "central": "centralised, random weights", "drawn": "together, pretrained, with drawn images",
}  # fmt: skip
WAYS = {
    "local": "each site alone", "central": "centralised", "scratch": "FedAvg",
    "batch": "FedAvg, batch norm", "fedbn": "FedBN, batch norm", "fedprox": "FedProx",
    "scaffold": "SCAFFOLD", "fedadam": "FedAdam", "ditto": "Ditto, a model a site",
}  # fmt: skip


def efficiency_table(results: Results, data: str) -> list[str]:
    """The pooled score by the part of the labels, and a picture of it."""
    lines = {
        name: [_values(results, data, way, "pooled", fraction) for fraction in FRACTIONS]
        for way, name in STARTS.items()
        if _values(results, data, way, "pooled")
    }
    rows = [[name, str(max(map(len, values))), *map(shown, values)] for name, values in lines.items()]
    for way, told in {"pretrained": "points gained by pretraining", "drawn": "and with drawn images"}.items():
        gains = [results.delta(data, way, "scratch", f"{SCORES[data]} pooled@{f}") for f in FRACTIONS]
        if any(gains):
            rows.append([told, "", *(shown([100 * gain for gain in found], 1, sign=True) for found in gains)])
    score = NAMES[SCORES[data]]
    picture = plot_by_labels(lines, list(FRACTIONS), score, f"labels_{data}.svg")
    plot = ["", f"![{score[0].upper()}{score[1:]} by fraction of labels](images/{picture})"] if picture else []
    return [*table(["trained", "seeds", *FRACTIONS.values()], rows), *plot]


def ways_table(results: Results, data: str) -> list[str]:
    """With all labels, from random weights."""
    measure = f"{SCORES[data]} pooled@1.0"
    central, rows = results.by_seed(data, "central", measure), []
    for way, name in WAYS.items():
        if not (found := results.by_seed(data, way, measure)):
            continue
        pooled, parts = list(found.values()), [found[seed] / central[seed] for seed in found.keys() & central.keys()]
        part = f"{100 * fmean(parts):.1f} %" if parts else "-"
        seconds = list(results.by_seed(data, way, "seconds@1.0").values())
        sites = shown(_values(results, data, way, "mean"))
        minutes = f"{fmean(seconds) / 60:.1f}" if seconds else "-"
        rows.append([name, str(len(pooled)), sites, shown(pooled), part, minutes])
    return table(["trained by", "seeds", "mean over sites", "all test images", "of centralised", "minutes"], rows)


def _values(results: Results, data: str, way: str, of: str, fraction: str = "1.0") -> list[float]:
    return list(results.by_seed(data, way, f"{SCORES[data]} {of}@{fraction}").values())
