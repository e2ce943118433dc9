"""The table of FedVSS settings that benchmarks.experiments.page writes to docs/results.md."""

from __future__ import annotations

from benchmarks.experiments.results import Results, format_mean, markdown_table

DATASET, SCORES = "phantom_validation", ("balanced_accuracy", "auroc")
SETTINGS = {
    "none": (0.0, 0.0, 0.005),
    "strong": (1.0, 1.0, 0.02),
    "local": (0.3, 0.0, 0.005),
    "local_small": (1.0, 0.0, 0.002),
    "global": (0.0, 1.0, 0.005),
    "both": (0.3, 0.3, 0.005),
    "both_weak": (0.1, 1.0, 0.005),
}
"""lambda_l, lambda_g and eps."""


def settings_table(results: Results) -> list[str]:
    rows = []
    for name, setting in SETTINGS.items():
        values = [results.values(DATASET, name, score) for score in SCORES]
        gains = [100 * d for d in results.delta(DATASET, name, "none", SCORES[0])]
        last = "-" if name == "none" else format_mean(gains, 1, sign=True)
        rows.append([*map(str, setting), str(len(values[0])), *map(format_mean, values), last])
    return markdown_table(["lambda_l", "lambda_g", "eps", "seeds", "balanced accuracy", "AUROC", "points gained"], rows)
