"""The top of the page: one sentence, how the run ended, and its key figures."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from fedcore.report.read.levels import MOST_SENSITIVE, highest_level, level_of_run, meaning
from fedcore.report.read.run import Run
from fedcore.report.sections.traffic import per_visit
from fedcore.report.sections.training import best_probe
from fedcore.report.units import duration, interval, metric_name, plural, rounded, size

_STATUS = {
    "finished": ("good", "Finished"),
    "trained": ("open", "Trained, result not saved"),
    "failed": ("bad", "Failed"),
    "stopped": ("open", "Stopped, can be resumed"),
    "running": ("open", "Not finished"),
}


@dataclass(frozen=True)
class KeyFigure:
    label: str
    value: str
    detail: str = ""


def status(run: Run) -> tuple[str, str]:
    """The tone (good, bad or open) and the text for how the run ended."""
    return _STATUS.get(run.status, ("open", "End unknown"))


def sentence(run: Run) -> str:
    """The run in a sentence; what the run folder does not say is left out."""
    parts = [f"{plural(len(run.sites), 'site')} took part" if run.sites else "No site is recorded"]
    if run.rounds:
        parts.append(f"in {plural(len(run.rounds), 'round')}")
    if run.size:
        channels = f" and {plural(run.channels, 'channel')}" if run.channels else ""
        unit = "voxels" if len(run.size) == 3 else "pixels"
        parts.append(f"on images of {' × '.join(map(str, run.size))} {unit}{channels}")
    text = " ".join(parts)
    if run.parameters:
        heads = ", including the heads of the method" if run.command == "pretrain" else ""
        text += f"; {run.parameters:,} parameters are trained{heads}"
    if run.classes and run.command != "segment":  # which learns from masks, not from labels
        text += f"; the classes are {', '.join(run.classes)}"
    return text + "."


def site_sentence(site: Run) -> str:
    """What the page of one site is about."""
    trained = plural(sum(bool(one.visits) for one in site.rounds), "round")
    return f"{site.name} trained in {trained}. The site made this page from its own files; it is not sent."


def site_figures(site: Run) -> tuple[KeyFigure, ...]:
    """The extent of a site's part, and what it sent, by its own audit log."""
    (splits,), (log,) = site.sites.values(), site.audit_logs.values()
    refused = sum(len(one.refused) for one in site.rounds)
    level = highest_level(total.reveals for total in log.values())
    lines = f"{sum(total.count for total in log.values()):,} lines of the audit log"
    figures = (
        KeyFigure("Images", f"{sum(splits.values()):,}" if splits else "", _by_split(splits)),
        KeyFigure("Rounds", str(sum(bool(one.visits) for one in site.rounds)), plural(refused, "declined request")),
        KeyFigure("Data sent", size(sum(total.size for total in log.values())), lines),
        KeyFigure(MOST_SENSITIVE, level, meaning(level)),
        KeyFigure("Time", duration(site.seconds)),
    )
    return tuple(figure for figure in figures if figure.value)


def _by_split(totals: Mapping[str, int]) -> str:
    return ", ".join(f"{images:,} {split}" for split, images in totals.items() if images)


def key_figures(run: Run) -> tuple[KeyFigure, ...]:
    """Those that the run folder has, the most important first."""
    return tuple(figure for figure in (*_results(run), *_audit(run), *_extent(run), *_traffic(run)) if figure.value)


def _results(run: Run) -> list[KeyFigure]:
    figures = []
    if run.scores and run.scores.pooled:
        figures += [
            KeyFigure(
                metric_name(name, run.scores.distance_unit),
                f"{score.value:.3f}",
                f"95 % interval {interval(score)}" if interval(score) else "all test images pooled",
            )
            for name, score in list(run.scores.pooled.metrics.items())[:2]
        ]
    if best := best_probe(run):
        figures.append(KeyFigure("Best kNN probe", f"{best[0]:.3f}", f"accuracy, mean over sites, round {best[1]}"))
    return figures


def _audit(run: Run) -> list[KeyFigure]:
    found = run.set_audit
    if found is None:
        return []
    copies = f"{plural(len(found.copies), 'copy', 'copies')} in {plural(found.images, 'image')}"
    whole = found.quality.get("all", {})
    held_out = f"held-out images: {rounded(whole['held_out_fid'])}" if "held_out_fid" in whole else ""
    return [
        KeyFigure("Privacy check", {"yes": "Passed", "no": "Failed"}.get(found.safe.answer, "Not done"), copies),
        KeyFigure(
            "Fit for use", found.useful.answer.capitalize(), found.useful.reasons[0] if found.useful.reasons else ""
        ),
        KeyFigure("Frechet distance", rounded(whole["fid"]) if "fid" in whole else "", held_out),
    ]


def _extent(run: Run) -> list[KeyFigure]:
    totals: dict[str, int] = {}
    for splits in run.sites.values():
        for split, images in splits.items():
            totals[split] = totals.get(split, 0) + images
    left_out = [f"{len(run.skipped):,} left out"] if run.skipped else []
    failed = sum(len(one.refused) for one in run.rounds)
    done, planned = len(run.rounds), run.planned_rounds
    return [
        KeyFigure("Rounds", str(done) if done or planned else "", f"of {planned} planned" if planned else ""),
        KeyFigure("Sites", str(len(run.sites) or ""), plural(failed, "failed visit") if failed else "no failed visits"),
        KeyFigure(
            "Images",
            f"{sum(totals.values()):,}" if totals else "",
            ", ".join([f"{n:,} {s}" for s, n in totals.items() if n] + left_out),
        ),
        KeyFigure("Time", duration(run.seconds)),
    ]


def _traffic(run: Run) -> list[KeyFigure]:
    up, down = per_visit(run, lambda visit: visit.up), per_visit(run, lambda visit: visit.down)
    level = level_of_run(run)
    return [
        KeyFigure("Upload", size(up), "per site and round"),
        KeyFigure("Download", size(down), "per site and round"),
        KeyFigure(MOST_SENSITIVE, level, meaning(level)),
    ]
