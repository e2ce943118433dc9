"""The top of the page."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from fedcore.report.read.reader import read_run
from fedcore.report.sections.summary import key_figures, sentence, status

MakeRun = Callable[..., Path]


@pytest.mark.parametrize(
    ("ended", "text"),
    [
        ("finished", "Finished"),
        ("failed", "Failed"),
        ("running", "Not finished"),
        ("trained", "Trained, result not saved"),
        ("odd", "End unknown"),
    ],
)
def test_every_status_has_a_text(make_run: MakeRun, ended: str, text: str) -> None:
    assert status(read_run(make_run(status=ended)))[1] == text


def test_what_is_unknown_is_left_out(make_run: MakeRun) -> None:
    folder = make_run(sites=("a",), rounds=1)
    (folder / "run.json").unlink()
    run = read_run(folder)
    assert sentence(run) == "1 site took part in 1 round."
    assert [figure.label for figure in key_figures(run)] == [
        "Rounds",
        "Sites",
        "Time",
        "Upload",
        "Download",
        "Most sensitive data sent",
    ]


def test_images_that_were_left_out_are_counted_among_the_images(make_run: MakeRun) -> None:
    figures = {figure.label: figure.detail for figure in key_figures(read_run(make_run(skipped=["x", "y"])))}
    assert figures["Images"] == "1,200 train, 400 test, 2 left out"


def test_a_segmenter_shows_distances_with_unit_and_no_classes(make_run: MakeRun) -> None:
    folder = make_run(command="segment", classes=["sick", "well"])
    pooled = {name: {"value": value, "low": None, "high": None} for name, value in (("dice", 0.8), ("hd95", 2.5))}
    (folder / "scores.json").write_text(json.dumps({"sites": {}, "pooled": pooled, "distance_unit": "mm"}))
    run = read_run(folder)
    assert [figure.label for figure in key_figures(run)][:2] == ["Dice", "HD95 (mm)"]
    assert "classes" not in sentence(run)
    assert "the classes are sick, well" in sentence(read_run(make_run("other", classes=["sick", "well"])))
