from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from fedcore.cli import watch
from fedcore.cli.main import main
from fedcore.errors import InputError
from fedcore.files.writing import write_json
from fedcore.report.read.reader import read_run

ABOUT = {
    "command": "pretrain", "status": "running", "rounds": 10,
    "sites": {"north": {"train": 300}, "[red]south": {"train": 100}},
}  # fmt: skip


def line(index: int, *, knn: float | None = None, refused: bool = False) -> str:
    def visit(loss: float, examples: int) -> dict[str, Any]:
        return {"examples": examples, "seconds": 1.25, "metrics": {"loss": loss}, "up": {"weights": 2_000_000},
                "down": {"weights": 500_000}, "reveals": "STATISTICS"}  # fmt: skip

    sites = {"north": visit(8.0 - index, 300), "[red]south": visit(4.0 - index, 100)}
    if refused:
        sites["[red]south"] = {"examples": 0, "seconds": 0.0, "metrics": {}, "down": {"weights": 500_000}}
    return json.dumps({
        "round": index, "seconds": 10.0, "sites": sites,
        "refused": {"[red]south": "the loss became nan"} if refused else {},
        "evaluation": {"north": {"knn": knn, "images": 30.0}} if knn is not None else {},
    })  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A run of ten rounds in its third; in the second the visit of a site failed whose name looks like markup."""
    write_json(tmp_path / "run.json", ABOUT)
    lines = [line(0, knn=0.25), line(1, refused=True), line(2, knn=0.5)]
    (tmp_path / "rounds.jsonl").write_text("\n".join(lines) + "\n")
    return tmp_path


def shown(folder: Path, quiet: float = 0.0, width: int = 80) -> str:
    console = Console(width=width, highlight=False)
    with console.capture() as captured:
        console.print(watch.progress_view(read_run(folder), quiet))
    return captured.get()


def test_a_running_run_on_one_screen(folder: Path) -> None:
    text = shown(folder, quiet=4.0)
    rows = [" ".join(row.split()) for row in text.splitlines()]
    assert rows[0] == f"{folder.name} pretrain running"
    assert rows[1].endswith("round 3 of 10 0:00:34 so far about 0:01:06 left")
    # Weighted by images: (8 * 300 + 4 * 100) / 400, then north's 7 alone, then (6 * 300 + 2 * 100) / 400.
    assert rows[2] == "loss 7.000 ██▁ 5.000"
    assert rows[3] == "kNN 0.250 ▁█ 0.500"
    assert rows[4:6] == ["upload 10 MB, download 3 MB", "Most sensitive data sent: STATISTICS (statistics over images)"]
    assert rows[6] == "round 1: visit of [red]south failed: the loss became nan"
    assert rows[7] == "site images round loss kNN seconds upload download failed"
    assert rows[8] == "north 300 2 6.000 0.500 1.2 6 MB 1.5 MB -"
    assert rows[9] == "[red]south 100 2 2.000 - 1.2 4 MB 1.5 MB 1"
    assert len(rows) == 10
    assert max(map(len, text.splitlines())) <= 80


def test_after_a_failed_visit_the_table_shows_the_last_good_one(folder: Path) -> None:
    (folder / "rounds.jsonl").write_text("\n".join([line(0), line(1, refused=True)]) + "\n")
    assert "[red]south 100 0 4.000 - 1.2 2 MB 1 MB 1" in [" ".join(r.split()) for r in shown(folder).splitlines()]


def test_before_the_first_round(folder: Path) -> None:
    (folder / "rounds.jsonl").unlink()
    text = shown(folder, quiet=5000.0)
    assert "round 0 of 10" in text
    assert "1:23:20 so far" in text
    assert "No data sent yet" in text
    assert "failed:" not in text
    assert "no change" not in text  # the duration of a round is not known


@pytest.mark.parametrize(
    ("status", "error"), [("finished", ""), ("failed", "round 3: no site is left"), ("stopped", "")]
)
def test_how_it_ended(folder: Path, status: str, error: str) -> None:
    write_json(folder / "run.json", ABOUT | {"status": status, "seconds": 95.0, "error": error})
    text = shown(folder, quiet=1e6)
    assert text.splitlines()[0].endswith(status)
    assert "0:01:35" in text
    assert "so far" not in text
    assert "about" not in text
    assert "no change" not in text
    assert error in text


def test_a_long_time_without_change_is_reported_and_not_counted(folder: Path) -> None:
    text = shown(folder, quiet=3600.0, width=120)
    assert "no change for 1:00:00; if its process has ended, --resume true continues" in text
    assert "0:00:30 so far" in text
    assert " left " not in text.splitlines()[1]
    assert "no change" not in shown(folder, quiet=100.0)


def test_time_left_follows_the_last_ten_rounds(folder: Path) -> None:
    run = read_run(folder)
    fast = replace(run.rounds[0], seconds=1.0)
    slow = replace(run.rounds[0], seconds=100.0)
    assert watch.time_left(replace(run, rounds=(slow,) * 5 + (fast,) * 10, planned_rounds=35), 0.0) == 20.0
    assert watch.time_left(replace(run, planned_rounds=4), 60.0) == 0.0  # a late round never makes it negative
    assert watch.time_left(replace(run, planned_rounds=3), 0.0) is None
    assert watch.time_left(replace(run, planned_rounds=None), 0.0) is None


def test_a_sparkline() -> None:
    assert watch.sparkline([0.0, 7.0, 3.0]) == "▁█▄"
    assert watch.sparkline([2.0, 2.0]) == "▁▁"
    assert watch.sparkline([1.0]) == "▁"
    assert watch.sparkline([float(i) for i in range(1000)], width=8) == "▁▂▃▄▅▆▇█"
    assert len(watch.sparkline([float(i) for i in range(41)], width=40)) == 40


@pytest.mark.parametrize(
    "tail", ['{"round": 3, "seco', "nonsense\n", '{"round": "x"}\n', '{"round": 3, "sites": {"north": null}}\n', "\n\n"]
)
def test_a_half_written_or_damaged_line_is_skipped(folder: Path, tail: str) -> None:
    with (folder / "rounds.jsonl").open("a") as file:
        file.write(tail)
    assert "5.000" in shown(folder)


def test_a_damaged_run_json_is_shown_as_unknown(folder: Path) -> None:
    (folder / "run.json").write_text('{"status": "run')
    assert "unknown" in shown(folder)
    assert "3 rounds" in shown(folder)


def test_once_and_a_pipe_print_a_snapshot_and_end(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for words in ([str(folder)], [str(folder), "--once"], ["--once", str(folder)]):
        assert watch.command(words) == 0
        assert "round 3 of 10" in capsys.readouterr().out


@pytest.mark.parametrize("words", [[], ["--twice"], ["a", "b"], ["--once"]])
def test_wrong_arguments_print_the_usage(words: list[str]) -> None:
    with pytest.raises(InputError, match="usage: fedpretrain watch RUN"):
        watch.command(words)


def test_another_folder_is_an_input_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for where in (tmp_path, tmp_path / "none"):
        with pytest.raises(SystemExit) as stopped:
            main(["watch", str(where)])
        assert stopped.value.code == 2
        assert "a run folder holds run.json" in capsys.readouterr().err


def test_it_follows_a_run_to_its_end(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each look finds one round more, then the end; what has not changed is not read again."""
    seen: list[tuple[str, int]] = []
    real = watch.read_run
    monkeypatch.setattr(watch, "read_run", lambda path: note(real(path)))

    def note(run: Any) -> Any:
        seen.append((run.status, len(run.rounds)))
        return run

    events: list[Callable[[], object]] = [
        lambda: append(folder, line(3)),
        lambda: None,
        lambda: append(folder, line(4)),
        lambda: write_json(folder / "run.json", ABOUT | {"status": "trained"}),
        lambda: write_json(folder / "run.json", ABOUT | {"status": "finished", "seconds": 50.0}),
    ]
    monkeypatch.setattr(watch.time, "sleep", lambda _: events.pop(0)())
    watch.follow(folder)
    assert not events
    assert seen == [("running", 3), ("running", 4), ("running", 5), ("trained", 5), ("finished", 5)]


def append(folder: Path, text: str) -> None:
    with (folder / "rounds.jsonl").open("a") as file:
        file.write(text + "\n")


def test_ctrl_c_ends_the_display_only(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def press(_: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(watch.time, "sleep", press)
    monkeypatch.setattr(watch.sys.stdout, "isatty", lambda: True)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert watch.command([str(folder)]) == 0
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_quiet_counts_from_the_last_change(folder: Path) -> None:
    hour_ago = time.time() - 3600
    for name in ("run.json", "rounds.jsonl"):
        os.utime(folder / name, (hour_ago, hour_ago))
    assert watch.quiet_for(folder) == pytest.approx(3600, abs=60)
    assert watch.quiet_for(folder / "none") == pytest.approx(0, abs=60)
