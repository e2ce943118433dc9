"""The top of the page: one sentence, one verdict and the key figures of a run."""

from __future__ import annotations

from dataclasses import dataclass

from fedcore.report.digest import best_probe, highest_revelation, ledger, meaning, per_visit
from fedcore.report.figures import size_unit
from fedcore.report.run import Estimate, Run

_NAMES = {"auroc": "AUROC", "f1": "F1", "knn": "kNN", "auprc": "AUPRC", "mcc": "MCC"}
_VERDICTS = {
    "finished": ("good", "Finished"),
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
        text += f"; the model has {run.parameters:,} parameters"
    if run.classes:
        text += f"; the classes are {', '.join(run.classes)}"
    return text + "."


def key_figures(run: Run) -> tuple[Figure, ...]:
    """The figures that the run folder can give, best first."""
    return tuple(figure for figure in (*_results(run), *_extent(run), *_traffic(run)) if figure.value)


def _results(run: Run) -> list[Figure]:
    figures = []
    if run.scores and run.scores.pooled:
        figures += [
            Figure(metric_name(name), f"{score.value:.3f}", interval(score) or "all test images pooled")
            for name, score in list(run.scores.pooled.metrics.items())[:2]
        ]
    if best := best_probe(run):
        figures.append(Figure("Best probe", f"{best[0]:.3f}", f"kNN, mean of the sites, round {best[1]}"))
    return figures


def _extent(run: Run) -> list[Figure]:
    totals: dict[str, int] = {}
    for splits in run.sites.values():
        for split, images in splits.items():
            totals[split] = totals.get(split, 0) + images
    refusals = sum(entry.refused for entry in ledger(run))
    done, planned = len(run.turns), run.planned_rounds
    return [
        Figure("Rounds", str(done) if done or planned else "", f"of {planned} planned" if planned else ""),
        Figure("Sites", str(len(run.sites) or ""), plural(refusals, "refusal") if refusals else "no refusals"),
        Figure(
            "Images",
            f"{sum(totals.values()):,}" if totals else "",
            ", ".join(f"{n:,} {s}" for s, n in totals.items()),
        ),
        Figure("Time", duration(run.seconds)),
    ]


def _traffic(run: Run) -> list[Figure]:
    up, down = per_visit(run, lambda visit: visit.up), per_visit(run, lambda visit: visit.down)
    reveals = highest_revelation(run)
    return [
        Figure("Up", size(up), "per site and round"),
        Figure("Down", size(down), "per site and round"),
        Figure("Revealed at most", reveals.capitalize(), meaning(reveals)),
    ]


def metric_name(name: str) -> str:
    return _NAMES.get(name, name.replace("_", " ").capitalize())


def interval(score: Estimate) -> str:
    return "" if score.low is None or score.high is None else f"{score.low:.3f} to {score.high:.3f}"


def plural(count: int, noun: str) -> str:
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


def size(found: float | int | None) -> str:
    """Bytes in the decimal unit that reads best: 1.23 MB; "" for None."""
    if found is None:
        return ""
    unit, name = size_unit(found)
    return (
        f"{found:.0f} B"
        if unit == 1.0
        else f"{found / unit:.3g} {name}"
        if found / unit < 100
        else f"{found / unit:.0f} {name}"
    )


def duration(seconds: float | None) -> str:
    """1.9 s, 1 min 21 s, 2 h 05 min; "" for None."""
    if seconds is None:
        return ""
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes < 60 else f"{minutes // 60:,} h {minutes % 60:02d} min"
