"""What several runs amount to, side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fedcore.files.reading import yaml_of
from fedcore.report.charts.charts import LineChart, line_chart
from fedcore.report.charts.points import Plane, Point, plane
from fedcore.report.naming import RANDOM, run_names, start_name
from fedcore.report.read.digest import best_probe, disagreements, highest_revelation, per_visit, probes
from fedcore.report.read.run import Estimate, Run
from fedcore.report.units import metric_name, percent, plural, size, size_unit

SCORES = ("balanced_accuracy", "auroc", "dice")
_TRAINED = ("method", "classifier", "generator")


@dataclass(frozen=True)
class Entry:
    """A run under a name that tells it from the others."""

    name: str
    run: Run
    method: str
    algorithm: str
    exchange: str
    start: str
    """What a fine-tuned run started from; of others nothing."""
    family: str
    """Fine-tuned runs of a family are a line in charts: those of a road's step, else those of a start."""
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
        """Of the labels, above 0."""
        found = self.run.scores.label_fraction if self.run.scores else None
        return found if found and found > 0 else None

    @property
    def frechet(self) -> Mapping[str, float]:
        """`fid` and `held_out_fid` of all images, as far as an audit gave them."""
        return self.run.inspection.quality.get("all", {}) if self.run.inspection else {}

    @property
    def up(self) -> float | None:
        """Bytes of a visit, on average."""
        return per_visit(self.run, lambda visit: visit.up)

    @property
    def up_in_all(self) -> float:
        """Bytes that a site sent over the whole run, on average over the sites."""
        sent = [sum(visit.up.values()) for turn in self.run.turns for visit in turn.visits.values()]
        return sum(sent) / max(1, len(self.run.sites))

    @property
    def reveals(self) -> str:
        return highest_revelation(self.run)


def entries(runs: Sequence[Run], families: Sequence[str] = ()) -> tuple[Entry, ...]:
    """The runs of a road come with their families, and with names that tell them apart."""
    names = [run.name for run in runs] if families else run_names([run.folder for run in runs])
    return tuple(map(_entry, names, runs, families or [""] * len(runs)))


def probe_chart(found: Sequence[Entry]) -> LineChart | None:
    """The mean kNN accuracy by round, a line a run."""
    series = {entry.name: probes(entry.run) for entry in found}
    series = {name: points for name, points in series.items() if points}
    caption = "Mean over the sites of each run, by round; higher is better."
    return line_chart("Probe: accuracy of nearest neighbours", caption, series) if series else None


def efficiency_charts(found: Sequence[Entry]) -> tuple[Plane, ...]:
    """Pooled scores by the fraction of labels, a line a family."""
    charts = []
    for metric in SCORES:
        series: dict[str, list[Point]] = {}
        for entry in found:
            fraction = entry.fraction
            if metric in entry.pooled and fraction:
                score = entry.pooled[metric]
                label = f"{entry.family}, {percent(fraction)} of the labels: {score.value:.3f} ({entry.name})"
                series.setdefault(entry.family, []).append(Point(fraction, score.value, score.low, score.high, label))
        if series:
            caption = "All sites' test images pooled. Lines join means, whiskers span each run's interval."
            name = f"{metric_name(metric)} by labels"
            charts.append(plane(name, caption, "of the labels", series, log=True, joined=True, tick=percent))
    return tuple(charts)


def probe_traffic(found: Sequence[Entry]) -> Plane | None:
    """The best probe of each run by the bytes a site sent in it; None of a single run."""
    probed = {e.name: [(e.up_in_all, Estimate(e.best_probe[0], None, None))] for e in found if e.best_probe}
    return _traffic("Probe by traffic", "Best mean kNN accuracy of a run.", probed)


def score_traffic(found: Sequence[Entry]) -> Plane | None:
    """Scores of fine-tuned runs by the bytes of both stages, of those whose pretraining is among the runs too.

    Of one fraction of labels: the one that most families have, the smaller of two.
    """
    sent: dict[float, dict[str, list[tuple[float, Estimate]]]] = {}
    for entry in found:
        fraction, score = entry.fraction, entry.pooled.get("balanced_accuracy")
        begun = [other.up_in_all for other in found if _made(other, entry)] or [0.0] * (entry.start == RANDOM)
        if score and begun and fraction:
            sent.setdefault(fraction, {}).setdefault(entry.family, []).append((entry.up_in_all + begun[0], score))
    if not sent:
        return None
    usual = max(sent, key=lambda fraction: (len(sent[fraction]), -fraction))
    caption = f"With {percent(usual)} of the labels; the bytes of the pretraining are counted in."
    return _traffic("Balanced accuracy by traffic", caption, sent[usual])


def warnings(found: Sequence[Entry]) -> list[str]:
    """What forbids a fair comparison, in sentences."""
    told = []
    images: dict[str, set[str]] = {}
    for entry in found:
        images.setdefault(entry.run.command, set()).update({entry.run.data.partition("+")[0]} - {""})
    if any(len(seen) > 1 for seen in images.values()):
        told.append("These runs were not made on the same images, so their scores cannot be ranked.")
    if len({entry.run.scores.grid for entry in found if entry.run.scores} - {""}) > 1:
        told.append("Masks were not measured on the same grid in all runs, so their scores cannot be ranked.")
    looked = {entry.run.inspection.encoder for entry in found if entry.run.inspection and entry.frechet}
    if len(looked) > 1:
        told.append("The audits looked with different encoders, so their Frechet distances cannot be ranked.")
    if ended := [entry.name for entry in found if entry.run.status != "finished"]:
        told.append(f"{plural(len(ended), 'run')} did not finish: {', '.join(ended)}. Their last records are shown.")
    told += [f"{e.name}: {gap}" for e in found for gap in (*e.run.gaps, *disagreements(e.run))]
    return told


def measures(found: Sequence[Entry]) -> dict[str, str]:
    """Titles of the pooled scores that any of the runs has."""
    return {name: metric_name(name) for name in SCORES if any(name in entry.pooled for entry in found)}


def families(found: Sequence[Entry]) -> list[str]:
    """Those of the fine-tuned runs, in order."""
    return list(dict.fromkeys(entry.family for entry in found if entry.family))


def _traffic(title: str, caption: str, found: Mapping[str, Sequence[tuple[float, Estimate]]]) -> Plane | None:
    if len(found) < 2:
        return None
    unit, name = size_unit(max(sent for pairs in found.values() for sent, _ in pairs))
    series = {
        of: [Point(sent / unit, s.value, s.low, s.high, f"{of}: {size(sent)}, {s.value:.3f}") for sent, s in pairs]
        for of, pairs in found.items()
    }
    return plane(title, f"{caption} Left and high is best.", f"{name} that a site sent in all", series)


def _entry(name: str, run: Run, family: str) -> Entry:
    recipe = _recipe(run)
    start = _start(run, recipe) if run.scores else ""
    return Entry(
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
    """What it started from, then whatever else sets it apart from plain fine-tuning."""
    data = recipe.get("data") or {}
    told = [start_name(run.scores.encoder if run.scores else None)]
    told += ["with drawn images"] if data.get("synthetic") else []
    told += ["with further sites"] if data.get("extra_manifests") else []
    told += ["centralised"] if _class(data, "partition") == "Pooled" else []
    algorithm = _class(recipe, "algorithm")
    return ", ".join(told + ([algorithm] if algorithm not in ("", "FedAvg") else []))


def _recipe(run: Run) -> Mapping[str, Any]:
    try:
        found = yaml_of(run.recipe)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _class(recipe: Mapping[str, Any], key: str) -> str:
    """The last part of a class path: fedssl.methods.moco.MoCo is MoCo."""
    found = recipe.get(key)
    path = found.get("class_path") if isinstance(found, dict) else found
    return str(path).rpartition(".")[2] if path else ""


def _made(entry: Entry, tuned: Entry) -> bool:
    """Whether `tuned` started from what `entry` made, as far as names tell."""
    return entry.run.scores is None and tuned.start.partition(", ")[0] == entry.run.name
