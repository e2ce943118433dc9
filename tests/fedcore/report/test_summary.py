"""Words and units at the top of the page."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from fedcore.report.read import read_run
from fedcore.report.summary import duration, key_figures, metric_name, sentence, size, verdict

MakeRun = Callable[..., Path]


@pytest.mark.parametrize(
    ("found", "text"),
    [
        (None, ""),
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1 kB"),
        (1_234_567, "1.23 MB"),
        (123_456_789, "123 MB"),
        (5e9, "5 GB"),
    ],
)
def test_sizes(found: float | int | None, text: str) -> None:
    assert size(found) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (None, ""),
        (1.94, "1.9 s"),
        (59.99, "1 min 00 s"),
        (81.2, "1 min 21 s"),
        (3599.9, "1 h 00 min"),
        (7500.0, "2 h 05 min"),
    ],
)
def test_durations(seconds: float | None, text: str) -> None:
    assert duration(seconds) == text


def test_metric_names() -> None:
    assert [metric_name(name) for name in ("auroc", "balanced_accuracy", "f1")] == [
        "AUROC",
        "Balanced accuracy",
        "F1",
    ]


@pytest.mark.parametrize(
    ("status", "word"),
    [("finished", "Finished"), ("failed", "Failed"), ("running", "Not finished"), ("odd", "End unknown")],
)
def test_every_end_has_a_word(make_run: MakeRun, status: str, word: str) -> None:
    assert verdict(read_run(make_run(status=status)))[1] == word


def test_what_is_unknown_is_left_out(make_run: MakeRun) -> None:
    folder = make_run(sites=("a",), rounds=1)
    (folder / "run.json").unlink()
    run = read_run(folder)
    assert sentence(run) == "1 site took part in 1 round."
    assert [figure.label for figure in key_figures(run)] == [
        "Rounds",
        "Sites",
        "Time",
        "Up",
        "Down",
        "Revealed at most",
    ]
