"""The tables of drawn images that benchmarks.experiments.results puts into docs/results.md."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean

from benchmarks.experiments.results import Results, shown, table

SITES = {"brain": 3, "phantom": 4}
GENERATORS = {
    "gan": "GAN", "diffusion": "diffusion", "diffusion_by_site": "diffusion that knows the site",
    "diffusion_central": "the same, centralised",
}  # fmt: skip
DRAWN = tuple(GENERATORS)[:3]
CHEAP = {
    "diffusion_by_site": "fp32", "diffusion_int8": "int8", "diffusion_halves": "int8, halves of the U-Net (FedDiffuse)",
}  # fmt: skip
ACCURACY = "balanced_accuracy"


def alone_table(results: Results, data: str) -> list[str]:
    """Balanced accuracy at every site of classifiers that saw real images of one site, of all, or drawn ones."""
    sites = [f"hospital_{at}" for at in range(1, SITES[data] + 1)]
    rows = [_row(results, data, f"alone_{at}", f"real images of hospital_{at}", "", sites) for at in _numbers(data)]
    rows.append(_row(results, data, "real", "real images of all", "", sites))
    rows += [_row(results, data, way, f"drawn by the {GENERATORS[way]}", "tstr ", sites) for way in DRAWN]
    return table(["trained on", "seeds", *(f"tested at {site}" for site in sites), "all", "AUROC, all"], rows)


def together_table(results: Results, data: str) -> list[str]:
    """Of classifiers with 10 % of the labels, alone and with drawn images in every batch."""
    base = _scores(results, data, "real_10", "")
    rows = [["10 % of the labels", *base, "-"]]
    for way in DRAWN:
        what = "real_10 and drawn "
        name = f"and images of the {GENERATORS[way]}"
        rows.append([name, *_scores(results, data, way, what), _delta(results, data, way, what)])
    rows.append(["100 % of the labels", *_scores(results, data, "real", ""), _delta(results, data, "real", "")])
    return table(["trained on", "seeds", "balanced accuracy", "AUROC", "points gained"], rows)


def generator_table(results: Results, data: str) -> list[str]:
    """How near drawn images are to real ones, and whether they are copies."""
    measures = ("all fid", "auc")
    rows = []
    for way, name in GENERATORS.items():
        values = [_values(results, data, way, m) for m in measures]
        if values[0]:
            copies, seconds = _values(results, data, way, "copies"), _values(results, data, way, "seconds")
            last = [f"{fmean(copies):.1f}", f"{fmean(seconds) / 60:.1f}"]
            rows.append([name, str(len(values[0])), *map(shown, values), *last])
    if held := _values(results, data, "diffusion", "all held_out_fid"):
        rows.append(["held-out real images", str(len(held)), shown(held), *["-"] * 3])
    head = ["generator", "seeds", "Frechet distance", "membership AUC", "copies in 1,000", "minutes"]
    return table(head, rows)


def price_table(results: Results) -> list[str]:
    """What short messages cost in distance, on phantoms and with one seed."""
    rows = []
    for way, name in CHEAP.items():
        values = [results.by_seed("phantom", way, m).get("0") for m in ("up_mb", "down_mb", "all fid")]
        rows.append([name, *("-" if v is None else f"{v:.2f}" for v in values)])
    return table(["weights sent as", "up, MB a visit", "down, MB a visit", "Frechet distance"], rows)


def _row(results: Results, data: str, way: str, name: str, what: str, sites: Sequence[str]) -> list[str]:
    found = [_values(results, data, way, f"{what}{ACCURACY} {site}") for site in (*sites, "pooled")]
    return [name, str(len(found[-1])), *map(shown, found), shown(_values(results, data, way, f"{what}auroc pooled"))]


def _scores(results: Results, data: str, way: str, what: str) -> list[str]:
    found = [_values(results, data, way, f"{what}{key} pooled") for key in (ACCURACY, "auroc")]
    return [str(len(found[0])), *map(shown, found)]


def _delta(results: Results, data: str, way: str, what: str) -> str:
    """Seed by seed, against the same labels alone."""
    a = results.by_seed(data, way, f"{what}{ACCURACY} pooled")
    b = results.by_seed(data, "real_10", f"{ACCURACY} pooled")
    return shown([100 * (a[seed] - b[seed]) for seed in sorted(a.keys() & b.keys())], 1, sign=True)


def _values(results: Results, data: str, way: str, measure: str) -> list[float]:
    return list(results.by_seed(data, way, measure).values())


def _numbers(data: str) -> range:
    return range(1, SITES[data] + 1)
