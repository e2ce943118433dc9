"""The top of the page: one sentence, one verdict and the key figures of a run."""

from __future__ import annotations

from dataclasses import dataclass

from fedcore.report.read.digest import MOST_SENSITIVE, best_probe, highest_revelation, ledger, meaning, per_visit
from fedcore.report.read.run import Run
from fedcore.report.sections.audit import figure
from fedcore.report.units import duration, interval, metric_name, plural, size

_VERDICTS = {
    "finished": ("good", "Finished"),
    "trained": ("open", "Trained, result not saved"),
    "failed": ("bad", "Failed"),
    "stopped": ("open", "Stopped, can be resumed"),
    "running": ("open", "Not finished"),
}


@dataclass(frozen=True)
class Figure:
    label: str
    value: str
    detail: str = ""


def verdict(run: Run) -> tuple[str, str]:
    """The tone ("good", "bad" or "open") and the word for how the run ended."""
    return _VERDICTS.get(run.status, ("open", "End unknown"))


def sentence(run: Run) -> str:
    """What ran, in a sentence; what the run folder does not know is left out."""
    parts = [f"{plural(len(run.sites), 'site')} took part" if run.sites else "No site is recorded"]
    if run.turns:
        parts.append(f"in {plural(len(run.turns), 'round')}")
    if run.size:
        channels = f" and {plural(run.channels, 'channel')}" if run.channels else ""
        unit = "voxels" if len(run.size) == 3 else "pixels"
        parts.append(f"on images of {' × '.join(map(str, run.size))} {unit}{channels}")
    text = " ".join(parts)
    if run.parameters:
        heads = ", those of the method's heads included" if run.command == "pretrain" else ""
        text += f"; {run.parameters:,} parameters are trained{heads}"
    if run.classes and run.command != "segment":  # which learns from masks, whatever labels there are
        text += f"; the classes are {', '.join(run.classes)}"
    return text + "."


def key_figures(run: Run) -> tuple[Figure, ...]:
    """The figures that the run folder can give, best first."""
    return tuple(figure for figure in (*_results(run), *_audit(run), *_extent(run), *_traffic(run)) if figure.value)


def _results(run: Run) -> list[Figure]:
    figures = []
    if run.scores and run.scores.pooled:
        figures += [
            Figure(
                metric_name(name, run.scores.unit), f"{score.value:.3f}", interval(score) or "all test images pooled"
            )
            for name, score in list(run.scores.pooled.metrics.items())[:2]
        ]
    if best := best_probe(run):
        figures.append(Figure("Best probe", f"{best[0]:.3f}", f"kNN, mean of the sites, round {best[1]}"))
    return figures


def _audit(run: Run) -> list[Figure]:
    found = run.inspection
    if found is None:
        return []
    copies = f"{plural(len(found.copies), 'copy', 'copies')} among {plural(found.images, 'image')}"
    whole = found.quality.get("all", {})
    beside = f"held-out images {figure(whole['held_out_fid'])}" if "held_out_fid" in whole else ""
    return [
        Figure("Privacy check", {"yes": "Passed", "no": "Failed"}.get(found.safe.answer, "Not done"), copies),
        Figure(
            "Fit for use", found.useful.answer.capitalize(), found.useful.because[0] if found.useful.because else ""
        ),
        Figure("Frechet distance", figure(whole["fid"]) if "fid" in whole else "", beside),
    ]


def _extent(run: Run) -> list[Figure]:
    totals: dict[str, int] = {}
    for splits in run.sites.values():
        for split, images in splits.items():
            totals[split] = totals.get(split, 0) + images
    left_out = [f"{len(run.faults):,} left out"] if run.faults else []
    refusals = sum(entry.refused for entry in ledger(run))
    done, planned = len(run.turns), run.planned_rounds
    return [
        Figure("Rounds", str(done) if done or planned else "", f"of {planned} planned" if planned else ""),
        Figure("Sites", str(len(run.sites) or ""), plural(refusals, "refusal") if refusals else "no refusals"),
        Figure(
            "Images",
            f"{sum(totals.values()):,}" if totals else "",
            ", ".join([f"{n:,} {s}" for s, n in totals.items() if n] + left_out),
        ),
        Figure("Time", duration(run.seconds)),
    ]


def _traffic(run: Run) -> list[Figure]:
    up, down = per_visit(run, lambda visit: visit.up), per_visit(run, lambda visit: visit.down)
    reveals = highest_revelation(run)
    return [
        Figure("Up", size(up), "per site and round"),
        Figure("Down", size(down), "per site and round"),
        Figure(MOST_SENSITIVE, reveals, meaning(reveals)),
    ]
