"""Several runs compared: their scores, charts by labels and by traffic, and what makes a comparison unfair."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fedcore.files.reading import parse_yaml
from fedcore.report.charts.line_chart import LineChart, line_chart
from fedcore.report.charts.point_chart import PointChart, ScorePoint, point_chart
from fedcore.report.naming import RANDOM, run_names, start_name
from fedcore.report.read.levels import disagreements, level_of_run
from fedcore.report.read.run import Estimate, Run
from fedcore.report.sections.traffic import per_visit
from fedcore.report.sections.training import best_probe, probes
from fedcore.report.units import metric_name, percent, plural, size, size_unit

SCORES = ("balanced_accuracy", "auroc", "dice")
_TRAINED = ("method", "classifier", "generator")


@dataclass(frozen=True)
class ComparedRun:
    """A run under a name that no other one has."""

    name: str
    run: Run
    method: str
    algorithm: str
    exchange: str
    start: str
    """What a fine-tuned run started from; "" for other runs."""
    family: str
    """Fine-tuned runs of a family are one line in charts: those of a pipeline's step, else those of one start."""
    recipe: Mapping[str, Any]
    """Empty where it cannot be read."""

    @property
    def last_probe(self) -> float | None:
        found = probes(self.run)
        return found[-1][1] if found else None

    @property
    def best_probe(self) -> tuple[float, int] | None:
        return best_probe(self.run)

    @property
    def pooled(self) -> Mapping[str, Estimate]:
        return self.run.scores.pooled.metrics if self.run.scores and self.run.scores.pooled else {}

    @property
    def fraction(self) -> float | None:
        """Fraction of the labels, above 0."""
        found = self.run.scores.label_fraction if self.run.scores else None
        return found if found and found > 0 else None

    @property
    def frechet(self) -> Mapping[str, float]:
        """`fid` and `held_out_fid` of all images, if an audit measured them."""
        return self.run.set_audit.quality.get("all", {}) if self.run.set_audit else {}

    @property
    def upload(self) -> float | None:
        """Bytes per visit, on average."""
        return per_visit(self.run, lambda visit: visit.up)

    @property
    def total_upload(self) -> float:
        """Bytes that a site sent over the whole run, on average over the sites."""
        sent = [sum(visit.up.values()) for visit in self.run.visits]
        return sum(sent) / max(1, len(self.run.sites))

    @property
    def level(self) -> str:
        return level_of_run(self.run)


def compared(runs: Sequence[Run], families: Sequence[str] = ()) -> tuple[ComparedRun, ...]:
    """Runs of a pipeline have families, and names that differ already."""
    names = [run.name for run in runs] if families else run_names([run.folder for run in runs])
    return tuple(map(_compared, names, runs, families or [""] * len(runs)))


def probe_chart(found: Sequence[ComparedRun]) -> LineChart | None:
    """The mean kNN accuracy by round, one line per run."""
    series = {entry.name: probes(entry.run) for entry in found}
    series = {name: points for name, points in series.items() if points}
    caption = "Mean over the sites of each run, by round; higher is better."
    return line_chart("kNN probe: accuracy", caption, series) if series else None


def efficiency_charts(found: Sequence[ComparedRun]) -> tuple[PointChart, ...]:
    """Pooled scores by the fraction of labels, one line per family."""
    charts = []
    for metric in SCORES:
        series: dict[str, list[ScorePoint]] = {}
        for entry in found:
            fraction = entry.fraction
            if metric in entry.pooled and fraction:
                score = entry.pooled[metric]
                label = f"{entry.family}, {percent(fraction)} of the labels: {score.value:.3f} ({entry.name})"
                series.setdefault(entry.family, []).append(
                    ScorePoint(fraction, score.value, score.low, score.high, label)
                )
        if series:
            caption = "Test images of all sites pooled. Lines join means; whiskers are 95 % intervals of single runs."
            name = f"{metric_name(metric)} by labels"
            charts.append(point_chart(name, caption, "fraction of labels", series, log=True, joined=True, tick=percent))
    return tuple(charts)


def probe_traffic(found: Sequence[ComparedRun]) -> PointChart | None:
    """The best kNN probe of each run by the bytes that a site sent; None for a single run."""
    probed = {e.name: [(e.total_upload, Estimate(e.best_probe[0], None, None))] for e in found if e.best_probe}
    return _traffic("kNN probe by upload", "Best mean kNN accuracy of a run.", probed)


def score_traffic(found: Sequence[ComparedRun]) -> PointChart | None:
    """Scores of fine-tuned runs by the bytes of both stages, where their pretraining is among the runs.

    For one fraction of labels: the one that most families have, of several the smallest.
    """
    sent: dict[float, dict[str, list[tuple[float, Estimate]]]] = {}
    for entry in found:
        fraction, score = entry.fraction, entry.pooled.get("balanced_accuracy")
        begun = [other.total_upload for other in found if _is_start_of(other, entry)] or [0.0] * (entry.start == RANDOM)
        if score and begun and fraction:
            sent.setdefault(fraction, {}).setdefault(entry.family, []).append((entry.total_upload + begun[0], score))
    if not sent:
        return None
    usual = max(sent, key=lambda fraction: (len(sent[fraction]), -fraction))
    caption = f"With {percent(usual)} of the labels; including the upload of the pretraining."
    return _traffic("Balanced accuracy by upload", caption, sent[usual])


def warnings(found: Sequence[ComparedRun]) -> list[str]:
    """What makes a comparison unfair, in sentences."""
    sentences = []
    images: dict[str, set[str]] = {}
    for entry in found:
        images.setdefault(entry.run.command, set()).update({entry.run.data.partition("+")[0]} - {""})
    if any(len(seen) > 1 for seen in images.values()):
        sentences.append("The runs used different images, so their scores cannot be ranked.")
    if len({entry.run.scores.grid for entry in found if entry.run.scores} - {""}) > 1:
        sentences.append("Masks were measured on different grids, so their scores cannot be ranked.")
    encoders = {entry.run.set_audit.encoder for entry in found if entry.run.set_audit and entry.frechet}
    if len(encoders) > 1:
        sentences.append("The audits used different encoders, so their Frechet distances cannot be ranked.")
    if ended := [entry.name for entry in found if entry.run.status != "finished"]:
        sentences.append(f"{plural(len(ended), 'run')} did not finish: {', '.join(ended)}. Last recorded state shown.")
    sentences += [f"{e.name}: {gap}" for e in found for gap in (*e.run.gaps, *disagreements(e.run))]
    return sentences


def measures(found: Sequence[ComparedRun]) -> dict[str, str]:
    """Titles of the pooled scores that any of the runs has."""
    return {name: metric_name(name) for name in SCORES if any(name in entry.pooled for entry in found)}


def families(found: Sequence[ComparedRun]) -> list[str]:
    """Those of the fine-tuned runs, in order."""
    return list(dict.fromkeys(entry.family for entry in found if entry.family))


def _traffic(title: str, caption: str, found: Mapping[str, Sequence[tuple[float, Estimate]]]) -> PointChart | None:
    if len(found) < 2:
        return None
    unit, name = size_unit(max(sent for pairs in found.values() for sent, _ in pairs))
    series = {
        of: [ScorePoint(sent / unit, s.value, s.low, s.high, f"{of}: {size(sent)}, {s.value:.3f}") for sent, s in pairs]
        for of, pairs in found.items()
    }
    return point_chart(title, f"{caption} Best: top left.", f"total upload per site ({name})", series)


def _compared(name: str, run: Run, family: str) -> ComparedRun:
    recipe = _recipe(run)
    start = _start(run, recipe) if run.scores else ""
    return ComparedRun(
        name=name,
        run=run,
        method=next((name for key in _TRAINED if (name := _class(recipe, key))), ""),
        algorithm=_class(recipe, "algorithm") or ("FedAvg" if recipe else ""),
        exchange=_class(recipe, "exchange"),
        start=start,
        family=(family or start) if start else "",
        recipe=recipe,
    )


def _start(run: Run, recipe: Mapping[str, Any]) -> str:
    """What it started from, and what else differs from plain fine-tuning."""
    data = recipe.get("data") or {}
    parts = [start_name(run.scores.pretrained if run.scores else None)]
    parts += ["with synthetic images"] if data.get("synthetic") else []
    parts += ["with additional sites"] if data.get("extra_manifests") else []
    parts += ["centralised"] if _class(data, "partition") == "Pooled" else []
    algorithm = _class(recipe, "algorithm")
    return ", ".join(parts + ([algorithm] if algorithm not in ("", "FedAvg") else []))


def _recipe(run: Run) -> Mapping[str, Any]:
    try:
        found = parse_yaml(run.recipe)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _class(recipe: Mapping[str, Any], key: str) -> str:
    """The last part of a class path: fedssl.methods.moco.MoCo is MoCo."""
    found = recipe.get(key)
    path = found.get("class_path") if isinstance(found, dict) else found
    return str(path).rpartition(".")[2] if path else ""


def _is_start_of(entry: ComparedRun, tuned: ComparedRun) -> bool:
    """Whether `tuned` started from the result of `entry`, judged by names."""
    return entry.run.scores is None and tuned.start.partition(", ")[0] == entry.run.name
