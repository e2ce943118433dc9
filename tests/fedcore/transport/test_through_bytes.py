"""Runs whose requests and answers travel as bytes equal runs in which they do not, to the bit: whatever is trained."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from fedcore.algorithms.fedavg import FedAvg
from fedcore.data.dataset import Images
from fedcore.messages.answer import Contribution
from fedcore.messages.message import Empty, Message, Weights, flatten
from fedcore.messages.request import TRAIN
from fedcore.messages.round import Round
from fedcore.models.resnet import ResNet
from fedcore.runs.communication import RoundRecord
from fedcore.seeds import seeded
from fedcore.server.rounds import Rounds
from fedcore.site.one_shot import HandOver
from fedcore.training.local_trainer import LocalTrainer
from fedgen.auditing.audit import Audit, AuditRequest
from fedgen.synthetic.class_counts import CountClasses
from fedssl.evaluation.probe import Probe
from fedtune.evaluation.classification import EvaluateClassifier
from fedtune.evaluation.segmentation import EvaluateSegmenter
from tests.fedcore.federating import federate, same
from tests.fedcore.toys import Hospitals, hospitals, images, local
from tests.trainings import CONDITIONS, EVERYTHING, NAMES, TRAININGS, Training, images_of_all_kinds, with_masks


@dataclass
class Ran:
    state: Message
    hospitals: Hospitals
    records: list[RoundRecord] = field(default_factory=list)


def ran(training: Training, through_bytes: bool) -> Ran:
    """After two rounds."""
    trainer, data, algorithm = training.local(), images_of_all_kinds(), training.algorithm
    where = Hospitals(data, trainer, data, EVERYTHING, through_bytes=through_bytes)
    end = Ran(algorithm.start(trainer), where)
    end.state = federate(
        algorithm, where, end.state, Rounds(2), 0, evaluator=training.evaluator, every=1,
        finished=lambda record, _: end.records.append(record),
    )  # fmt: skip
    return end


def without_seconds(record: RoundRecord) -> dict[str, Any]:
    written = record.as_dict() | {"seconds": 0.0}
    return written | {"sites": {name: site | {"seconds": 0.0} for name, site in written["sites"].items()}}


@pytest.mark.parametrize("name", TRAININGS)
def test_a_training_through_bytes_equals_one_without(name: str) -> None:
    direct, by_bytes = (ran(TRAININGS[name], through_bytes) for through_bytes in (False, True))
    assert type(direct.state) is type(by_bytes.state)
    assert same(flatten(direct.state), flatten(by_bytes.state))
    assert list(flatten(direct.state)) == list(flatten(by_bytes.state))
    assert direct.hospitals.memories.counted == by_bytes.hospitals.memories.counted
    for site in NAMES:
        assert same(direct.hospitals.memories.get(site), by_bytes.hospitals.memories.get(site))
    assert [*map(without_seconds, direct.records)] == [*map(without_seconds, by_bytes.records)]
    assert len(direct.records) == 2
    assert not any(record.refused for record in direct.records)
    assert any(record.sites[site].examples for record in direct.records for site in record.sites)


def audit_request() -> AuditRequest:
    pixels = torch.rand(6, 1, 8, 8) * 2 - 1
    ones, encoder = torch.zeros(6).long(), ResNet(depth=10, stem=2).eval()
    description = json.dumps({"encoder": "ResNet", "init_args": encoder.config})
    features, weights = encoder(pixels).detach(), Weights(encoder.state_dict())
    return AuditRequest(pixels, features, ones, ones, torch.arange(6), description, weights, "abc", "def")


QUERIES: dict[str, tuple[Callable[[], LocalTrainer], Any, Callable[[LocalTrainer], Message]]] = {
    "probe": (TRAININGS["MoCo"].local, Probe(knn_k=3, linear=True), lambda own: Weights(own.shared())),
    "evaluation": (TRAININGS["classifier"].local, EvaluateClassifier(), lambda own: Weights(own.shared())),
    "evaluation of masks": (TRAININGS["segmenter"].local, EvaluateSegmenter(2, 1.0), lambda own: Weights(own.shared())),
    "audit": (local, Audit(CONDITIONS), lambda own: audit_request()),
    "class counts": (local, CountClasses(2), lambda own: Empty()),
    "model handed over once": (
        local, HandOver(lambda site: {"w": torch.ones(2), "count": torch.tensor(3)}, 8), lambda own: Empty(),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", QUERIES)
def test_what_is_asked_outside_of_rounds(name: str, tmp_path: Path) -> None:
    make, visitor, down = QUERIES[name]
    found: list[dict[str, Contribution[Message]]] = []
    for through_bytes in (False, True):
        with seeded(5):
            trainer = make()
            sent = down(trainer)
        data: Mapping[str, Images] = {name: with_masks(images(name, 24)) for name in NAMES}
        folder = tmp_path / str(through_bytes)
        where = Hospitals(data, trainer, data, EVERYTHING, through_bytes=through_bytes, folder=folder)
        sites = where.sites(**{TRAIN: FedAvg(), "query": visitor})
        found.append({a.site: a for a in sites.query_all("query", sent, list(NAMES), Round(0, 1, 0), Message, "asked")})
    for direct, by_bytes in zip(*(of.values() for of in found), strict=True):
        assert type(direct.message) is type(by_bytes.message)
        assert same(flatten(direct.message), flatten(by_bytes.message))
        assert list(flatten(direct.message)) == list(flatten(by_bytes.message))
        assert replace(direct, message=by_bytes.message, seconds=by_bytes.seconds) == by_bytes


def test_tensors_of_unusual_layout_travel_as_equal_numbers() -> None:
    """Channels last, as convolutions of a trainer are, and parts of a larger tensor."""
    layer: Tensor = torch.randn(2, 3, 4, 4).to(memory_format=torch.channels_last)[:, 1:]
    tensors = {"layer": layer, "row": layer[0, 0], "turned": layer.mT, "wide": torch.ones(1).expand(3)}
    where = Hospitals(hospitals("a"), local(), through_bytes=True)
    sites = where.sites(query=HandOver(lambda site: tensors, 8))
    (answer,) = sites.query_all("query", Empty(), ["a"], Round(0, 1, 0), Message, "asked")
    assert same(answer.message.tensors, tensors)  # type: ignore[attr-defined]
