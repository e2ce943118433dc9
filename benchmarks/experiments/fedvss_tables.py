"""The table of FedVSS's settings that benchmarks.experiments.page puts into docs/results.md."""

from __future__ import annotations

from benchmarks.experiments.results import Results, shown, table

DATA, SCORES = "phantom_validation", ("balanced_accuracy", "auroc")
CHOICES = {
    "none": (0.0, 0.0, 0.005),
    "strong": (1.0, 1.0, 0.02),
    "local": (0.3, 0.0, 0.005),
    "local_small": (1.0, 0.0, 0.002),
    "global": (0.0, 1.0, 0.005),
    "both": (0.3, 0.3, 0.005),
    "both_weak": (0.1, 1.0, 0.005),
}
"""lambda_l, lambda_g and eps."""


def choices_table(results: Results) -> list[str]:
    rows = []
    for way, choice in CHOICES.items():
        found = [list(results.by_seed(DATA, way, score).values()) for score in SCORES]
        gained = [100 * d for d in results.delta(DATA, way, "none", SCORES[0])]
        last = "-" if way == "none" else shown(gained, 1, sign=True)
        rows.append([*map(str, choice), str(len(found[0])), *map(shown, found), last])
    return table(["lambda_l", "lambda_g", "eps", "seeds", "balanced accuracy", "AUROC", "points gained"], rows)
