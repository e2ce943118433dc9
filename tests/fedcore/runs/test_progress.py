from __future__ import annotations

import io

import pytest

from fedcore.messages.answer import Contribution, Refusal
from fedcore.messages.message import Empty
from fedcore.runs.communication import RoundRecord
from fedcore.runs.progress import Counting, Progress, bars_of


def record() -> RoundRecord:
    r = RoundRecord(0)
    for site, images, loss, knn in (("a", 30, 1.0, 0.5), ("b", 10, 3.0, 0.9)):
        r.sent(site, Empty())
        r.arrived(Contribution(site, Empty(), images, {"loss": loss}))
        r.evaluated(Contribution(site, Empty(), images, {"knn": knn, "images": float(images)}))
    return r


def test_the_last_rounds_means_stand_beside_the_bar() -> None:
    with Progress(rounds=5, done=2) as progress:
        progress.visiting("a")
        progress.finished(record())
        progress.visiting("b")
        (task,) = progress.bars.tasks
    assert (task.completed, task.total) == (3, 5)
    assert progress.last == "loss 1.500  knn 0.600"
    assert task.fields["note"] == "loss 1.500  knn 0.600  at b"


def test_bars_say_what_they_belong_to() -> None:
    with bars_of("encoder"), Progress(rounds=1) as rounds, Counting("reading images") as counting:
        assert [bars.tasks[0].description for bars in (rounds.bars, counting.bars)] == [
            "encoder: rounds", "encoder: reading images",
        ]  # fmt: skip
    with Progress(rounds=1) as rounds:
        assert rounds.bars.tasks[0].description == "rounds"


def test_a_round_without_metrics() -> None:
    with Progress(rounds=1) as progress:
        progress.finished(RoundRecord(0))
    assert progress.last == ""


def test_a_refusal_is_told_even_without_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    with Progress(rounds=1) as progress:
        r = record()
        r.failed(Refusal("b", "the loss became nan"))
        progress.finished(r)
    out, err = capsys.readouterr()
    assert out == ""
    assert "round 0: b left out: the loss became nan" in err


def test_without_a_terminal_bars_are_silent_and_a_round_is_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    with bars_of("encoder"), Progress(rounds=2) as progress, Counting("reading images") as decoding:
        first, second = record(), record()
        first.seconds, second.round = 61.24, 1
        second.failed(Refusal("b", "its loss " + "is long " * 20))
        progress.finished(first)
        progress.finished(second)
        decoding(3, 9)
    out, err = capsys.readouterr()
    lines = err.splitlines()
    assert out == ""
    assert lines[0] == "encoder: 1 of 2 rounds: 2 sites  loss 1.500  knn 0.600  61.2 s"
    assert lines[1].startswith("round 1: b left out: its loss is long")
    assert lines[2] == "encoder: 2 of 2 rounds: 1 of 2 sites  loss 1.500  knn 0.600  0.0 s"
    assert len(lines) == 3
    assert (decoding.bars.tasks[0].completed, decoding.bars.tasks[0].total) == (3, 9)


class Gone(io.StringIO):
    """A pipe whose reader has ended."""

    def write(self, text: str) -> int:
        raise BrokenPipeError


def test_a_reader_who_has_gone_does_not_end_a_training(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stderr", Gone())
    with Progress(rounds=1) as progress:
        progress.finished(record())
    assert progress.last == "loss 1.500  knn 0.600"
