"""Renders a run, or a comparison of several, as a self-contained HTML page: no script, no request, text escaped."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import cache
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedcore.report import units
from fedcore.report.charts.collapse import EXPLANATION, collapse_check
from fedcore.report.charts.feature_map import feature_map
from fedcore.report.charts.reliability import reliability_chart
from fedcore.report.charts.traffic_flow import levels_sent, traffic_flows
from fedcore.report.read.levels import LEVELS, MOST_SENSITIVE, disagreements, meaning
from fedcore.report.read.run import Run
from fedcore.report.sections import comparison, gains, results, summary, traffic, training
from fedcore.report.sections.augmented_views import read_views
from fedcore.report.sections.feature_gallery import read_features
from fedcore.report.sections.generator_samples import read_samples
from fedcore.report.sections.nearest_pairs import read_pairs
from fedcore.report.sections.segmentation_gallery import read_segmentations
from fedcore.report.sections.set_audit import audit_tables

if TYPE_CHECKING:
    from jinja2 import Environment

_COLOURS, _DASHES = 7, 4  # as many as page.css has; 28 sites stay distinct
_TEXT = 200_000  # characters of one text: a recipe may have any length
_LIST = 400_000  # characters of a list: some thousand entries


def report_page(run: Run, *, images: bool = True) -> str:
    """The page as text; without `images` it holds no pixel of a site and no feature of single images."""
    return _page(
        run, images, kind="report", title=f"{run.name} · fedpretrain {run.command}", place="",
        sentence=summary.sentence(run), key_figures=summary.key_figures(run),
    )  # fmt: skip


def site_page(site: Run, *, images: bool = True) -> str:
    """The page of one site, as `fedcore.report.read.site.read_site` reads it.

    Without `images` it has no texts of errors either, which may quote anything.
    """
    if not images:
        site = replace(site, notes=())
    return _page(
        site, images, kind="site", title=f"{site.name} · its own page · fedpretrain", place="one site",
        sentence=summary.site_sentence(site), key_figures=summary.site_figures(site),
    )  # fmt: skip


def _page(run: Run, images: bool, **heading: Any) -> str:
    gaps = [*run.gaps, *disagreements(run)]
    of_images = _of_images(run, gaps) if images else _without_images()
    return _render(
        "page.html.j2",
        run=run,
        status=summary.status(run),
        score_bars=results.score_bars(run),
        score_table=results.score_table(run),
        finding_table=results.finding_table(run),
        reliability=reliability_chart(run),
        audit_tables=audit_tables(run),
        training_charts=training.training_charts(run),
        evaluation_charts=training.evaluation_charts(run),
        collapse=collapse_check(run),
        collapse_explanation=EXPLANATION,
        flows=traffic_flows(run),
        levels=levels_sent(run),
        kinds=traffic.kinds(run),
        directions=traffic.directions(run),
        traffic=traffic.site_traffic(run),
        traffic_charts=traffic.traffic_charts(run),
        sent_fields=traffic.sent_fields(run),
        failed_visits=[(one.index, site, why) for one in run.rounds for site, why in one.refused.items()],
        skipped=_fitting(run.skipped),
        gaps=gaps,
        mark=_marks(run.sites),
        **heading,
        **of_images,
    )


def comparison_page(runs: Sequence[Run], families: Sequence[str] = ()) -> str:
    """Several runs compared, as text, those of a pipeline with their families; it never holds pixels."""
    compared = comparison.compared(runs, families)
    return _render(
        "comparison.html.j2",
        kind="comparison",
        title=f"{len(runs)} runs · fedpretrain comparison",
        runs=compared,
        families=comparison.families(compared),
        measures=comparison.measures(compared),
        warnings=[*comparison.warnings(compared), *gains.unpaired(compared)],
        gains=gains.pairs(compared),
        probe_chart=comparison.probe_chart(compared),
        label_charts=comparison.efficiency_charts(compared),
        probe_traffic=comparison.probe_traffic(compared),
        score_traffic=comparison.score_traffic(compared),
        mark=_marks_of_runs(compared),
    )


def _of_images(run: Run, gaps: list[str]) -> dict[str, Any]:
    """Sections that show images of the sites, or features of single images."""
    features = read_features(run.folder, run.sites, run.classes, gaps)
    samples = read_samples(run.folder, run.sites, run.classes, gaps)
    segmentations = read_segmentations(run.folder, run.sites, gaps)
    if not (features or samples or segmentations):
        gaps += _missing_figures(run)
    audited = run.set_audit.set if run.set_audit else None
    return {
        "features": [one for one in features if one.rows],
        "feature_map": feature_map(features, run.classes, gaps) if features else None,
        "samples": samples,
        "segmentations": segmentations,
        "views": read_views(run.folder, run.sites, gaps),
        "nearest_pairs": read_pairs(run.folder, run.sites, audited, gaps) if audited else (),
    }


def _without_images() -> dict[str, Any]:
    empty = dict.fromkeys(("features", "samples", "segmentations", "views", "nearest_pairs"), ())
    return empty | {"feature_map": None}


def _missing_figures(run: Run) -> list[str]:
    """The figures that a run of its kind should have kept at its sites."""
    if (run.command, run.status) == ("pretrain", "finished"):
        return ["No site kept a feature gallery: no map of features, no nearest neighbours."]
    if (run.command, run.status) == ("segment", "finished"):
        return ["No site kept test images with their masks."]
    if run.command != "generate":
        return []
    if run.status == "finished":
        return ["No site kept synthetic images."]
    return ["Sites keep synthetic images at the end of a run; this run has not ended."]


def _marks(names: Iterable[str]) -> Callable[[str], str]:
    """Name -> CSS classes of the n-th name: a colour, and a dash once all colours are used."""
    found = {name: f"s{at % _COLOURS} d{at // _COLOURS % _DASHES}" for at, name in enumerate(names)}
    return lambda name: found.get(name, "pooled")


def _marks_of_runs(runs: Sequence[comparison.ComparedRun]) -> Callable[[str], str]:
    """A fine-tuned run has the colour of its family, which may have the name of another run."""
    group = _marks(dict.fromkeys(run.family or run.name for run in runs))
    found = {run.name: group(run.family or run.name) for run in runs}
    found |= {run.family: group(run.family) for run in runs if run.family}
    return found.__getitem__


def _render(template: str, **values: Any) -> str:
    return _environment().get_template(template).render(**values)


@cache
def _environment() -> Environment:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    made = Environment(
        loader=FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters |= {
        "size": units.size,
        "interval": units.interval,
        "points": units.points,
        "duration": units.duration,
        "rounded": units.rounded,
        "spaced": _spaced,
        "cut": _cut,
        "level_mark": _level_mark,
        "shortened": _shortened,
    }
    made.globals |= {"meaning": meaning, "most_sensitive": MOST_SENSITIVE}
    return made


def _spaced(name: str) -> str:
    return name.replace("_", " ")


def _fitting(texts: Sequence[str]) -> Sequence[str]:
    """As many as fit on a small page: all of them unless they are many thousand."""
    ends = accumulate(len(text) for text in texts)
    return texts[: sum(end < _LIST for end in ends)]


def _cut(text: str) -> str:
    return text if len(text) <= _TEXT else text[:_TEXT] + "\n[cut here: the file is longer]"


def _shortened(name: str, most: int = 15) -> str:
    """Without its middle: names of sites often start alike and differ at the end."""
    half = most // 2
    return name if len(name) <= most else f"{name[:half]}…{name[-half:]}"


def _level_mark(level: str) -> str:
    """The CSS class of a privacy level."""
    return f"r{LEVELS.index(level) if level in LEVELS else len(LEVELS)}"
