"""Audit records, as `generate audit` writes them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from fedcore.data.synthetic.audit_record import AUDIT, AuditRecord
from fedcore.data.synthetic.synthetic_set import digest_of
from tests.fedcore.data.synthetic.test_release_criteria import GOOD, OWN

RECORD = AuditRecord(
    set="s", generator="g", data="d", images=4, left_out=[], copies={}, encoder="e", missing_classes=[],
    of_set=OWN, quality={},
    groups={name: {"images": n, "copies": 0, "left_out": 0}
            for name, n in (("all", 4), ("class l", 2), ("class z", 2))},
    sites={"hospital_1": GOOD, "hospital_2": GOOD}, options={"run": "a run", "encoder": None, "overrides": []},
)  # fmt: skip


def write_audit(manifest: Path, **changed: Any) -> AuditRecord:
    """Next to the manifest of four images, two of class l and two of class z."""
    record = replace(RECORD, **({"set": digest_of(manifest)} | changed))
    (manifest.parent / AUDIT).write_text(json.dumps(record.as_dict() | {"options": record.options}))
    return record
