"""From a `Run` to one self-contained HTML page: no script, no request, every text escaped."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from fedcore.report import digest, summary
from fedcore.report.pictures import albums
from fedcore.report.run import Estimate, Run, Score

if TYPE_CHECKING:
    from jinja2 import Environment

_COLOURS, _DASHES = 7, 4  # as many as page.css has; 28 sites stay distinct


@dataclass(frozen=True)
class Bar:
    """A score of a site, or of all; `at` holds value, low and high in percent of a track from 0 to 1."""

    owner: str
    score: Estimate
    at: dict[str, float]


def page(run: Run, *, images: bool = True) -> str:
    """The page as text; without `images` no pixel of a site is in it."""
    gaps = list(run.gaps)
    shown = albums(run.folder, run.sites, gaps) if images else ()
    marks = {site: _mark(at) for at, site in enumerate(run.sites)}
    template = _environment().get_template("page.html.j2")
    return template.render(
        run=run,
        verdict=summary.verdict(run),
        sentence=summary.sentence(run),
        figures=summary.key_figures(run),
        results=results(run),
        training=digest.training_charts(run),
        survey=digest.survey_charts(run),
        albums=shown,
        ledger=digest.ledger(run),
        ledger_charts=digest.ledger_charts(run),
        departures=digest.departures(run),
        kinds=digest.kinds(run),
        refusals=[(turn.index, site, why) for turn in run.turns for site, why in turn.refused.items()],
        gaps=gaps,
        mark=lambda site: marks[site],
    )


def write(text: str, path: Path) -> Path:
    """Write `text` beside `path` first and then move it there: a reader never meets half a page."""
    half = path.with_name(f".{path.name}.half")
    half.write_text(text, encoding="utf-8", errors="replace")  # JSON and file names may hold lone surrogates
    return half.replace(path)


def results(run: Run) -> dict[str, list[Bar]]:
    """For each metric, by its name, a bar for each site and one for all of them."""
    if not run.scores:
        return {}
    rows: dict[str, Score] = dict(run.scores.sites)
    if run.scores.pooled:
        rows["All sites, pooled"] = run.scores.pooled
    bars: dict[str, list[Bar]] = {}
    for owner, score in rows.items():
        for metric, estimate in score.metrics.items():
            bars.setdefault(summary.metric_name(metric), []).append(_bar(owner, estimate))
    return bars


def _bar(owner: str, score: Estimate) -> Bar:
    ends = {"value": score.value, "low": score.low, "high": score.high}
    at = {end: round(100 * min(max(found, 0.0), 1.0), 1) for end, found in ends.items() if found is not None}
    return Bar(owner, score, at)


def _mark(at: int) -> str:
    """CSS classes of the n-th site: a colour, and a dash once the colours are used up."""
    return f"s{at % _COLOURS} d{at // _COLOURS % _DASHES}"


def _environment() -> Environment:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    made = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters |= {"size": summary.size, "interval": summary.interval, "words": _words}
    return made


def _words(name: str) -> str:
    return name.replace("_", " ")
