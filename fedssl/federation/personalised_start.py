"""Sites that mix what was sent with what they had themselves, the part FedU and FedEMA have in common."""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from fedcore.algorithms.base import Algorithm
from fedcore.algorithms.fedavg import FedAvg
from fedcore.errors import Refused
from fedcore.messages.message import Contribution, Message, Tensors, Weights
from fedcore.site.site import Round, Site
from fedcore.training.local_trainer import LocalTrainer
from fedcore.training.site_state import OWN

ENCODER, LAST, NOTES = "encoder.", "last/", "rejoin/"


@dataclass(frozen=True)
class Rejoin(ABC):
    """Runs `algorithm` from a mix of the weights it sends and those the site ended its last visit with.

    What is sent and averaged is as ever; only where a site begins differs, and so also what a callback such
    as FedProx is anchored to. A site's own weights stay in its memory: a model of disk a site. It is
    measured by them, and its encoder is saved beside the federation's, which is measured too (`shared_*`).
    At its first visit a site takes what was sent. Later visits report the metrics `divergence` (see below) and
    `mixing`, the part of its own weights that the site kept.
    """

    always_global: ClassVar[tuple[str, ...]] = ()
    """Prefixes of what is taken as it was sent, whatever the mixing: of that the site has nothing of its own."""

    algorithm: Algorithm | None = None
    """What is wrapped; it sends weights alone. null: fedcore.algorithms.fedavg.FedAvg."""

    @abstractmethod
    def mixing(self, divergence: float, notes: Tensors) -> tuple[float, Tensors]:
        """The part of its own weights that a site keeps, in [0, 1], and what it notes for its next visit.

        Args:
            divergence: How far what was sent is from the site's own encoder, >= 0.
            notes: What the site noted at its last visit; empty at its first.
        """

    def start(self, local: LocalTrainer) -> Any:
        return self._inner.start(local)

    def broadcast(self, state: Any, site: str, turn: Round) -> Any:
        return self._inner.broadcast(state, site, turn)

    def visit(self, site: Site, down: Message, local: LocalTrainer, turn: Round) -> Contribution[Any]:
        if not isinstance(down, Weights):
            raise Refused(
                f"{type(self).__name__} mixes weights, but {type(self._inner).__name__} sends "
                f"{type(down).__name__}; wrap an algorithm that sends weights alone, such as FedAvg"
            )
        begin, metrics, notes = self._begin(site, down.tensors)
        contribution = self._inner.visit(site, Weights(begin), local, turn)
        ended = {self._place(k) + k: t for k, t in local.shared().items()}
        site.memory = site.memory | ended | {NOTES + k: t for k, t in notes.items()}
        return dataclasses.replace(contribution, metrics=contribution.metrics | metrics)

    def merge(self, state: Any, contributions: Iterable[Contribution[Any]]) -> Any:
        return self._inner.merge(state, contributions)

    @property
    def _inner(self) -> Algorithm:
        return self.algorithm or FedAvg()

    def _place(self, name: str) -> str:
        return LAST if name.startswith(self.always_global) else OWN

    def _begin(self, site: Site, sent: Tensors) -> tuple[Tensors, dict[str, float], Tensors]:
        """What the site trains from, what it reports and what it notes."""
        own = _under(OWN, site.memory) | _under(LAST, site.memory)
        if not own:
            return sent, {}, {}
        far = divergence(sent, own)
        part, notes = self.mixing(far, _under(NOTES, site.memory))
        begin = {k: t if k.startswith(self.always_global) else mix(t, own[k], part) for k, t in sent.items()}
        return begin, {"divergence": far, "mixing": part}, notes


def divergence(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> float:
    """Mean over the encoder's weights (kernels and matrices) of their L2 distance in two models.

    Our reading: norms' factors, biases and running statistics, which live on other scales, are left out.

    Raises:
        Refused: The models have no encoder.
    """
    kernels = [name for name, t in a.items() if name.startswith(ENCODER) and t.dim() > 1 and t.is_floating_point()]
    if not kernels:
        raise Refused(f"divergence is that of encoders, but no weight that was sent is named {ENCODER}*")
    return sum(float(torch.dist(a[name].double(), b[name].double())) for name in kernels) / len(kernels)


def mix(sent: Tensor, own: Tensor, part: float) -> Tensor:
    """(1 - part) * sent + part * own; either one to the bit where `part` is 0 or 1.

    Running statistics of norms are mixed as the server's mean averages them: a mix of variances is
    never negative. Counters are taken as they were sent, because a mix of integers is none.
    """
    return torch.lerp(sent, own, part) if sent.is_floating_point() else sent


def _under(prefix: str, memory: Tensors) -> Tensors:
    return {k.removeprefix(prefix): t for k, t in memory.items() if k.startswith(prefix)}
