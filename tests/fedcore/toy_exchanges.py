"""Algorithms and exchanges that send a message of every kind of field."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from fedcore.messages.answer import Contribution
from fedcore.messages.message import Message, Weights
from fedcore.messages.reveals import STATISTICS
from fedcore.messages.round import Round
from fedcore.messages.tensors import Tensors
from fedcore.site.site import Site
from fedcore.training.local_trainer import LocalTrainer
from tests.fedcore.toys import Toy


@dataclass
class Sender:
    """An algorithm that trains nothing: each site sends its message in `sends`, or raises its exception."""

    sends: Mapping[str, Message | Exception]
    metrics: dict[str, float] = field(default_factory=dict)
    merged: list[str] = field(default_factory=list)

    @property
    def metric_names(self) -> tuple[str, ...]:
        return tuple(self.metrics)

    def start(self, local: LocalTrainer) -> Weights:
        return Weights({})

    def broadcast(self, state: Weights, site: str, turn: Round) -> Weights:
        return state

    def visit(self, site: Site, down: Weights, local: LocalTrainer, turn: Round) -> Contribution[Any]:
        answer = self.sends[site.name]
        if isinstance(answer, Exception):
            raise answer
        site.memory = {"noted": torch.tensor(turn.index)}
        return Contribution(site.name, answer, site.size, self.metrics)

    def merge(self, state: Weights, contributions: Iterable[Contribution[Any]]) -> Weights:
        self.merged.extend(c.site for c in contributions)
        return state


@dataclass(frozen=True)
class Total(Message):
    seen: Tensor = field(metadata=STATISTICS)


@dataclass(frozen=True)
class Totals(Message):
    by_site: Tensors = field(metadata=STATISTICS)


@dataclass
class ShareTotals:
    """An exchange of the sum of pixels that each site has seen; lists its calls in order."""

    events: list[tuple[str, Any]] = field(default_factory=list)

    def start(self) -> Totals:
        return Totals({})

    def broadcast(self, pool: Totals, site: str, turn: Round) -> Totals:
        return Totals({name: t for name, t in pool.by_site.items() if name != site})

    def receive(self, module: Toy, down: Totals, turn: Round) -> None:
        self.events.append(("receive", (sorted(down.by_site), float(module.seen))))

    def collect(self, module: Toy, site: Site, turn: Round) -> Total:
        self.events.append(("collect", float(module.seen)))
        return Total(module.seen.clone())

    def merge(self, pool: Totals, uploads: dict[str, Total]) -> Totals:
        return Totals(pool.by_site | {site: up.seen for site, up in uploads.items()})
