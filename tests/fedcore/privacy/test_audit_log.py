from __future__ import annotations

import hashlib
import json
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from fedcore.errors import InputError, Refused
from fedcore.messages.answer import Contribution, revealed
from fedcore.messages.message import Message, Weights
from fedcore.messages.metric_names import DeclaredMetrics
from fedcore.messages.reveals import FEATURES, SAMPLES, STATISTICS, Reveals
from fedcore.messages.round import Round
from fedcore.privacy.audit_log import AuditLog, digest_of
from fedcore.privacy.policy import Policy
from fedcore.runs.communication import RoundRecord


@dataclass(frozen=True)
class Rich(Message):
    model: Weights
    mean: Tensor = field(metadata=STATISTICS)
    rows: Tensor = field(metadata=FEATURES)
    empty: Tensor = field(metadata=SAMPLES)


@dataclass(frozen=True)
class Wrapped(Message):
    inside: Rich
    other: Message


RICH = Rich(
    Weights({"w": torch.ones(5), "steps": torch.tensor(3)}),
    mean=torch.zeros(2, dtype=torch.float64),
    rows=torch.ones(4, 8, dtype=torch.float16),
    empty=torch.zeros(0),
)
SENT = Contribution("a", RICH, 12, {"loss": 0.123456789, "knn": 0.5}, seconds=2.3456789)
TURN = Round(3, 5, 0)
DECLARED = DeclaredMetrics(frozenset({"loss", "knn"}), "Probe")


def entries(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.mark.parametrize("level", [Reveals.WEIGHTS, Reveals.STATISTICS, Reveals.FEATURES])
def test_more_than_the_policy_allows_is_refused_by_field(level: Reveals) -> None:
    first = {Reveals.WEIGHTS: "STATISTICS \\(mean\\)", Reveals.STATISTICS: "FEATURES \\(rows\\)"}
    expected = first.get(level, "SAMPLES \\(empty\\)")
    with pytest.raises(
        Refused, match=rf"Rich reveals {expected}, the policy allows {level.name}; set policy\.max_level"
    ):
        Policy(level).check(RICH)


def test_what_the_policy_allows_passes_unchanged() -> None:
    Policy(Reveals.SAMPLES).check(RICH)
    Policy(Reveals.WEIGHTS).check(RICH.model)
    released = AuditLog(Policy(Reveals.SAMPLES), metrics=DECLARED).release(SENT, TURN)
    assert released.message is RICH
    assert (released.site, released.examples, released.reveals) == ("a", 12, Reveals.SAMPLES)
    assert Policy().max_level == Reveals.STATISTICS  # features leave only where a recipe says so


@pytest.mark.parametrize("level", list(Reveals))
def test_what_a_message_declares_is_foreseen_by_its_highest_field(level: Reveals) -> None:
    Policy(level).foresee(Message)
    with nullcontext() if level == Reveals.SAMPLES else pytest.raises(InputError, match="Rich reveals SAMPLES, the"):
        Policy(level).foresee(Rich)


def test_a_message_inside_another_is_foreseen_too() -> None:
    with pytest.raises(InputError, match="Wrapped reveals SAMPLES, the policy allows STATISTICS; set policy"):
        Policy().foresee(Wrapped)


def test_what_is_refused_is_not_audited_because_it_never_left(tmp_path: Path) -> None:
    with pytest.raises(Refused):
        AuditLog(Policy(), tmp_path / "a").release(SENT, TURN)
    assert not (tmp_path / "a").exists()


def test_the_audit_lists_everything_that_leaves(tmp_path: Path) -> None:
    AuditLog(Policy(Reveals.SAMPLES), tmp_path / "a", metrics=DECLARED).release(SENT, TURN)
    audit = entries(tmp_path / "a" / "audit.jsonl")
    assert [(e["field"], e["reveals"], e["bytes"]) for e in audit] == [
        ("mean", "STATISTICS", 16),
        ("rows", "FEATURES", 64),
        ("empty", "SAMPLES", 0),
        ("weights", "WEIGHTS", 28),
        ("answer", "WEIGHTS", 16),
        ("metrics", "STATISTICS", 16),
    ]
    assert {e["round"] for e in audit} == {3}
    assert (audit[1]["shape"], audit[1]["dtype"]) == ([4, 8], "float16")
    assert (audit[3]["shape"], audit[3]["tensors"]) == ([6], 2)
    assert audit[4]["values"] == {"examples": 12.0, "seconds": 2.34568}
    assert audit[5]["values"] == {"loss": 0.123457, "knn": 0.5}
    assert [e["message"] for e in audit] == ["Rich", "Rich", "Rich", "Weights", "Rich", "Rich"]
    assert {e["to"] for e in audit} == {"server"}


def test_what_leaves_is_rounded_before_it_leaves_so_that_the_audit_is_exact(tmp_path: Path) -> None:
    released = AuditLog(Policy(Reveals.SAMPLES), tmp_path, metrics=DECLARED).release(SENT, TURN)
    answer, metrics = entries(tmp_path / "audit.jsonl")[-2:]
    assert metrics["values"] == released.metrics == {"loss": 0.123457, "knn": 0.5}
    assert answer["values"] == {"examples": released.examples, "seconds": released.seconds}


@pytest.mark.parametrize("metrics", [
    {"patient John Doe 1961-02-03": 1.0}, {"Loss": 1.0}, {"": 1.0}, {"a" * 65: 1.0}, {"loss\n": 1.0}, {"_loss": 1.0},
    {f"pixel_{at}": 0.5 for at in range(33)}, {"loss": float("nan")}, {"loss": float("inf")},
])  # fmt: skip
def test_metrics_are_no_channel_for_anything_else(tmp_path: Path, metrics: dict[str, float]) -> None:
    with pytest.raises(Refused, match="metric") as refused:
        AuditLog(Policy(Reveals.SAMPLES), tmp_path, metrics=DECLARED).release(Contribution("a", RICH, 1, metrics), TURN)
    assert "John" not in str(refused.value)
    assert not (tmp_path / "audit.jsonl").exists()


@pytest.mark.parametrize("policy", [Policy(Reveals.WEIGHTS), Policy(metrics=False)], ids=["weights", "off"])
def test_a_policy_without_statistics_lets_no_metric_leave(tmp_path: Path, policy: Policy) -> None:
    """Not even one that would be refused for its name."""
    sent = Contribution("a", RICH.model, 12, {"John Doe": 1.0})
    released = AuditLog(policy, tmp_path).release(sent, TURN)
    assert (released.metrics, released.reveals) == ({}, Reveals.WEIGHTS)
    assert {e["reveals"] for e in entries(tmp_path / "audit.jsonl")} == {"WEIGHTS"}
    with pytest.raises(InputError, match=r"a probe needs metrics of the sites, .* set policy\.max_level to STATISTICS"):
        policy.require_metrics("a probe")


def test_a_tensor_that_is_no_weight_counts_as_what_it_is_declared_to_reveal(tmp_path: Path) -> None:
    sent, levels = Contribution("a", RICH.model, 12), {"steps": Reveals.STATISTICS}
    with pytest.raises(Refused, match=r"Weights reveals STATISTICS \(tensors/steps\), the policy allows WEIGHTS"):
        AuditLog(Policy(Reveals.WEIGHTS), tmp_path, levels).release(sent, TURN)
    released = AuditLog(Policy(), tmp_path, levels).release(sent, TURN)
    assert revealed(released) == Reveals.STATISTICS  # the server, which has no levels, goes by what the border says
    audit = entries(tmp_path / "audit.jsonl")
    assert [(e["what"], e["field"], e["reveals"]) for e in audit[:2]] == [
        ("weights", "tensors/steps", "STATISTICS"), ("weights", "weights", "WEIGHTS"),
    ]  # fmt: skip
    with pytest.raises(InputError, match=r"steps, which is sent with the weights, reveals STATISTICS"):
        Policy(Reveals.WEIGHTS).foresee_tensors(levels)


def test_a_refusal_leaves_too_and_is_audited(tmp_path: Path) -> None:
    AuditLog(Policy(), tmp_path).note_refusal("the loss became nan", TURN)
    (line,) = entries(tmp_path / "audit.jsonl")
    assert (line["what"], line["text"], line["bytes"]) == ("refusal", "the loss became nan", 19)


def test_the_audit_and_the_servers_ledger_count_the_same_bytes(tmp_path: Path) -> None:
    record = RoundRecord(3)
    record.sent("a", RICH)
    record.arrived(AuditLog(Policy(Reveals.SAMPLES), tmp_path, metrics=DECLARED).release(SENT, TURN))
    by_kind = dict.fromkeys(("weights", "exchange", "metrics"), 0)
    for entry in entries(tmp_path / "audit.jsonl"):
        by_kind[entry["what"]] += entry["bytes"]
    up = record.sites["a"].up
    assert by_kind == {"weights": up.weights, "exchange": up.exchange, "metrics": up.metrics}


def test_the_audit_knows_the_very_bytes(tmp_path: Path) -> None:
    AuditLog(Policy(Reveals.SAMPLES), tmp_path, metrics=DECLARED).release(SENT, TURN)
    audit = {e["field"]: e for e in entries(tmp_path / "audit.jsonl")}
    assert audit["rows"]["sha256"] == hashlib.sha256(RICH.rows.numpy().tobytes()).hexdigest()
    each = [hashlib.sha256(RICH.model.tensors[name].numpy().tobytes()).digest() for name in ("w", "steps")]
    assert audit["weights"]["sha256"] == hashlib.sha256(b"".join(each)).hexdigest()


def test_threads_do_not_change_a_digest() -> None:
    tensors = [torch.full((1 << 18,), float(i)) for i in range(3)]
    before = torch.get_num_threads()
    try:
        found = []
        for threads in (1, 3):
            torch.set_num_threads(threads)
            found.append(digest_of(tensors))
    finally:
        torch.set_num_threads(before)
    assert found[0] == found[1] != digest_of(tensors[::-1])


def test_tensors_of_every_kind_are_audited(tmp_path: Path) -> None:
    odd = Weights({
        "transposed": torch.arange(6.0).reshape(2, 3).T, "flag": torch.tensor([True, False]),
        "brain": torch.ones(2, dtype=torch.bfloat16), "learned": torch.ones(1, requires_grad=True),
    })  # fmt: skip
    AuditLog(Policy(), tmp_path).release(Contribution("a", odd, 1), TURN)
    assert entries(tmp_path / "audit.jsonl")[0]["bytes"] == 24 + 2 + 4 + 4


def test_without_metrics_only_the_number_of_images_leaves(tmp_path: Path) -> None:
    released = AuditLog(Policy(Reveals.SAMPLES, metrics=False), tmp_path).release(SENT, TURN)
    assert (released.metrics, released.examples) == ({}, 12)
    assert entries(tmp_path / "audit.jsonl")[-1]["values"] == {"examples": 12.0, "seconds": 2.34568}


def test_the_audit_is_added_to_and_never_rewritten(tmp_path: Path) -> None:
    border = AuditLog(Policy(Reveals.SAMPLES), tmp_path, metrics=DECLARED)
    border.release(SENT, TURN)
    before = (tmp_path / "audit.jsonl").read_text()
    border.release(SENT, Round(4, 5, 0))
    after = (tmp_path / "audit.jsonl").read_text()
    assert after.startswith(before)
    assert {e["round"] for e in entries(tmp_path / "audit.jsonl")} == {3, 4}


def test_without_a_folder_nothing_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    border = AuditLog(Policy(Reveals.SAMPLES), metrics=DECLARED)
    border.release(SENT, TURN)
    border.note_error(ValueError("patient John"), "trace", TURN)
    assert list(tmp_path.iterdir()) == []


def test_a_site_folder_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "sites").touch()
    border = AuditLog(Policy(), tmp_path / "sites" / "a")
    with pytest.raises(InputError, match="cannot be written"):
        border.release(Contribution("a", Weights({"w": torch.ones(1)}), 1), Round(0, 1, 0))
