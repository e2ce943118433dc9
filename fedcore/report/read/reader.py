"""From a run folder to a `Run`. A half-done, killed or damaged run opens too; `gaps` says what it lacks."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from fedcore.errors import InputError
from fedcore.files.checksums import SUMS
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
from fedcore.report.read.run import Bin, Departure, Estimate, Run, Score, Scores, Turn, Visit, highest
from fedcore.report.sections.audit import read_inspection
from fedcore.runs.communication import ANSWERS
from fedcore.runs.folder import RunFolder

_SIGNS = ("run.json", "rounds.jsonl", "recipe.yaml", "scores.json")

SET_AUDITS = "audits of sets"
"""What a site's audit file calls them (`fedgen.auditing.allowance`)."""


def read_run(folder: Path, *, private: bool = False) -> Run:
    """Read `folder`; `private` shortens every absolute path in its texts to the last part.

    Raises `InputError` where the folder is missing or holds nothing of a run.
    """
    if not any((folder / name).is_file() for name in _SIGNS):
        found = "there is no such folder" if not folder.is_dir() else "it holds none of these"
        raise InputError(
            f"a run folder holds {', '.join(_SIGNS[:3])}; {folder}: {found}. "
            "Give the folder that a run wrote, checkpoints/<run> say."
        )
    gaps: list[str] = []
    clean = shorten_paths if private else _same
    about = clean(read_object(folder / "run.json", gaps, lacking="run.json is missing: how it ended is unknown."))
    recipe = read_text(folder / "recipe.yaml", gaps, lacking="recipe.yaml is missing.")
    lines = read_lines(folder / "rounds.jsonl", gaps, label="rounds.jsonl", lacking=_no_rounds(about))
    turns = _turns((clean(line) for line in lines), gaps)
    gaps += _unlike_committed(folder)
    answers = read_lines(folder / ANSWERS, gaps, label=ANSWERS, lacking="")
    scores = _scores(clean(read_object(folder / "scores.json", gaps)))
    audits = {site.name: _audit(site / "audit.jsonl", gaps) for site in _site_folders(folder / "sites")}
    inspection = read_inspection(folder, gaps, clean)
    if inspection is None and any(SET_AUDITS in left for left in audits.values()):
        gaps.append("The sites list an audit of a synthetic set, and audit.json is missing: it failed or was removed.")
    return Run(
        name=folder.resolve().name,
        folder=folder,
        command=str(about.get("command") or "run"),
        status=str(about.get("status") or "unknown"),
        planned_rounds=whole(about.get("rounds")),
        seconds=_seconds(about, turns),
        sites=_sites(about, turns, scores, folder / "sites"),
        classes=texts(about.get("classes")),
        size=tuple(int(side) for side in items(about.get("size")) if number(side)),
        channels=whole(about.get("channels")),
        parameters=whole(about.get("parameters")),
        data=str(about.get("data") or ""),
        error=str(about.get("error") or ""),
        faults=texts(about.get("skipped")),
        notes=texts(about.get("notes")),
        recipe=shorten_recipe(recipe) if private and recipe else recipe,
        environment=_environment(folder / "environment.json", gaps, clean),
        answers=tuple(_visits(line) for line in answers),
        buffers={name: str(level) for name, level in mapping(about.get("buffers")).items()},
        audits=audits,
        turns=turns,
        scores=scores,
        inspection=inspection,
        gaps=tuple(gaps),
    )


def _same(value: Any) -> Any:
    return value


def _no_rounds(about: Mapping[str, Any]) -> str:
    """A run of no rounds (a comparison of others) need not have a record of them."""
    return "rounds.jsonl is missing: no round was recorded." if about.get("rounds") else ""


def _unlike_committed(folder: Path) -> list[str]:
    run = RunFolder(folder)
    try:
        run.require_committed()
    except InputError:
        return ["rounds.jsonl does not fit what the run committed: lines were lost or changed, or state/ is damaged."]
    try:
        if (folder / SUMS).exists():
            run.finished()
    except InputError:
        return [
            f"What the folder holds is not what the run left there when it finished; sha256sum -c {SUMS} says more."
        ]
    return []


def _turns(lines: Iterable[Mapping[str, Any]], gaps: list[str]) -> tuple[Turn, ...]:
    """Rounds in order; of a round recorded twice (killed in it, resumed) the last stands."""
    turns: dict[int, Turn] = {}
    for line in lines:
        index = whole(line.get("round"))
        if index is None:
            gaps.append("A line of rounds.jsonl has no round number, and is skipped.")
            continue
        if index in turns:
            gaps.append(f"Round {index} was recorded twice, as a resumed run does; the last record counts.")
        turns[index] = Turn(
            index=index,
            seconds=number(line.get("seconds")),
            visits=_visits(line),
            refused={site: str(reason) for site, reason in mapping(line.get("refused")).items()},
            survey={site: numbers(found) for site, found in mapping(line.get("survey")).items()},
        )
    return tuple(turns[index] for index in sorted(turns))


def _visits(line: Mapping[str, Any]) -> dict[str, Visit]:
    return {site: _visit(mapping(visit)) for site, visit in mapping(line.get("sites")).items()}


def _visit(found: Mapping[str, Any]) -> Visit:
    return Visit(
        examples=whole(found.get("examples")) or 0,
        seconds=number(found.get("seconds")),
        metrics=numbers(found.get("metrics")),
        up=counts(found.get("up")),
        down=counts(found.get("down")),
        reveals=str(found.get("reveals") or ""),
    )


def _seconds(about: Mapping[str, Any], turns: Iterable[Turn]) -> float | None:
    """A run that was killed never wrote its duration; its rounds did."""
    stated = number(about.get("seconds"))
    return stated if stated is not None else sum(turn.seconds or 0.0 for turn in turns) or None


def _sites(
    about: Mapping[str, Any], turns: Iterable[Turn], scores: Scores | None, folder: Path
) -> dict[str, dict[str, int]]:
    """Every site named anywhere, in the order of run.json, so that colours stay the same across figures."""
    sites = {name: counts(splits) for name, splits in mapping(about.get("sites")).items()}
    seen = [name for turn in turns for name in (*turn.visits, *turn.refused, *turn.survey)]
    seen += [*(scores.sites if scores else ()), *(found.name for found in _site_folders(folder))]
    return sites | {name: {} for name in seen if name not in sites}


def _site_folders(folder: Path) -> list[Path]:
    return sorted(found for found in folder.iterdir() if found.is_dir()) if folder.is_dir() else []


def _environment(path: Path, gaps: list[str], clean: Any) -> dict[str, str]:
    found = clean(read_object(path, gaps, lacking="environment.json is missing."))
    return {key: str(value) for key, value in found.items() if value is not None}


def _audit(path: Path, gaps: list[str]) -> dict[str, Departure]:
    label = f"audit of {path.parent.name}"
    left: dict[str, Departure] = {}
    for line in read_lines(path, gaps, label=f"the {label}", lacking=f"The {label} is missing."):
        field = str(line.get("field") or line.get("what") or "unnamed")
        before = left.get(field, Departure(0, 0, ""))
        reveals = highest([before.reveals, str(line.get("reveals") or "")])
        left[field] = Departure(before.count + 1, before.size + (whole(line.get("bytes")) or 0), reveals)
    return left


def _scores(found: Mapping[str, Any]) -> Scores | None:
    sites = {site: _score(mapping(score)) for site, score in mapping(found.get("sites")).items()}
    pooled = _score(mapping(found.get("pooled"))) if found.get("pooled") else None
    encoder = str(found["pretrained"]) if found.get("pretrained") else None
    if not sites and not pooled:
        return None
    by_patient, grid, unit = (
        found.get("per_patient") is True,
        str(found.get("grid", "")),
        str(found.get("distance_unit", "")),
    )
    return Scores(number(found.get("label_fraction")), encoder, sites, pooled, by_patient, grid, unit)


def _score(found: Mapping[str, Any]) -> Score:
    findings = {name: mapping(told).get("auroc") for name, told in mapping(found.get("findings")).items()}
    bins = [
        told
        for item in items(found.get("calibration"))
        if {"count", "confidence", "accuracy"} <= (told := numbers(item)).keys()
    ]
    calibration = tuple(Bin(int(told["count"]), told["confidence"], told["accuracy"]) for told in bins)
    note = str(found.get("note") or "")
    return Score(_estimates(found), whole(found.get("images")), calibration, _estimates(findings), note)


def _estimates(found: Mapping[str, Any]) -> dict[str, Estimate]:
    """Those that have a value."""
    parts = {name: numbers(item) for name, item in found.items()}
    return {
        name: Estimate(told["value"], told.get("low"), told.get("high"))
        for name, told in parts.items()
        if "value" in told
    }
