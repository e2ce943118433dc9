"""The plots of docs/results.md."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean

PLOTS = Path("docs/images")


def plot_by_labels(
    lines: Mapping[str, Sequence[Sequence[float]]], fractions: Sequence[str], score: str, name: str
) -> str | None:
    """One line per start: the mean over seeds at each fraction of the labels, with the range of the seeds."""
    figure, axes = new_figure()
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
    return save_figure(figure, axes, name)


def new_figure():  # type: ignore[no-untyped-def]
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams |= {"svg.hashsalt": "fedpretrain", "font.size": 9.5, "axes.spines.top": False,
                            "axes.spines.right": False, "axes.grid": True, "grid.alpha": 0.3}  # fmt: skip
    import matplotlib.pyplot as plt

    return plt.subplots(figsize=(6.2, 3.6), layout="constrained")


def save_figure(figure, axes, name: str) -> str | None:  # type: ignore[no-untyped-def]
    """The file's name, or None for a figure without data, which is not saved."""
    has_data = axes.has_data()
    if has_data:
        axes.legend(frameon=False, fontsize=8.5)
        figure.savefig(PLOTS / name, metadata={"Date": None})
    import matplotlib.pyplot as plt

    plt.close(figure)
    return name if has_data else None
