from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from fedcore.data.synthetic.audit_record import AUDIT, AuditRecord
from fedcore.errors import InputError
from tests.fedcore.audits import RECORD
from tests.fedcore.data.synthetic.test_release_criteria import GOOD


def written(folder: Path, changed: dict[str, Any]) -> Path:
    (folder / AUDIT).write_text(json.dumps(RECORD.as_dict() | {"options": RECORD.options} | changed))
    return folder


def test_a_record_is_read_as_it_was_written(tmp_path: Path) -> None:
    record = AuditRecord.read(written(tmp_path, {}))
    assert record == RECORD
    assert (record.safe.answer, record.useful.answer) == ("yes", "yes")
    assert record.options == RECORD.options


def test_the_dictionary_has_no_paths(tmp_path: Path) -> None:
    assert "options" not in RECORD.as_dict()


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "3", "null", "{}", "[" * 100_000, '{"passes": true}', '{"safe": {"answer": "yes"}}']
)
def test_an_incomplete_record_is_an_error(tmp_path: Path, text: str) -> None:
    (tmp_path / AUDIT).write_text(text)
    with pytest.raises(InputError, match="is not a complete record of an audit"):
        AuditRecord.read(tmp_path)


def test_a_missing_record_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is missing"):
        AuditRecord.read(tmp_path)


YES = {"answer": "yes", "reasons": [], "not_measured": []}


@pytest.mark.parametrize(
    ("changed", "text"),
    [
        ({"sites": {"a": GOOD | {"membership_auc": 0.9}}}, "its verdicts"),
        ({"sites": {"a": GOOD | {"membership_auc": 0.9}}, "safe": YES}, "its verdicts"),
        ({"sites": {"a": {k: v for k, v in GOOD.items() if k != "membership_auc"}}}, "its verdicts"),
        ({"sites": {}}, "no site audited it"),
        ({"sites": {"a": GOOD | {"copies_by_pixels": 3.0}}}, "the number of copies at the sites"),
        ({"copies": {"000000.png": ["a"]}}, "the number of copies"),
        ({"images": 0}, "the number of images"),
        ({"left_out": [3]}, "the number of images left out"),
        ({"set": ""}, "a digest is missing"),
        ({"data": ""}, "a digest is missing"),
        ({"groups": {"all": {"images": 4, "copies": 0, "left_out": 0}}}, "its classes"),
    ],
)
def test_a_contradictory_record_is_an_error(tmp_path: Path, changed: dict[str, Any], text: str) -> None:
    with pytest.raises(InputError, match=f"contradicts itself: {text}"):
        AuditRecord.read(written(tmp_path, changed))


def test_verdicts_follow_from_the_figures(tmp_path: Path) -> None:
    """A record whose verdicts fit its figures is read, whatever the verdicts are."""
    bad = AuditRecord(**{**RECORD.__dict__, "sites": {"a": GOOD | {"membership_auc": 0.9}}})
    (tmp_path / AUDIT).write_text(json.dumps(bad.as_dict()))
    assert AuditRecord.read(tmp_path).safe.answer == "no"
