"""The scores of a run: bars with intervals, and a table with a line a site."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from fedcore.report.read.run import Estimate, Run, Score
from fedcore.report.units import is_distance, measured_on, metric_name

POOLED = "All sites, pooled"
_MEASURES = {"knn": "kNN", "linear": "Linear probe", "feature_std": "Spread", "effective_rank": "Effective rank"}
_DRAWN_ELSEWHERE = ("ece",)  # less of it is better, and it has a chart of its own


@dataclass(frozen=True)
class Bar:
    """A score of a site, or of all; `at` holds value, low and high in percent of a track from 0 to 1."""

    owner: str
    score: Estimate
    at: dict[str, float]


@dataclass(frozen=True)
class Final:
    """`rows` holds, by site, a value or None for each column, and the number of images it was measured on."""

    columns: tuple[str, ...]
    rows: tuple[tuple[str, tuple[Estimate | None, ...], int | None], ...]
    note: str


def bars(run: Run) -> dict[str, list[Bar]]:
    """For each metric, by its name, a bar for each site and one for all of them."""
    found: dict[str, list[Bar]] = {}
    for owner, score in scored(run).items():
        for metric, estimate in score.metrics.items():
            if metric in _DRAWN_ELSEWHERE or is_distance(metric):  # on no track from 0 to 1; the table tells them
                continue
            found.setdefault(metric_name(metric), []).append(_bar(owner, estimate))
    return found


def final(run: Run) -> Final | None:
    """The scores of a fine-tuned run, else what each site's last survey measured; None where there is neither."""
    if run.scores and (found := scored(run)):
        metrics = list(dict.fromkeys(name for score in found.values() for name in score.metrics))
        rows = tuple((owner, tuple(map(score.metrics.get, metrics)), score.images) for owner, score in found.items())
        return Final(tuple(metric_name(name, run.scores.unit) for name in metrics), rows, _note(run.scores.grid, found))
    surveys = {site: survey for turn in run.turns for site, survey in turn.survey.items()}
    names = [name for name in _MEASURES if any(name in survey for survey in surveys.values())]
    rows = tuple(
        (site, tuple(_plain(surveys[site].get(name)) for name in names), _images(surveys[site]))
        for site in run.sites
        if site in surveys
    )
    return Final(tuple(_MEASURES[name] for name in names), rows, "As measured by the last survey.") if names else None


def scored(run: Run) -> dict[str, Score]:
    """By site, and of all of them under POOLED."""
    if not run.scores:
        return {}
    return {**run.scores.sites} | ({POOLED: run.scores.pooled} if run.scores.pooled else {})


def by_finding(run: Run) -> Final | None:
    """AUROC of each finding, a column a site; None where an image is of one class."""
    found = {owner: score.findings for owner, score in scored(run).items()}
    names = dict.fromkeys(name for told in found.values() for name in told)
    rows = tuple((name, tuple(told.get(name) for told in found.values()), None) for name in names)
    return Final(tuple(found), rows, "A dash: all images have it, or none.") if rows else None


def _note(grid: str, found: Mapping[str, Score]) -> str:
    told = ["Behind each score stands its confidence interval.", f"Masks were {measured_on(grid)}." if grid else ""]
    told += [f"{owner}: {score.note}." for owner, score in found.items() if score.note]
    return " ".join(part for part in told if part)


def _plain(value: float | None) -> Estimate | None:
    return None if value is None else Estimate(value, None, None)


def _images(survey: object) -> int | None:
    found = survey.get("images") if isinstance(survey, dict) else None
    return None if found is None else int(found)


def _bar(owner: str, score: Estimate) -> Bar:
    ends = {"value": score.value, "low": score.low, "high": score.high}
    at = {end: round(100 * min(max(found, 0.0), 1.0), 1) for end, found in ends.items() if found is not None}
    return Bar(owner, score, at)
