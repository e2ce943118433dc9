from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from pytorch_lightning import Callback, LightningModule, Trainer

from fedcore.algorithms.fedavg import FedAvg
from fedcore.messages.round import Round
from fedcore.messages.tensors import Tensors
from fedcore.site.site import Site
from fedcore.training.callbacks import LocalCallback
from fedcore.training.visit import Visit
from tests.fedcore.toys import images, local

TURN = Round(1, 3, 0)


class Noting(Callback):
    def __init__(self, name: str, calls: list[str]):
        self.name, self.calls = name, calls

    def on_train_start(self, trainer: Trainer, module: LightningModule) -> None:
        self.calls.append(self.name)

    def report(self) -> dict[str, float]:
        return {self.name: 1.0}


@dataclass(frozen=True)
class Note:
    """Lists with what it is built, and the order in which callbacks start."""

    name: str
    calls: list[str] = field(default_factory=list)
    built: list[Any] = field(default_factory=list)

    @property
    def metric_names(self) -> tuple[str, ...]:
        return (self.name,)

    def callback(self, anchor: Tensors, site: Site, turn: Round) -> Callback:
        self.built.append((anchor, site.name, turn))
        return Noting(self.name, self.calls)


def test_each_visit_builds_callbacks_from_the_weights_that_were_sent() -> None:
    note = Note("noted")
    trainer, site = local(Visit(batch_size=4, accelerator="cpu", callbacks=(note,))), Site("a", images())
    state = FedAvg().start(trainer)
    for _ in range(2):
        contribution = FedAvg().visit(site, state, trainer, TURN)
    assert isinstance(note, LocalCallback)
    assert note.built == [(state.tensors, "a", TURN)] * 2
    assert contribution.metrics.keys() == {"loss", "noted"}


def test_callbacks_of_the_algorithm_act_before_those_of_the_visit() -> None:
    calls: list[str] = []
    visit = Visit(batch_size=4, accelerator="cpu", callbacks=(Note("second", calls), Note("third", calls)))
    local(visit).fit(Site("a", images()), TURN, {}, [Noting("first", calls)])
    assert calls == ["first", "second", "third"]


def test_a_callback_is_built_before_the_visits_random_numbers_start() -> None:
    @dataclass(frozen=True)
    class Draw:
        def callback(self, anchor: Tensors, site: Site, turn: Round) -> Callback:
            torch.rand(7)
            return Callback()

    trainers = [local(Visit(batch_size=4, accelerator="cpu", callbacks=callbacks)) for callbacks in ((), (Draw(),))]
    losses = [trainer.fit(Site("a", images()), TURN, {})["loss"] for trainer in trainers]
    assert losses[0] == losses[1]
