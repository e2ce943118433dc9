"""Reads audit.json: the results of the last audit of a set that the run's generator made."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from fedcore.data.synthetic.audit_record import AUDIT, with_digest
from fedcore.report.read.parse import items, mapping, numbers, read_object, texts, whole
from fedcore.report.read.run import AuditVerdict, SetAudit


def read_set_audit(folder: Path, gaps: list[str], clean: Callable[[Any], Any]) -> SetAudit | None:
    """None without such a file; `clean` is applied to what it holds."""
    record = read_object(folder / AUDIT, gaps)
    if not record:
        return None
    if with_digest(record) != record:
        gaps.append(f"{AUDIT} was changed after the audit: its digest does not match its content.")
    found = clean(record)
    return SetAudit(
        name=str(found.get("name") or ""),
        set=str(found.get("set") or ""),
        images=whole(found.get("images")) or 0,
        left_out=len(items(found.get("left_out"))),
        safe=_verdict(found.get("safe")),
        useful=_verdict(found.get("useful")),
        copies={image: texts(sites) for image, sites in mapping(found.get("copies")).items()},
        sites={site: numbers(figures) for site, figures in mapping(found.get("sites")).items()},
        quality={group: numbers(figures) for group, figures in mapping(found.get("quality")).items()},
        encoder=str(found.get("encoder") or ""),
    )


def _verdict(value: Any) -> AuditVerdict:
    found = mapping(value)
    return AuditVerdict(
        str(found.get("answer") or "not measured"), texts(found.get("reasons")), texts(found.get("not_measured"))
    )
