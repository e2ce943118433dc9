"""Reads a run folder. An unfinished, killed or damaged run can be read too; `gaps` lists what it lacks."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from fedcore.errors import InputError
from fedcore.files.checksums import SUMS
from fedcore.privacy.audit_log import AUDIT_LOG
from fedcore.report.private import shorten_paths, shorten_recipe
from fedcore.report.read.parse import (
    counts,
    items,
    mapping,
    number,
    numbers,
    read_lines,
    read_object,
    read_text,
    texts,
    whole,
)
from fedcore.report.read.run import (
    Estimate,
    ModelScores,
    ReliabilityBin,
    RoundSummary,
    Run,
    RunScores,
    SentTotal,
    VisitSummary,
)
from fedcore.report.read.set_audit import read_set_audit
from fedcore.runs.communication import ANSWERS
from fedcore.runs.folder import RunFolder

_SIGNS = ("run.json", "rounds.jsonl", "recipe.yaml", "scores.json")

SET_AUDITS = "audits of sets"
"""Name of such entries in a site's audit log (`fedgen.auditing.allowance`)."""


def read_run(folder: Path, *, private: bool = False) -> Run:
    """Reads `folder`; `private` shortens every absolute path in its texts to the last part.

    Raises:
        InputError: The folder is missing or holds no file of a run.
    """
    if not any((folder / name).is_file() for name in _SIGNS):
        found = "there is no such folder" if not folder.is_dir() else "it holds none of these"
        raise InputError(
            f"a run folder holds {', '.join(_SIGNS[:3])}; {folder}: {found}. "
            "Give the folder of a run, for example checkpoints/<run>."
        )
    gaps: list[str] = []
    clean = shorten_paths if private else _same
    about = clean(read_object(folder / "run.json", gaps, lacking="run.json is missing: how the run ended is unknown."))
    recipe = read_text(folder / "recipe.yaml", gaps, lacking="recipe.yaml is missing.")
    lines = read_lines(folder / "rounds.jsonl", gaps, label="rounds.jsonl", lacking=_no_rounds(about))
    rounds = _rounds((clean(line) for line in lines), gaps)
    gaps += _changed_files(folder)
    answers = read_lines(folder / ANSWERS, gaps, label=ANSWERS, lacking="")
    scores = _scores(clean(read_object(folder / "scores.json", gaps)))
    audit_logs = {site.name: _audit_log(site / AUDIT_LOG, gaps) for site in _site_folders(folder / "sites")}
    set_audit = read_set_audit(folder, gaps, clean)
    if set_audit is None and any(SET_AUDITS in log for log in audit_logs.values()):
        gaps.append("The sites list an audit of a synthetic set, but audit.json is missing: it failed or was removed.")
    return Run(
        name=folder.resolve().name,
        folder=folder,
        command=str(about.get("command") or "run"),
        status=str(about.get("status") or "unknown"),
        planned_rounds=whole(about.get("rounds")),
        seconds=_seconds(about, rounds),
        sites=_sites(about, rounds, scores, folder / "sites"),
        classes=texts(about.get("classes")),
        size=tuple(int(side) for side in items(about.get("size")) if number(side)),
        channels=whole(about.get("channels")),
        parameters=whole(about.get("parameters")),
        data=str(about.get("data") or ""),
        error=str(about.get("error") or ""),
        skipped=texts(about.get("skipped")),
        notes=texts(about.get("notes")),
        recipe=shorten_recipe(recipe) if private and recipe else recipe,
        environment=_environment(folder / "environment.json", gaps, clean),
        answers=tuple(_visits(line) for line in answers),
        buffers={name: str(level) for name, level in mapping(about.get("buffers")).items()},
        audit_logs=audit_logs,
        rounds=rounds,
        scores=scores,
        set_audit=set_audit,
        gaps=tuple(gaps),
    )


def _same(value: Any) -> Any:
    return value


def _no_rounds(about: Mapping[str, Any]) -> str:
    """A run without planned rounds has no record of them."""
    return "rounds.jsonl is missing: no round was recorded." if about.get("rounds") else ""


def _changed_files(folder: Path) -> list[str]:
    run = RunFolder(folder)
    try:
        run.require_committed()
    except InputError:
        return ["rounds.jsonl does not match what the run committed: lines were lost or changed, or state/ is damaged."]
    try:
        if (folder / SUMS).exists():
            run.finished()
    except InputError:
        return [f"Files were changed after the run finished; sha256sum -c {SUMS} lists them."]
    return []


def _rounds(lines: Iterable[Mapping[str, Any]], gaps: list[str]) -> tuple[RoundSummary, ...]:
    """Sorted by index; of a round recorded twice (killed in it, resumed) the last record counts."""
    rounds: dict[int, RoundSummary] = {}
    for line in lines:
        index = whole(line.get("round"))
        if index is None:
            gaps.append("A line of rounds.jsonl has no round number and is skipped.")
            continue
        if index in rounds:
            gaps.append(f"Round {index} was recorded twice, since the run was resumed in it; the last record counts.")
        rounds[index] = RoundSummary(
            index=index,
            seconds=number(line.get("seconds")),
            visits=_visits(line),
            refused={site: str(reason) for site, reason in mapping(line.get("refused")).items()},
            evaluation={site: numbers(found) for site, found in mapping(line.get("evaluation")).items()},
        )
    return tuple(rounds[index] for index in sorted(rounds))


def _visits(line: Mapping[str, Any]) -> dict[str, VisitSummary]:
    return {site: _visit(mapping(visit)) for site, visit in mapping(line.get("sites")).items()}


def _visit(found: Mapping[str, Any]) -> VisitSummary:
    return VisitSummary(
        examples=whole(found.get("examples")) or 0,
        seconds=number(found.get("seconds")),
        metrics=numbers(found.get("metrics")),
        up=counts(found.get("up")),
        down=counts(found.get("down")),
        reveals=str(found.get("reveals") or ""),
    )


def _seconds(about: Mapping[str, Any], rounds: Iterable[RoundSummary]) -> float | None:
    """Of a run that was killed, which has no duration, the sum over its rounds."""
    stated = number(about.get("seconds"))
    return stated if stated is not None else sum(one.seconds or 0.0 for one in rounds) or None


def _sites(
    about: Mapping[str, Any], rounds: Iterable[RoundSummary], scores: RunScores | None, folder: Path
) -> dict[str, dict[str, int]]:
    """Every site named anywhere, in the order of run.json, so that colours stay the same across figures."""
    sites = {name: counts(splits) for name, splits in mapping(about.get("sites")).items()}
    seen = [name for one in rounds for name in (*one.visits, *one.refused, *one.evaluation)]
    seen += [*(scores.sites if scores else ()), *(found.name for found in _site_folders(folder))]
    return sites | {name: {} for name in seen if name not in sites}


def _site_folders(folder: Path) -> list[Path]:
    return sorted(found for found in folder.iterdir() if found.is_dir()) if folder.is_dir() else []


def _environment(path: Path, gaps: list[str], clean: Any) -> dict[str, str]:
    found = clean(read_object(path, gaps, lacking="environment.json is missing."))
    return {key: str(value) for key, value in found.items() if value is not None}


def _audit_log(path: Path, gaps: list[str]) -> dict[str, SentTotal]:
    label = f"audit log of {path.parent.name}"
    return audit_totals(read_lines(path, gaps, label=f"the {label}", lacking=f"The {label} is missing."))


def audit_totals(lines: Iterable[Mapping[str, Any]]) -> dict[str, SentTotal]:
    """What lines of an audit log list, by field."""
    totals: dict[str, SentTotal] = {}
    for line in lines:
        field = str(line.get("field") or line.get("what") or "unnamed")
        to = tuple(name for name in str(line.get("to") or "").split(", ") if name)
        one = SentTotal(1, whole(line.get("bytes")) or 0, str(line.get("reveals") or ""), to)
        totals[field] = totals.get(field, SentTotal()) + one
    return totals


def _scores(found: Mapping[str, Any]) -> RunScores | None:
    sites = {site: _model_scores(mapping(score)) for site, score in mapping(found.get("sites")).items()}
    pooled = _model_scores(mapping(found.get("pooled"))) if found.get("pooled") else None
    pretrained = str(found["pretrained"]) if found.get("pretrained") else None
    if not sites and not pooled:
        return None
    per_patient, grid = found.get("per_patient") is True, str(found.get("grid", ""))
    distance_unit = str(found.get("distance_unit", ""))
    return RunScores(number(found.get("label_fraction")), pretrained, sites, pooled, per_patient, grid, distance_unit)


def _model_scores(found: Mapping[str, Any]) -> ModelScores:
    findings = {name: mapping(scores).get("auroc") for name, scores in mapping(found.get("findings")).items()}
    bins = [numbers(item) for item in items(found.get("calibration"))]
    calibration = tuple(
        ReliabilityBin(int(one["count"]), one["confidence"], one["accuracy"])
        for one in bins
        if {"count", "confidence", "accuracy"} <= one.keys()
    )
    note = str(found.get("note") or "")
    return ModelScores(_estimates(found), whole(found.get("images")), calibration, _estimates(findings), note)


def _estimates(found: Mapping[str, Any]) -> dict[str, Estimate]:
    """Those that have a value."""
    parts = {name: numbers(item) for name, item in found.items()}
    return {
        name: Estimate(part["value"], part.get("low"), part.get("high"))
        for name, part in parts.items()
        if "value" in part
    }
