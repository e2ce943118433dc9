"""Curves by round: training loss and duration of each site, and what the evaluations between rounds measured."""

from __future__ import annotations

from collections.abc import Callable
from statistics import fmean

from fedcore.report.charts.line_chart import LineChart, line_chart
from fedcore.report.read.run import RoundSummary, Run

_MEASURES = {
    "knn": (
        "kNN probe: accuracy",
        "Nearest-neighbour classification of test images by frozen features; higher is better.",
    ),
    "linear": ("Linear probe: accuracy", "A linear layer on frozen features; higher is better."),
    "feature_std": (
        "Feature std",
        "Mean standard deviation of normalised features; 0: collapse, 1: ideal.",
    ),
    "effective_rank": (
        "Effective rank of the features",
        "Number of dimensions in use; 1: collapse, 10 and more: good.",
    ),
}


def probes(run: Run) -> list[tuple[int, float]]:
    """(round, mean kNN accuracy over the evaluated sites) of each round that has one."""
    return [
        (one.index, fmean(found))
        for one in run.rounds
        if (found := [measures["knn"] for measures in one.evaluation.values() if "knn" in measures])
    ]


def best_probe(run: Run) -> tuple[float, int] | None:
    """The highest mean kNN accuracy, and its round."""
    means = [(value, at) for at, value in probes(run)]
    return max(means, key=lambda pair: pair[0], default=None)


def training_charts(run: Run) -> tuple[LineChart, ...]:
    """Losses and duration of the training visits."""
    loss = _curves(run, lambda one, site: one.visits[site].metrics.get("loss") if site in one.visits else None)
    seconds = _curves(run, lambda one, site: one.visits[site].seconds if site in one.visits else None)
    failed = {site: [(one.index, one.refused[site]) for one in run.rounds if site in one.refused] for site in run.sites}
    caption = "Mean training loss of a visit."
    if any(failed.values()):
        caption += " A cross marks a failed visit."
    charts = [line_chart("Loss", caption, loss, crosses=failed)] if loss else []
    charts += [_loss_chart(run, name) for name in _losses(run)]
    pace = "A round lasts as long as the visit of its slowest site."
    charts += [line_chart("Seconds per visit", pace, seconds, zero=True)] if seconds else []
    return tuple(charts)


def evaluation_charts(run: Run) -> tuple[LineChart, ...]:
    """A chart for each measure of the evaluations between rounds, the known ones first."""
    measured = {name for one in run.rounds for measures in one.evaluation.values() for name in measures}
    known = [name for name in _MEASURES if name in measured]
    return tuple(_measure_chart(run, name) for name in [*known, *sorted(measured - {*known, "images"})])


def _losses(run: Run) -> list[str]:
    """Names of further losses, for example of a generator network and its discriminator."""
    return sorted({name for visit in run.visits for name in visit.metrics if name.endswith("_loss")})


def _loss_chart(run: Run, name: str) -> LineChart:
    points = _curves(run, lambda one, site: one.visits[site].metrics.get(name) if site in one.visits else None)
    return line_chart(name.replace("_", " ").capitalize(), "Mean over a visit.", points)


def _measure_chart(run: Run, name: str) -> LineChart:
    """Measures of collapse have an axis that starts at 0, which is collapse."""
    title, caption = _MEASURES.get(name, (name.replace("_", " ").capitalize(), "Measured between rounds."))
    points = _curves(run, lambda one, site: one.evaluation.get(site, {}).get(name))
    std = name == "feature_std"
    ideal = (1.0, "1: ideal") if std else None
    return line_chart(title, caption, points, reference=ideal, zero=std or name == "effective_rank")


def _curves(run: Run, value: Callable[[RoundSummary, str], float | None]) -> dict[str, list[tuple[int, float]]]:
    """Site -> (round, value) where there is one; sites without any are left out."""
    found = {
        site: [(one.index, at) for one in run.rounds if (at := value(one, site)) is not None] for site in run.sites
    }
    return {site: points for site, points in found.items() if points}
