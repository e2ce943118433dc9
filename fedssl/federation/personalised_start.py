"""Personalised start: a site starts its visit from a mix of the global model and its own. Used by FedU and FedEMA."""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from fedcore.algorithms.base import Algorithm
from fedcore.algorithms.wrapper import Wrapper
from fedcore.errors import Refused
from fedcore.messages.answer import Contribution
from fedcore.messages.message import Message, Weights
from fedcore.messages.round import Round
from fedcore.messages.tensors import Tensors
from fedcore.site.site import Site
from fedcore.training.local_trainer import LocalTrainer
from fedcore.training.site_state import OWN

ENCODER, LAST, SITE_STATE = "encoder.", "last/", "personalised_start/"


@dataclass(frozen=True)
class PersonalisedStart(Wrapper, ABC):
    """Runs `algorithm` from a mix of the weights that it sends and those of the end of the site's last visit.

    What is sent and averaged does not change; only where a site starts does, and so the weights to which a callback
    such as FedProx pulls. A site's own weights stay in its memory: one model on disk per site. The probe measures a
    site by them, and its encoder is saved in addition to the global one, which is measured too (`shared_*`).
    At its first visit a site starts from what was sent. Later visits report the metrics `divergence` (see below) and
    `own_weight`, the weight of the site's own model in the mix.
    """

    always_global: ClassVar[tuple[str, ...]] = ()
    """Prefixes of state that is always taken as it was sent, so a site has none of its own."""

    metric_names = ("divergence", "own_weight")

    algorithm: Algorithm | None = None
    """The wrapped algorithm, which sends weights alone. null: fedcore.algorithms.fedavg.FedAvg."""

    @abstractmethod
    def own_weight(self, divergence: float, site_state: Tensors) -> tuple[float, Tensors]:
        """The weight of the site's own model, in [0, 1], and the state that the site keeps for its next visit.

        Args:
            divergence: Distance between the encoder that was sent and the site's own, >= 0.
            site_state: The state that the site kept at its last visit; empty at its first.
        """

    def visit(self, site: Site, down: Message, local: LocalTrainer, turn: Round) -> Contribution[Any]:
        if not isinstance(down, Weights):
            raise Refused(
                f"{type(self).__name__} mixes weights, but {type(self.inner).__name__} sends "
                f"{type(down).__name__}; wrap an algorithm that sends weights alone, such as FedAvg"
            )
        start, metrics, site_state = self._start_weights(site, down.tensors)
        contribution = self.inner.visit(site, Weights(start), local, turn)
        trained = {self._memory_prefix(k) + k: t for k, t in local.shared().items()}
        site.memory = site.memory | trained | {SITE_STATE + k: t for k, t in site_state.items()}
        return dataclasses.replace(contribution, metrics=contribution.metrics | metrics)

    def _memory_prefix(self, name: str) -> str:
        return LAST if name.startswith(self.always_global) else OWN

    def _start_weights(self, site: Site, sent: Tensors) -> tuple[Tensors, dict[str, float], Tensors]:
        """The weights from which the site trains, its metrics, and the state that it keeps."""
        own = _under(OWN, site.memory) | _under(LAST, site.memory)
        if not own:
            return sent, {}, {}
        distance = divergence(sent, own)
        weight, site_state = self.own_weight(distance, _under(SITE_STATE, site.memory))
        start = {k: t if k.startswith(self.always_global) else mix(t, own[k], weight) for k, t in sent.items()}
        return start, {"divergence": distance, "own_weight": weight}, site_state


def divergence(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> float:
    """Mean over the encoder's weights (kernels and matrices) of the L2 distance between two models.

    Our reading: the scales of norms, biases and running statistics, which have other magnitudes, are left out.

    Raises:
        Refused: The models have no encoder.
    """
    kernels = [name for name, t in a.items() if name.startswith(ENCODER) and t.dim() > 1 and t.is_floating_point()]
    if not kernels:
        raise Refused(f"divergence is measured on the encoder, but the name of no weight sent starts with {ENCODER}")
    return sum(float(torch.dist(a[name].double(), b[name].double())) for name in kernels) / len(kernels)


def mix(sent: Tensor, own: Tensor, own_weight: float) -> Tensor:
    """(1 - own_weight) * sent + own_weight * own; exactly one of them where `own_weight` is 0 or 1.

    Running statistics of norms are mixed in the way the server averages them: a mix of variances is never negative.
    Counters are taken as they were sent, because integers cannot be mixed.
    """
    return torch.lerp(sent, own, own_weight) if sent.is_floating_point() else sent


def _under(prefix: str, memory: Tensors) -> Tensors:
    return {k.removeprefix(prefix): t for k, t in memory.items() if k.startswith(prefix)}
