"""The scores of a run: bars with intervals, and a table with one row per site."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from fedcore.report.read.run import Estimate, ModelScores, Run
from fedcore.report.units import is_distance, measured_on, metric_name

POOLED = "All sites, pooled"
_MEASURES = {
    "knn": "kNN accuracy", "linear": "Linear probe accuracy", "feature_std": "Feature std",
    "effective_rank": "Effective rank",
}  # fmt: skip
_NO_BAR = ("ece",)  # lower is better, and it has a chart of its own


@dataclass(frozen=True)
class ScoreBar:
    """A score of a site, or of all sites; `at` holds value, low and high in percent of a track from 0 to 1."""

    owner: str
    score: Estimate
    at: dict[str, float]


@dataclass(frozen=True)
class ScoreTable:
    """`rows` holds, by site, a value or None for each column, and the number of images they were measured on."""

    columns: tuple[str, ...]
    rows: tuple[tuple[str, tuple[Estimate | None, ...], int | None], ...]
    note: str


def score_bars(run: Run) -> dict[str, list[ScoreBar]]:
    """For each metric, by its title, a bar for each site and one for all sites."""
    found: dict[str, list[ScoreBar]] = {}
    for owner, score in scores_by_site(run).items():
        for metric, estimate in score.metrics.items():
            if metric in _NO_BAR or is_distance(metric):  # not on a track from 0 to 1; the table has them
                continue
            found.setdefault(metric_name(metric), []).append(_bar(owner, estimate))
    return found


def score_table(run: Run) -> ScoreTable | None:
    """The scores of a fine-tuned run, else those of each site's last evaluation; None without either."""
    if run.scores and (found := scores_by_site(run)):
        metrics = list(dict.fromkeys(name for score in found.values() for name in score.metrics))
        rows = tuple((owner, tuple(map(score.metrics.get, metrics)), score.images) for owner, score in found.items())
        return ScoreTable(
            tuple(metric_name(name, run.scores.distance_unit) for name in metrics), rows, _note(run.scores.grid, found)
        )
    last = {site: measures for one in run.rounds for site, measures in one.evaluation.items()}
    names = [name for name in _MEASURES if any(name in measures for measures in last.values())]
    rows = tuple(
        (site, tuple(_plain(last[site].get(name)) for name in names), _images(last[site]))
        for site in run.sites
        if site in last
    )
    return ScoreTable(tuple(_MEASURES[name] for name in names), rows, "From the last evaluation.") if names else None


def scores_by_site(run: Run) -> dict[str, ModelScores]:
    """Also of all sites, under POOLED."""
    if not run.scores:
        return {}
    return {**run.scores.sites} | ({POOLED: run.scores.pooled} if run.scores.pooled else {})


def finding_table(run: Run) -> ScoreTable | None:
    """AUROC of each finding, one column per site; None where an image has exactly one class."""
    found = {owner: score.findings for owner, score in scores_by_site(run).items()}
    names = dict.fromkeys(name for findings in found.values() for name in findings)
    rows = tuple((name, tuple(findings.get(name) for findings in found.values()), None) for name in names)
    return ScoreTable(tuple(found), rows, "A dash: all images of the site have the finding, or none.") if rows else None


def _note(grid: str, found: Mapping[str, ModelScores]) -> str:
    parts = ["Small: 95 % confidence intervals.", f"Masks were {measured_on(grid)}." if grid else ""]
    parts += [f"{owner}: {score.note}." for owner, score in found.items() if score.note]
    return " ".join(part for part in parts if part)


def _plain(value: float | None) -> Estimate | None:
    return None if value is None else Estimate(value, None, None)


def _images(measures: Mapping[str, float]) -> int | None:
    found = measures.get("images")
    return None if found is None else int(found)


def _bar(owner: str, score: Estimate) -> ScoreBar:
    ends = {"value": score.value, "low": score.low, "high": score.high}
    at = {end: round(100 * min(max(found, 0.0), 1.0), 1) for end, found in ends.items() if found is not None}
    return ScoreBar(owner, score, at)
