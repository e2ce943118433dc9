"""The tables of synthetic images that benchmarks.experiments.page writes to docs/results.md."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean

from benchmarks.experiments.results import Results, format_mean, markdown_table

SITES = {"brain": 3, "phantom": 4}
GENERATORS = {
    "gan": "GAN", "diffusion": "diffusion", "diffusion_by_site": "diffusion, conditioned on the site",
    "diffusion_central": "diffusion, conditioned on the site, centralised",
}  # fmt: skip
FEDERATED = tuple(GENERATORS)[:3]
SMALL_MESSAGES = {
    "diffusion_by_site": "fp32", "diffusion_int8": "int8", "diffusion_halves": "int8, halves of the U-Net (FedDiffuse)",
}  # fmt: skip
ACCURACY = "balanced_accuracy"


def synthetic_only_table(results: Results, dataset: str) -> list[str]:
    """Balanced accuracy at every site of classifiers trained on real images of one or all sites, or on synthetic."""
    sites = [f"hospital_{number}" for number in range(1, SITES[dataset] + 1)]
    rows = [
        _row(results, dataset, f"alone_{number}", f"real images of hospital_{number}", "", sites)
        for number in _site_numbers(dataset)
    ]
    rows.append(_row(results, dataset, "real", "real images of all sites", "", sites))
    rows += [
        _row(results, dataset, variant, f"synthetic images, {GENERATORS[variant]}", "tstr ", sites)
        for variant in FEDERATED
    ]
    return markdown_table(["trained on", "seeds", *(f"tested at {site}" for site in sites), "all", "AUROC, all"], rows)


def augmentation_table(results: Results, dataset: str) -> list[str]:
    """Classifiers with 10 % of the labels, with and without synthetic images in every batch."""
    base = _scores(results, dataset, "real_10", "")
    rows = [["10 % of the labels", *base, "-"]]
    for variant in FEDERATED:
        prefix = "real_10 and synthetic "
        name = f"and synthetic images, {GENERATORS[variant]}"
        rows.append([name, *_scores(results, dataset, variant, prefix), _delta(results, dataset, variant, prefix)])
    rows.append(["100 % of the labels", *_scores(results, dataset, "real", ""), _delta(results, dataset, "real", "")])
    return markdown_table(["trained on", "seeds", "balanced accuracy", "AUROC", "points gained"], rows)


def generator_table(results: Results, dataset: str) -> list[str]:
    """Distance of synthetic images to real ones, and copies among them."""
    metrics = ("all fid", "auc")
    rows = []
    for variant, name in GENERATORS.items():
        values = [_values(results, dataset, variant, m) for m in metrics]
        if values[0]:
            copies, seconds = (
                _values(results, dataset, variant, "copies"),
                _values(results, dataset, variant, "seconds"),
            )
            last = [f"{fmean(copies):.1f}", f"{fmean(seconds) / 60:.1f}"]
            rows.append([name, str(len(values[0])), *map(format_mean, values), *last])
    if held_out := _values(results, dataset, "diffusion", "all held_out_fid"):
        rows.append(["held-out real images", str(len(held_out)), format_mean(held_out), *["-"] * 3])
    head = ["generator", "seeds", "Frechet distance", "membership AUC", "copies in 1,000", "minutes"]
    return markdown_table(head, rows)


def message_size_table(results: Results) -> list[str]:
    """Bytes and Frechet distance with smaller messages, on phantoms and with one seed."""
    rows = []
    for variant, name in SMALL_MESSAGES.items():
        values = [results.by_seed("phantom", variant, m).get("0") for m in ("up_mb", "down_mb", "all fid")]
        rows.append([name, *("-" if v is None else f"{v:.2f}" for v in values)])
    return markdown_table(["weights sent as", "up, MB per visit", "down, MB per visit", "Frechet distance"], rows)


def _row(results: Results, dataset: str, variant: str, name: str, prefix: str, sites: Sequence[str]) -> list[str]:
    values = [_values(results, dataset, variant, f"{prefix}{ACCURACY} {site}") for site in (*sites, "pooled")]
    return [
        name,
        str(len(values[-1])),
        *map(format_mean, values),
        format_mean(_values(results, dataset, variant, f"{prefix}auroc pooled")),
    ]


def _scores(results: Results, dataset: str, variant: str, prefix: str) -> list[str]:
    values = [_values(results, dataset, variant, f"{prefix}{key} pooled") for key in (ACCURACY, "auroc")]
    return [str(len(values[0])), *map(format_mean, values)]


def _delta(results: Results, dataset: str, variant: str, prefix: str) -> str:
    """Points gained over the same labels without synthetic images, seed by seed."""
    a = results.by_seed(dataset, variant, f"{prefix}{ACCURACY} pooled")
    b = results.by_seed(dataset, "real_10", f"{ACCURACY} pooled")
    return format_mean([100 * (a[seed] - b[seed]) for seed in sorted(a.keys() & b.keys())], 1, sign=True)


def _values(results: Results, dataset: str, variant: str, metric: str) -> list[float]:
    return results.values(dataset, variant, metric)


def _site_numbers(dataset: str) -> range:
    return range(1, SITES[dataset] + 1)
