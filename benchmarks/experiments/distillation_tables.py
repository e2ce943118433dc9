"""The tables of distilled classifiers that benchmarks.experiments.page writes to docs/results.md."""

from __future__ import annotations

from benchmarks.experiments.results import Results, format_mean, markdown_table

ACCURACY = "balanced_accuracy"
NAMES = {
    ("oneshot", "members"): "local classifiers (mean over sites)",
    ("oneshot", "mean of weights"): "mean of the weights of the local classifiers",
    ("distil_pixels", ""): "student from random initialisation, all intermediate images, pixels (FedISCA)",
    ("distil_codes", ""): "student from random initialisation, all intermediate images, codes",
    ("distil_pixels_mean", ""): "student from the mean, all intermediate images, pixels",
    ("distil_mean", ""): "student from the mean, all intermediate images, codes",
    ("set_pixels", ""): "student from random initialisation, final images, pixels",
    ("set_codes", ""): "student from random initialisation, final images, codes",
    ("set_pixels_mean", ""): "student from the mean, final images, pixels",
    ("set_mean", ""): "student from the mean, final images, codes",
    ("distil_real", ""): "student from random initialisation, real images without labels",
    ("oneshot", "ensemble"): "mean of the logits of the local classifiers (the teacher)",
    ("oneshot_fedavg", ""): "FedAvg with the same number of steps, 16 rounds",
}
"""Variant and part of it, in the order of the table."""


def distillation_table(results: Results, dataset: str) -> list[str]:
    """Balanced accuracy on all test images, and the accuracy of the held-out classifiers on the inverted images."""
    rows = []
    for (variant, part), name in NAMES.items():
        accuracies = results.values(dataset, variant, f"{ACCURACY} {part}".strip())
        recognised = results.values(dataset, variant, "recognised")
        rows.append([name, str(len(accuracies)), format_mean(accuracies), format_mean(recognised)])
    return markdown_table(
        ["classifier", "seeds", "balanced accuracy", "held-out classifier's accuracy on the images"], rows
    )
