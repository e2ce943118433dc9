"""The tables of distilled classifiers that benchmarks.experiments.page puts into docs/results.md."""

from __future__ import annotations

from benchmarks.experiments.results import Results, shown, table

ACCURACY = "balanced_accuracy"
NAMES = {
    ("oneshot", "members"): "each site's own classifier (mean of sites)",
    ("oneshot", "mean of weights"): "mean of their weights",
    ("distil_pixels", ""): "student from random weights, all images on their way, pixels (FedISCA)",
    ("distil_codes", ""): "the same, codes",
    ("distil_pixels_mean", ""): "student from the mean, all images on their way, pixels",
    ("distil_mean", ""): "the same, codes",
    ("set_pixels", ""): "student from random weights, finished images, pixels",
    ("set_codes", ""): "the same, codes",
    ("set_pixels_mean", ""): "student from the mean, finished images, pixels",
    ("set_mean", ""): "the same, codes",
    ("distil_real", ""): "student from random weights, on real images without labels",
    ("oneshot", "ensemble"): "mean of their logits (the teacher)",
    ("oneshot_fedavg", ""): "FedAvg with as many steps, 16 rounds",
}
"""Way and what of it, in the order of the table."""


def distilled_table(results: Results, data: str) -> list[str]:
    """Balanced accuracy over all test images, and how many inverted images the classifier left out recognises."""
    rows = []
    for (way, what), name in NAMES.items():
        found = list(results.by_seed(data, way, f"{ACCURACY} {what}".strip()).values())
        seen = list(results.by_seed(data, way, "recognised").values())
        rows.append([name, str(len(found)), shown(found), shown(seen)])
    return table(["classifier", "seeds", "balanced accuracy", "images recognised by the one left out"], rows)
