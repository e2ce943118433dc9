"""Levels of a run, from the record of the server and from the audit logs of the sites."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from fedcore.report.read.levels import disagreements, level_of_run
from fedcore.report.read.reader import read_run
from fedcore.report.sections.traffic import sent_fields, site_traffic

MakeRun = Callable[..., Path]


def test_an_audit_log_that_lists_more_than_the_record_is_reported(make_run: MakeRun) -> None:
    folder = make_run()
    with (folder / "sites" / "hospital_2" / "audit.jsonl").open("a") as file:
        file.write('{"round": 3, "field": "exchange/virtual", "reveals": "SAMPLES", "bytes": 7}\n')
    run = read_run(folder)
    assert level_of_run(run) == "FEATURES"  # every page and card shows what the server received
    assert disagreements(run) == [
        "The audit log of hospital_2 lists SAMPLES, but the run recorded FEATURES at most for it."
    ]
    assert [one.reveals for one in site_traffic(run)] == ["FEATURES"] * 4
    first, *_, last = sent_fields(run).values()
    assert last.size == 7
    assert first.count == 4 * 12
