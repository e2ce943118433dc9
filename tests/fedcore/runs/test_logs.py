from __future__ import annotations

import csv
import errno
import os
from pathlib import Path

import pytest

from fedcore.errors import InputError
from fedcore.messages.answer import Contribution
from fedcore.messages.message import Empty
from fedcore.runs.communication import RoundRecord
from fedcore.runs.folder import RunFolder
from fedcore.runs.logs import Logs


def record(index: int) -> RoundRecord:
    r = RoundRecord(index, seconds=0.5)
    r.sent("a", Empty())
    r.arrived(Contribution("a", Empty(), 5, {"loss": 1.0 / (index + 1)}))
    r.evaluated(Contribution("a", Empty(), 5, {"knn": 0.25}))
    return r


def write(run: RunFolder, rounds: range, name: str = "csv") -> None:
    with Logs(run, [name]) as logs:  # type: ignore[list-item]
        for index in rounds:
            run.append(record(index))
            logs.write(record(index))


def rows(run: RunFolder) -> list[dict[str, str]]:
    with (run.path / "logs" / "metrics.csv").open() as file:
        return list(csv.DictReader(file))


def test_a_row_a_round(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    write(run, range(3))
    found = rows(run)
    assert [float(r["a/loss"]) for r in found] == pytest.approx([1, 1 / 2, 1 / 3])
    assert [int(r["step"]) for r in found] == [0, 1, 2]
    # A metric, the number of images and the seconds go up with the visit, the same with the evaluation.
    assert {(r["a/up_bytes"], r["a/down_bytes"], r["a/knn"]) for r in found} == {("48", "0", "0.25")}


def test_a_resumed_log_equals_an_uninterrupted_one(tmp_path: Path) -> None:
    whole, parts = RunFolder(tmp_path / "whole"), RunFolder(tmp_path / "parts")
    for run in (whole, parts):
        run.path.mkdir()
    write(whole, range(4))
    write(parts, range(2))
    with (parts.path / "logs" / "metrics.csv").open("a") as file:
        file.write("a row of a round that was never committed\n")
    write(parts, range(2, 4))
    assert rows(parts) == rows(whole)


def test_tensorboard_is_there_if_asked_for(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    write(run, range(1), "tensorboard")
    assert list((tmp_path / "logs").glob("events.out.tfevents.*"))
    assert not (tmp_path / "logs" / "metrics.csv").exists()


def test_a_full_disk_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with Logs(RunFolder(tmp_path), ["csv"]) as logs, monkeypatch.context() as patch:
        patch.setattr(type(logs.loggers[0]), "save", full)
        with pytest.raises(InputError, match=r"the disk is full: .*logs/metrics\.csv does not fit"):
            logs.write(record(0))
