from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fedcore.encoders import Encoder
from fedcore.files import write_json
from fedcore.run import RunFolder
from fedssl.card import card, highest
from fedssl.simclr import SimCLR


def record(**reveals: str) -> dict[str, Any]:
    return {"round": 0, "sites": {site: {"reveals": level} for site, level in reveals.items()}}


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    sites = {"north": {"train": 123, "val": 0, "test": 45}, "south": {"train": 67, "val": 0, "test": 8}}
    write_json(tmp_path / "run.json", {"sites": sites, "size": [32, 48]})
    records = [record(north="WEIGHTS", south="WEIGHTS"), record(north="WEIGHTS", south="FEATURES")]
    (tmp_path / "rounds.jsonl").write_text("".join(json.dumps(r) + "\n" for r in records))
    return RunFolder(tmp_path)


def test_it_says_what_it_is_what_it_learned_from_and_what_left(run: RunFolder, toy: Callable[..., Encoder]) -> None:
    text = card(run, SimCLR(toy()))
    for what in ("2 sites together", "Toy(norm=True), 536 parameters", "SimCLR for 2 rounds", "32 x 48 pixels"):
        assert what in text
    for fact in ("| north | 123 | 45 |", "| south | 67 | 8 |", "at most: **FEATURES**", "Not a medical device"):
        assert fact in text


def test_an_encoder_of_one_site_speaks_of_that_site(run: RunFolder, toy: Callable[..., Encoder]) -> None:
    text = card(run, SimCLR(toy()), site="south")
    assert "by south alone" in text
    assert "| south | 67 | 8 |" in text
    assert "north" not in text


def test_the_highest_revelation_of_any_site_in_any_round_counts() -> None:
    assert highest([record(a="WEIGHTS"), record(a="STATISTICS", b="WEIGHTS"), record(a="WEIGHTS")]) == "STATISTICS"
    assert highest([record(a="SAMPLES", b="FEATURES")]) == "SAMPLES"
    assert highest([]) == "WEIGHTS"
