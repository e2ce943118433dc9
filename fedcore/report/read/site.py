"""Reads a site's own folder as if it were a run of this site alone; nothing outside of the folder is read."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from fedcore.errors import InputError
from fedcore.messages.request import EVALUATE, TRAIN
from fedcore.privacy.audit_log import AUDIT_LOG
from fedcore.report.private import shorten_paths
from fedcore.report.read.levels import highest_level
from fedcore.report.read.parse import counts, items, mapping, number, numbers, read_lines, read_object, texts, whole
from fedcore.report.read.reader import audit_totals
from fedcore.report.read.run import RoundSummary, Run, VisitSummary

SITE_FILE = "site.json"
"""What the site says of itself, written by its farewell visit."""
ERRORS = "errors.jsonl"
Line = Mapping[str, Any]


def is_site(folder: Path) -> bool:
    """Whether this is the folder of a site, of a run that has said farewell or has at least sent something."""
    return any((folder / name).is_file() for name in (SITE_FILE, AUDIT_LOG))


def read_site(folder: Path) -> Run:
    """The site's part in the run that its audit log lists last, from its own files.

    Raises:
        InputError: It is not the folder of a site.
    """
    if not is_site(folder):
        raise InputError(
            f"the folder of a site holds {SITE_FILE} or {AUDIT_LOG}, and {folder} holds neither; give a site's own "
            "folder, such as checkpoints/<run>/sites/<site>"
        )
    gaps: list[str] = []
    lacking = f"{SITE_FILE} is missing: the run has not ended here yet."
    about = shorten_paths(read_object(folder / SITE_FILE, gaps, lacking=lacking))
    name = str(about.get("site") or folder.resolve().name)
    listed = read_lines(folder / AUDIT_LOG, gaps, label="the audit log", lacking="The audit log is missing.")
    lines = [shorten_paths(line) for line in listed]
    gaps += _missing_numbers(lines)
    run = str(lines[-1].get("run") or "") if lines else ""
    others = {str(line.get("run") or "") for line in lines} - {run}
    if others:
        gaps.append(f"The audit log also lists {len(others)} earlier run(s); this page is about the last one.")
    lines = [line for line in lines if str(line.get("run") or "") == run]
    return Run(
        name=name,
        folder=folder,
        command=str(about.get("command") or "run"),
        status="finished" if about else "running",
        planned_rounds=None,
        seconds=sum(number(of.get("seconds")) or 0.0 for line in lines if (of := mapping(line.get("values")))) or None,
        sites={name: counts(about.get("images"))},
        classes=texts(about.get("classes")),
        size=tuple(int(side) for side in items(about.get("size")) if number(side)),
        channels=whole(about.get("channels")),
        parameters=None,
        data="",
        error="",
        skipped=(),
        notes=tuple(_errors(folder, run, gaps)),
        gaps=tuple(gaps),
        recipe="",
        environment={f"policy.{key}": str(value) for key, value in mapping(about.get("policy")).items()},
        rounds=_rounds(name, lines),
        answers=_outside(name, lines),
        buffers={},
        audit_logs={name: audit_totals(lines)},
        scores=None,
        set_audit=None,
        downloads=False,
    )


def _missing_numbers(lines: list[Line]) -> list[str]:
    """Every line has the next number; where one is missing, a line was lost or removed."""
    missing = [at for at, line in enumerate(lines) if line.get("seq") != at]
    return [f"Line {missing[0]} of the audit log is missing or not in its place."] if missing else []


def _rounds(site: str, lines: Iterable[Line]) -> tuple[RoundSummary, ...]:
    """Of a round that was requested again the last answer counts."""
    found: dict[int, dict[str, list[Line]]] = {}
    for line in lines:
        at, request = whole(line.get("round")), str(line.get("request") or "")
        if at is not None and request in (TRAIN, EVALUATE):
            found.setdefault(at, {}).setdefault(request, []).append(line)
    return tuple(_round(site, at, found[at]) for at in sorted(found))


def _round(site: str, at: int, of: Mapping[str, list[Line]]) -> RoundSummary:
    trained, evaluated = of.get(TRAIN, []), _last(of.get(EVALUATE, []))
    refused = {site: str(trained[-1].get("text") or "")} if trained and trained[-1].get("what") == "refusal" else {}
    visits = {site: _visit(_last(trained))} if trained and not refused else {}
    evaluation = {site: _visit(evaluated).metrics} if evaluated else {}
    return RoundSummary(at, visits[site].seconds if visits else None, visits, refused, evaluation)


def _outside(site: str, lines: Iterable[Line]) -> tuple[Mapping[str, VisitSummary], ...]:
    other = [line for line in lines if line.get("request") not in (TRAIN, EVALUATE)]
    return ({site: _visit(other)},) if other else ()


def _last(lines: list[Line]) -> list[Line]:
    """Of an answer that was given several times, the lines of the last one."""
    return list({str(line.get("field")): line for line in lines if line.get("what") != "refusal"}.values())


def _visit(lines: list[Line]) -> VisitSummary:
    values = {str(line.get("field")): numbers(line.get("values")) for line in lines if "values" in line}
    answer, up = values.get("answer", {}), dict[str, int]()
    for line in lines:
        kind = str(line.get("what") or "")
        if kind in ("weights", "exchange", "metrics"):
            up[kind] = up.get(kind, 0) + (whole(line.get("bytes")) or 0)
    level = highest_level(str(line.get("reveals") or "") for line in lines)
    return VisitSummary(int(answer.get("examples", 0)), answer.get("seconds"), values.get("metrics", {}), up, {}, level)


def _errors(folder: Path, run: str, gaps: list[str]) -> list[str]:
    """The errors of this run, whose texts stay at the site; the site may read them."""
    lines = read_lines(folder / ERRORS, gaps, label=ERRORS)
    return [
        shorten_paths(f"round {line.get('round')}: {line.get('error')}")
        for line in lines
        if str(line.get("run") or "") in ("", run)
    ]
