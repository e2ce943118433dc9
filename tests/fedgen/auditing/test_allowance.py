"""A site answers so many audits of a run as its policy allows, and counts them itself."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from fedcore.errors import InputError, Refused
from fedcore.messages.message import Reveals
from fedcore.privacy.policy import Policy
from fedcore.report.read.reader import read_run
from fedgen.auditing.allowance import WHAT, answered, asked_about
from fedgen.auditing.run import inspect
from fedgen.synthetic.synthetic_set import SyntheticSet


@pytest.fixture
def run(one_run: Path, tmp_path: Path) -> Path:
    """One that has answered no audit yet."""
    run = Path(shutil.copytree(one_run, tmp_path / "run"))
    for file in run.glob("sites/*/audit.jsonl"):
        lines = [line for line in file.read_text().splitlines() if WHAT not in line]
        file.write_text("".join(f"{line}\n" for line in lines))
    return run


def twice(run: Path, drawn: Path) -> None:
    inspect(run, drawn, overrides=["--policy.audits", "2"], left_out=[1])
    inspect(run, drawn, overrides=["--policy.audits", "2"], left_out=[2])


def test_more_audits_than_allowed_are_refused_and_the_same_question_is_no_new_one(run: Path, drawn: Path) -> None:
    twice(run, drawn)
    inspect(run, drawn, overrides=["--policy.audits", "2"], left_out=[1])
    with pytest.raises(InputError, match=r"hospital_1 could not audit the set: it has answered 2 audits .* allows 2"):
        inspect(run, drawn, overrides=["--policy.audits", "2"], left_out=[3])
    assert len(answered(run / "sites" / "hospital_1")) == 2


def test_a_site_may_allow_none_and_a_refused_audit_leaves_no_record(run: Path, drawn: Path) -> None:
    for level in ("STATISTICS", "FEATURES"):
        with pytest.raises(InputError, match="it has answered 0 audits"):
            inspect(run, drawn, overrides=["--policy.audits", "0", "--policy.max_level", level])
    assert not (drawn / "audit.json").exists()


def test_each_audit_is_in_the_audit_file_of_each_site_with_the_set(run: Path, drawn: Path) -> None:
    found = inspect(run, drawn)
    for site in ("hospital_1", "hospital_2"):
        (entry,) = answered(run / "sites" / site)
        assert (entry["set"], entry["generator"]) == (found.set, found.generator)
        assert (entry["set"], entry["reveals"]) == (SyntheticSet.open(drawn).digest(), "FEATURES")
        assert asked_about(run / "sites" / site, found.set)
        assert not asked_about(run / "sites" / site, "another")


@pytest.mark.parametrize("text", ["{", "3\n", "\xff"])
def test_a_file_that_cannot_be_read_allows_nothing(tmp_path: Path, text: str) -> None:
    (tmp_path / "audit.jsonl").write_bytes(text.encode("latin-1"))
    with pytest.raises(Refused, match="so audits cannot be counted"):
        answered(tmp_path)
    assert not asked_about(tmp_path, "a set")
    with pytest.raises(Refused, match="no folder to count audits in"):
        answered(None)


def test_an_audit_lifts_statistics_to_features_and_nothing_else() -> None:
    assert Policy().for_audit().max_level == Reveals.FEATURES
    assert Policy(audits=0).for_audit().max_level == Reveals.STATISTICS
    assert Policy(Reveals.WEIGHTS).for_audit().max_level == Reveals.WEIGHTS
    assert Policy(Reveals.SAMPLES).for_audit().max_level == Reveals.SAMPLES
    with pytest.raises(ValueError, match=r"policy.audits must be 0 or more, got -1"):
        Policy(audits=-1)


def test_the_page_says_that_a_listed_audit_is_missing(run: Path, drawn: Path) -> None:
    inspect(run, drawn)
    assert not any("list an audit" in gap for gap in read_run(run).gaps)
    (run / "audit.json").unlink()
    assert any("list an audit of a synthetic set, and audit.json is missing" in gap for gap in read_run(run).gaps)
