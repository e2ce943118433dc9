"""A site answers as many audits of a run as its policy allows, and counts them itself."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from fedcore.errors import InputError, Refused
from fedcore.messages.reveals import Reveals
from fedcore.privacy.audit_log import AUDIT_LOG
from fedcore.privacy.policy import Policy
from fedcore.report.read.reader import read_run
from fedgen.auditing.allowance import ENTRY, counted_audits, has_audited
from fedgen.auditing.run import audit
from fedgen.synthetic.synthetic_set import SyntheticSet


@pytest.fixture
def run(one_run: Path, tmp_path: Path) -> Path:
    """A run without an audit."""
    run = Path(shutil.copytree(one_run, tmp_path / "run"))
    for file in run.glob("sites/*/audit.jsonl"):
        lines = [line for line in file.read_text().splitlines() if ENTRY not in line]
        file.write_text("".join(f"{line}\n" for line in lines))
    return run


def twice(run: Path, drawn: Path) -> None:
    audit(run, drawn, overrides=["--policy.audits", "2"], left_out=[1])
    audit(run, drawn, overrides=["--policy.audits", "2"], left_out=[2])


def test_more_audits_than_allowed_are_declined_and_the_same_request_is_not_counted_again(
    run: Path, drawn: Path
) -> None:
    twice(run, drawn)
    audit(run, drawn, overrides=["--policy.audits", "2"], left_out=[1])
    with pytest.raises(InputError, match=r"hospital_1 could not be audited: it has answered 2 audits .* allows 2"):
        audit(run, drawn, overrides=["--policy.audits", "2"], left_out=[3])
    assert len(counted_audits(run / "sites" / "hospital_1")) == 2


def test_a_site_may_allow_no_audit_and_a_declined_audit_leaves_no_record(run: Path, drawn: Path) -> None:
    for level in ("STATISTICS", "FEATURES"):
        with pytest.raises(InputError, match="it has answered 0 audits"):
            audit(run, drawn, overrides=["--policy.audits", "0", "--policy.max_level", level])
    assert not (drawn / "audit.json").exists()


def test_each_audit_is_in_the_audit_log_of_each_site_with_its_set(run: Path, drawn: Path) -> None:
    found = audit(run, drawn)
    for site in ("hospital_1", "hospital_2"):
        (entry,) = counted_audits(run / "sites" / site)
        assert (entry["set"], entry["generator"]) == (found.set, found.generator)
        assert (entry["set"], entry["reveals"]) == (SyntheticSet.open(drawn).digest(), "FEATURES")
        log = [json.loads(line) for line in (run / "sites" / site / AUDIT_LOG).read_text().splitlines()]
        answer = log[log.index(entry) + 1]
        assert answer["seq"] == entry["seq"] + 1
        assert (entry["run"], entry["recipe"], entry["round"]) == (answer["run"], answer["recipe"], answer["round"])
        assert len(entry["recipe"]) == 64
        assert has_audited(run / "sites" / site, found.set)
        assert not has_audited(run / "sites" / site, "another")


@pytest.mark.parametrize("text", ["{", "3\n", "\xff"])
def test_an_unreadable_audit_log_allows_no_audit(tmp_path: Path, text: str) -> None:
    (tmp_path / "audit.jsonl").write_bytes(text.encode("latin-1"))
    with pytest.raises(Refused, match="so audits cannot be counted"):
        counted_audits(tmp_path)
    assert not has_audited(tmp_path, "a set")
    with pytest.raises(Refused, match="no folder to count audits in"):
        counted_audits(None)


def test_an_audit_raises_statistics_to_features_and_nothing_else() -> None:
    assert Policy().for_audit().max_level == Reveals.FEATURES
    assert Policy(audits=0).for_audit().max_level == Reveals.STATISTICS
    assert Policy(Reveals.WEIGHTS).for_audit().max_level == Reveals.WEIGHTS
    assert Policy(Reveals.SAMPLES).for_audit().max_level == Reveals.SAMPLES
    with pytest.raises(ValueError, match=r"policy.audits must be 0 or more, got -1"):
        Policy(audits=-1)


def test_the_page_names_a_listed_audit_whose_record_is_missing(run: Path, drawn: Path) -> None:
    audit(run, drawn)
    assert not any("list an audit" in gap for gap in read_run(run).gaps)
    (run / "audit.json").unlink()
    assert any("list an audit of a synthetic set, but audit.json is missing" in gap for gap in read_run(run).gaps)
