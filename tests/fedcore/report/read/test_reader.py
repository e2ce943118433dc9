"""Any run folder can be read, and the gaps list what it lacks."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from fedcore.errors import InputError
from fedcore.report.read.levels import highest_level
from fedcore.report.read.reader import read_run
from fedcore.runs.folder import RunFolder

MakeRun = Callable[..., Path]


def test_a_whole_run_has_no_gaps(make_run: MakeRun) -> None:
    run = read_run(make_run())
    assert run.gaps == ()
    assert [one.index for one in run.rounds] == list(range(12))
    assert run.rounds[0].visits["hospital_1"].up["weights"] == 1_200_000
    assert run.audit_logs["hospital_4"]["exchange/features"].count == 12
    assert run.audit_logs["hospital_4"]["exchange/features"].size == 12 * 300_000


def test_a_line_cut_by_a_kill_is_skipped_with_a_note(make_run: MakeRun) -> None:
    folder = make_run(status="running", rounds=5, planned=20)
    path = folder / "rounds.jsonl"
    path.write_text(path.read_text()[:-40])
    run = read_run(folder)
    assert len(run.rounds) == 4
    assert run.gaps == ("The last line of rounds.jsonl was cut off while it was written, and is skipped.",)


def test_a_round_recorded_twice_counts_once_and_last(make_run: MakeRun) -> None:
    folder = make_run(rounds=3)
    again = {"round": 1, "seconds": 9.0, "sites": {}}
    with (folder / "rounds.jsonl").open("a") as file:
        file.write(json.dumps(again) + "\n")
    run = read_run(folder)
    assert [one.index for one in run.rounds] == [0, 1, 2]
    assert run.rounds[1].seconds == 9.0
    assert "recorded twice" in run.gaps[0]


def test_rounds_come_in_order_whatever_the_file_says(make_run: MakeRun) -> None:
    path = make_run(rounds=4) / "rounds.jsonl"
    path.write_text("\n".join(reversed(path.read_text().splitlines())))
    assert [one.index for one in read_run(path.parent).rounds] == [0, 1, 2, 3]


@pytest.mark.parametrize("lost", ["run.json", "rounds.jsonl", "recipe.yaml", "environment.json"])
def test_each_missing_file_is_one_gap(make_run: MakeRun, lost: str) -> None:
    folder = make_run()
    (folder / lost).unlink()
    run = read_run(folder)
    assert len(run.gaps) == 1
    assert lost in run.gaps[0]
    assert list(run.sites) == ["hospital_1", "hospital_2", "hospital_3", "hospital_4"]


@pytest.mark.parametrize("name", ["run.json", "environment.json", "scores.json"])
@pytest.mark.parametrize("text", ["", "{", "[1]", '"x"', "\x00\xff"])
def test_a_damaged_file_is_a_gap_and_no_crash(make_run: MakeRun, name: str, text: str) -> None:
    folder = make_run()
    (folder / name).write_text(text)
    assert any(name in gap for gap in read_run(folder).gaps)


def test_values_of_wrong_types_count_as_absent(make_run: MakeRun) -> None:
    wrong = {
        "round": 12,
        "seconds": "x",
        "sites": {"a": {"metrics": [1], "up": {"weights": None}}, "b": 3},
        "evaluation": 1,
    }
    folder = make_run(size=7, classes="x", sites=("a",))
    with (folder / "rounds.jsonl").open("a") as file:
        file.write(
            json.dumps(wrong) + "\n" + '{"round": NaN}\n{"round": 13, "sites": {"a": {"metrics": {"loss": NaN}}}}\n'
        )
    run = read_run(folder)
    assert run.rounds[12].visits["a"].metrics == {}
    assert run.rounds[13].visits["a"].metrics == {}
    assert run.size == ()
    assert run.classes == ()


def test_a_killed_runs_time_is_the_sum_of_its_rounds(make_run: MakeRun) -> None:
    folder = make_run(rounds=3, seconds=None, status="running")
    assert read_run(folder).seconds == pytest.approx(6.0)


def test_a_folder_that_holds_no_run_is_refused_with_advice(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="it holds none of these"):
        read_run(tmp_path)
    with pytest.raises(InputError, match="no such folder"):
        read_run(tmp_path / "absent")


def test_unknown_levels_rank_highest_level() -> None:
    assert highest_level(["WEIGHTS", "FEATURES", "STATISTICS"]) == "FEATURES"
    assert highest_level(["SAMPLES", "GENOMES"]) == "GENOMES"
    assert highest_level([]) == ""


def test_rounds_that_were_lost_are_a_gap(make_run: MakeRun) -> None:
    folder = make_run(rounds=3)
    record = folder / "rounds.jsonl"
    run = RunFolder(folder)
    run.close("finished")
    assert read_run(folder).gaps == ()
    record.write_text("".join(record.read_text().splitlines(keepends=True)[1:]))
    gap = "rounds.jsonl does not match what the run committed: lines were lost or changed, or state/ is damaged."
    assert read_run(folder).gaps == (gap,)
