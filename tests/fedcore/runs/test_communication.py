from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from fedcore.exchanges.base import Combined
from fedcore.messages.answer import Contribution, Refusal
from fedcore.messages.message import Empty, Weights
from fedcore.runs.communication import ANSWERS, Bytes, RoundRecord, answers, count, highest, note
from tests.fedcore.toy_exchanges import Total

MODEL = Weights({"w": torch.zeros(10), "steps": torch.tensor(1)})  # 40 + 8 bytes
BOTH = Combined(MODEL, Total(torch.zeros(3, dtype=torch.float16)))  # and 6 of an exchange


def test_bytes_by_kind() -> None:
    assert count(BOTH) == Bytes(weights=48, exchange=6, metrics=0)
    assert count(Empty()) == Bytes()
    assert Bytes(1, 20, 300).total == 321


def test_up_and_down_of_a_round_by_hand() -> None:
    record = RoundRecord(0)
    for site in "ab":
        record.sent(site, MODEL)
    record.arrived(Contribution("a", BOTH, 7, {"loss": 1.0, "knn": 0.5}, seconds=1.2346))
    a, b = record.sites["a"], record.sites["b"]
    assert a.down == b.down == Bytes(weights=48)
    assert a.up == Bytes(weights=48, exchange=6, metrics=8 * 4)  # two metrics, images and seconds
    assert b.up == Bytes()
    assert (a.examples, a.seconds, a.reveals, b.reveals) == (7, 1.2346, "STATISTICS", "WEIGHTS")


def test_an_evaluation_is_booked_beside_the_visit() -> None:
    record = RoundRecord(0)
    record.sent("a", MODEL)
    record.arrived(Contribution("a", BOTH, 7, {"loss": 1.0}))
    record.sent("a", MODEL)
    record.evaluated(Contribution("a", Empty(), 7, {"knn": 0.5}))
    a = record.sites["a"]
    assert (a.down, a.up) == (Bytes(weights=96), Bytes(weights=48, exchange=6, metrics=48))
    assert (a.metrics, record.evaluation) == ({"loss": 1.0}, {"a": {"knn": 0.5}})
    assert a.reveals == "STATISTICS"


def test_the_mean_of_a_metric_counts_images() -> None:
    record = RoundRecord(0)
    for site, examples, metrics in (("a", 30, {"loss": 1.0}), ("b", 10, {"loss": 5.0}), ("c", 99, {})):
        record.sent(site, Empty())
        record.arrived(Contribution(site, Empty(), examples, metrics))
    assert record.mean("loss") == pytest.approx(2.0)
    assert record.mean("knn") is None


def test_metrics_are_statistics_and_the_number_of_images_is_not() -> None:
    record = RoundRecord(0)
    for site, metrics in (("a", {"loss": 1.0}), ("b", {})):
        record.sent(site, MODEL)
        record.arrived(Contribution(site, MODEL, 7, metrics))
    assert {name: site.reveals for name, site in record.sites.items()} == {"a": "STATISTICS", "b": "WEIGHTS"}
    assert highest([record.as_dict()]) == "STATISTICS"
    record.evaluated(Contribution("b", Empty(), 7, {"knn": 0.5}))
    assert record.sites["b"].reveals == "STATISTICS"


def test_what_is_asked_outside_of_rounds_is_booked_too(tmp_path: Path) -> None:
    path = tmp_path / "run" / ANSWERS
    note(path, "Evaluate", "a", MODEL, Contribution("a", BOTH, 7, {"auroc": 0.5}))
    note(path, "Evaluate", "b", MODEL, Refusal("b", "no images"))
    with path.open("a") as file:
        file.write('{"request": "Eva')  # a process that was killed
    first, second = answers(path.parent)
    assert (first["request"], second["refused"]) == ("Evaluate", {"b": "no images"})
    assert first["sites"]["a"]["up"] == {"weights": 48, "exchange": 6, "metrics": 24}
    assert highest([first, second]) == "STATISTICS"
    assert answers(tmp_path) == []


def test_a_line_of_rounds_jsonl() -> None:
    record = RoundRecord(2, seconds=1.5)
    record.sent("a", MODEL)
    record.failed(Refusal("a", "the loss became nan", cause=ValueError("patient John")))
    line = json.dumps(record.as_dict())
    assert "John" not in line
    read = json.loads(line)
    assert (read["round"], read["refused"]) == (2, {"a": "the loss became nan"})
    assert read["sites"]["a"]["down"] == {"weights": 48, "exchange": 0, "metrics": 0}
