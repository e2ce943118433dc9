"""From a `Run`, or several, to one self-contained HTML page: no script, no request, every text escaped."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import cache
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedcore.report import units
from fedcore.report.charts import flow, reliability
from fedcore.report.charts.embedding import Embedding, embed
from fedcore.report.charts.gauge import BASIS, health
from fedcore.report.read import digest
from fedcore.report.read.run import Run
from fedcore.report.sections import audit as inspection
from fedcore.report.sections import comparison, gains, results, summary
from fedcore.report.sections.feature_gallery import Gallery, read_galleries
from fedcore.report.sections.generator_samples import read_exhibits
from fedcore.report.sections.images import albums
from fedcore.report.sections.nearest_pairs import read_lookalikes
from fedcore.report.sections.segmentation_gallery import read_outlines

if TYPE_CHECKING:
    from jinja2 import Environment

_COLOURS, _DASHES = 7, 4  # as many as page.css has; 28 sites stay distinct
_TEXT = 200_000  # characters of one text: a recipe's length is anybody's
_LIST = 400_000  # characters of a list: some thousand faults


def page(run: Run, *, images: bool = True) -> str:
    """The page as text; without `images` no pixel of a site is in it, and nothing of its gallery."""
    gaps = [*run.gaps, *digest.disagreements(run)]
    galleries = read_galleries(run.folder, run.sites, run.classes, gaps) if images else ()
    exhibits = read_exhibits(run.folder, run.sites, run.classes, gaps) if images else ()
    outlines = read_outlines(run.folder, run.sites, gaps) if images else ()
    if images and not (galleries or exhibits or outlines):
        gaps += _lacking(run)
    audited = run.inspection.set if run.inspection else None
    return _render(
        "page.html.j2",
        kind="report",
        title=f"{run.name} · fedpretrain {run.command}",
        run=run,
        verdict=summary.verdict(run),
        sentence=summary.sentence(run),
        figures=summary.key_figures(run),
        results=results.bars(run),
        final=results.final(run),
        findings=results.by_finding(run),
        reliability=reliability.reliability_chart(run),
        training=digest.training_charts(run),
        health=health(run),
        basis=BASIS,
        survey=digest.survey_charts(run),
        albums=albums(run.folder, run.sites, gaps) if images else (),
        galleries=[gallery for gallery in galleries if gallery.rows],
        embedding=_embedding(galleries, run, gaps),
        exhibits=exhibits,
        outlines=outlines,
        inspected=inspection.tables(run),
        lookalikes=read_lookalikes(run.folder, run.sites, audited, gaps) if images and audited else (),
        flows=flow.flows(run),
        revealed=flow.revealed(run),
        faults=_fitting(run.faults),
        ledger=digest.ledger(run),
        ledger_charts=digest.ledger_charts(run),
        departures=digest.departures(run),
        kinds=digest.kinds(run),
        refusals=[(turn.index, site, why) for turn in run.turns for site, why in turn.refused.items()],
        gaps=gaps,
        mark=_marks(run.sites),
    )


def comparison_page(runs: Sequence[Run], families: Sequence[str] = ()) -> str:
    """Several runs side by side, as text, those of a road with their families; no pixels whatever the runs hold."""
    entries = comparison.entries(runs, families)
    return _render(
        "comparison.html.j2",
        kind="comparison",
        title=f"{len(runs)} runs · fedpretrain comparison",
        entries=entries,
        families=comparison.families(entries),
        measures=comparison.measures(entries),
        warnings=[*comparison.warnings(entries), *gains.unpaired(entries)],
        gains=gains.pairs(entries),
        probe=comparison.probe_chart(entries),
        efficiency=comparison.efficiency_charts(entries),
        probe_traffic=comparison.probe_traffic(entries),
        score_traffic=comparison.score_traffic(entries),
        mark=_marks_of_runs(entries),
    )


def _lacking(run: Run) -> list[str]:
    """What a run without images of its sites should have had."""
    if (run.command, run.status) == ("pretrain", "finished"):
        return ["No site left a gallery, as runs of earlier versions do not: no map of features, no neighbours."]
    if (run.command, run.status) == ("segment", "finished"):
        return ["No site kept outlines of masks, as sites of earlier versions do not."]
    if run.command != "generate":
        return []
    if run.status == "finished":
        return ["No site kept drawn images, as sites of earlier versions do not."]
    return ["Sites keep drawn images at the end of a run, which this one has not reached."]


def _embedding(galleries: Sequence[Gallery], run: Run, gaps: list[str]) -> Embedding | None:
    return embed(galleries, run.classes, gaps) if galleries else None


def _marks(names: Iterable[str]) -> Callable[[str], str]:
    """Name -> CSS classes of the n-th name: a colour, and a dash once the colours are used up."""
    found = {name: f"s{at % _COLOURS} d{at // _COLOURS % _DASHES}" for at, name in enumerate(names)}
    return lambda name: found.get(name, "pooled")


def _marks_of_runs(entries: Sequence[comparison.Entry]) -> Callable[[str], str]:
    """A fine-tuned run has the colour of its family, which may be called as another of the runs."""
    group = _marks(dict.fromkeys(entry.family or entry.name for entry in entries))
    found = {entry.name: group(entry.family or entry.name) for entry in entries}
    found |= {entry.family: group(entry.family) for entry in entries if entry.family}
    return found.__getitem__


def _render(template: str, **values: Any) -> str:
    return _environment().get_template(template).render(**values)


@cache
def _environment() -> Environment:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    made = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
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
        "words": _words,
        "cut": _cut,
        "figure": inspection.figure,
        "revealing": _revealing,
        "shortened": _shortened,
    }
    made.globals |= {"meaning": digest.meaning, "most_sensitive": digest.MOST_SENSITIVE}
    return made


def _words(name: str) -> str:
    return name.replace("_", " ")


def _fitting(texts: Sequence[str]) -> Sequence[str]:
    """As many as a small page has room for, which is all of them where they are not many thousand."""
    ends = accumulate(len(text) for text in texts)
    return texts[: sum(end < _LIST for end in ends)]


def _cut(text: str) -> str:
    return text if len(text) <= _TEXT else text[:_TEXT] + "\n[cut here: the file is longer]"


def _shortened(name: str, most: int = 15) -> str:
    """The middle goes first: names of sites often begin alike, and differ at the end."""
    half = most // 2
    return name if len(name) <= most else f"{name[:half]}…{name[-half:]}"


def _revealing(level: str) -> str:
    """The CSS class of what is revealed."""
    from fedcore.report.read.run import LEVELS

    return f"r{LEVELS.index(level) if level in LEVELS else len(LEVELS)}"
