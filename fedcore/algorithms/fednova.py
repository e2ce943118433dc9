"""FedNova: normalises each site's update by the length of its local training (Wang et al. 2020, arXiv 2007.07481).

A site with ten times the images takes ten times the steps, so in FedAvg it counts twice: by images and by steps. In a
recipe::

    algorithm: fedcore.algorithms.fednova.FedNova
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float
from pytorch_lightning import Callback, LightningModule, Trainer
from torch import Tensor, nn
from torch.optim import Optimizer

from fedcore.aggregation.mean import Mean
from fedcore.algorithms.answers import answer_error, tensors_error
from fedcore.algorithms.fedavg import FedAvg
from fedcore.algorithms.fedprox import ProximalTerm
from fedcore.algorithms.trainable import require_one_optimizer, step_towards, trainable_names
from fedcore.errors import InputError, Refused
from fedcore.messages.answer import Contribution
from fedcore.messages.message import Message, Weights, weights_of
from fedcore.messages.reveals import WEIGHTS
from fedcore.messages.round import Round
from fedcore.messages.tensors import Tensors
from fedcore.site.site import Site
from fedcore.training.local_trainer import LocalTrainer

WEIGHT = "images per length"
"""Metric by which the mean weights sites; it never leaves the server."""


@dataclass(frozen=True)
class FedNovaMessage(Message):
    """What a site sends: its trained weights, and the length by which their change is divided."""

    weights: Message
    """Trainable weights, or the message in which a wrapper sends them."""
    buffers: Tensors = field(metadata=WEIGHTS)
    """Running statistics, counters and other tensors that are not trained."""
    length: Float[Tensor, ""] = field(metadata=WEIGHTS)
    """eta |a_i|_1. It follows from images, batch size and epochs; the number of images is sent anyway."""


@dataclass(frozen=True)
class FedNova:
    """x <- x + tau_eff sum_i p_i (y_i - x) / |a_i|_1 with tau_eff = sum_i p_i |a_i|_1 and p_i by images.

    a_i holds the coefficient of each gradient of a visit in y_i - x, so |a_i|_1 is the number of steps for plain SGD.
    Here it is measured: the distance that the site's own optimizer moves a number whose gradient is always 1, with its
    learning rate, momentum, and the proximal terms among `visit.callbacks`. For SGD, SGD with momentum and the proximal
    solver this is the paper's |a_i|_1 times the rate, of which a common factor cancels. Adam, Adagrad and the like are
    not linear, and the paper leaves them open; by this measure they count steps too. Moments from earlier visits
    (`visit.keep_optimizer`) are not included.

    With equal lengths it is FedAvg. tau_eff is free in the paper: this one is implied by FedAvg, so the server's step
    has the same length. Running statistics, which are not moved by steps, are averaged by images.
    """

    def start(self, local: LocalTrainer) -> Weights:
        require_one_optimizer(self, local)
        if optimizers := local.optimizers():
            _scalar_optimizer(optimizers[0], nn.Parameter(torch.zeros(())))
        return Weights(local.shared())

    def broadcast(self, state: Weights, site: str, turn: Round) -> Weights:
        return state

    def visit(self, site: Site, down: Weights, local: LocalTrainer, turn: Round) -> Contribution[FedNovaMessage]:
        local.load(down.tensors)
        measure = _MeasureLength(sum((c.mu for c in local.visit.callbacks if isinstance(c, ProximalTerm)), 0.0))
        metrics = local.fit(site, turn, down.tensors, [measure])
        if not measure.length > 0:
            raise Refused("FedNova divides by the length of a site's steps, and the site took no step")
        names, shared = trainable_names(local), local.shared()
        buffers = {k: t for k, t in shared.items() if k not in names}
        up = FedNovaMessage(Weights({k: shared[k] for k in names}), buffers, measure.length.detach().clone())
        return Contribution(site.name, up, site.size, metrics)

    def merge(self, state: Weights, contributions: Iterable[Contribution[FedNovaMessage]]) -> Weights:
        """In one pass: the mean with weights n_i / |a_i|_1, and a step of `factor` times the way to it."""
        incoming = _Incoming(contributions)
        mean = Mean(WEIGHT).combine(incoming, state.tensors)
        buffers = Mean().combine(incoming.buffers, {}) if any(c.message.tensors for c in incoming.buffers) else {}
        return Weights(step_towards(mean, state.tensors, incoming.names, incoming.factor) | buffers)

    def error_of(self, state: Weights, message: FedNovaMessage) -> str | None:
        error = answer_error(FedAvg(), state, message.weights) or tensors_error(message.buffers, state.tensors)
        if error is None and not float(message.length) > 0:
            error = "the length of its steps is not positive"
        return error


@dataclass
class _Incoming:
    """Passes the trained weights on as a stream, with images per length as metric; holds the buffers, which are
    small."""

    contributions: Iterable[Contribution[FedNovaMessage]]
    buffers: list[Contribution[Weights]] = field(default_factory=list)
    names: set[str] = field(default_factory=set)
    images: float = 0.0
    images_times_length: float = 0.0
    images_per_length: float = 0.0

    def __iter__(self) -> Iterator[Contribution[Weights]]:
        for c in self.contributions:
            length, sent = float(c.message.length), weights_of(c.message)
            self.images += c.examples
            self.images_times_length += c.examples * length
            self.images_per_length += c.examples / length
            self.names |= sent.keys()
            self.buffers.append(Contribution(c.site, Weights(c.message.buffers), c.examples))
            yield Contribution(c.site, Weights(sent), c.examples, {WEIGHT: c.examples / length})

    @property
    def factor(self) -> float:
        """tau_eff sum_i p_i / |a_i|_1, at least 1: sum_i p_i (y_i - x) / |a_i|_1 is that sum times (mean - x)."""
        return self.images_times_length * self.images_per_length / self.images**2


class _MeasureLength(Callback):
    """Moves one number, which starts at 0 and always has gradient 1, as the site's optimizer moves its weights."""

    def __init__(self, mu: float):
        self.mu, self.number = mu, nn.Parameter(torch.zeros((), dtype=torch.float64))
        self.optimizers: list[Optimizer] = []

    @property
    def length(self) -> Float[Tensor, ""]:
        return -self.number

    def on_train_start(self, trainer: Trainer, module: LightningModule) -> None:
        self.optimizers = [_scalar_optimizer(trainer.optimizers[0], self.number)]

    def on_before_optimizer_step(self, trainer: Trainer, module: LightningModule, optimizer: Optimizer) -> None:
        (scalar,) = self.optimizers
        scalar.param_groups[0]["lr"] = optimizer.param_groups[0]["lr"]
        self.number.grad = 1 + self.mu * self.number.detach()
        scalar.step()


def _scalar_optimizer(optimizer: Optimizer, number: nn.Parameter) -> Optimizer:
    """An optimizer of the same class and settings for a single number.

    Raises:
        InputError: It cannot be built, or parameter groups have different settings, so that there is no one length.
    """
    # Weight decay belongs to the loss, not to the way gradients are applied; a number needs no fused kernel.
    changed = {"weight_decay": 0.0, "fused": False, "foreach": False, "capturable": False}
    groups = [{k: changed.get(k, v) for k, v in g.items() if k != "params"} for g in optimizer.param_groups]
    name = type(optimizer).__name__
    if any(group != groups[0] for group in groups):
        raise InputError(
            f"FedNova needs the same settings for all parameters, but {name} has groups that differ: use one group"
        )
    kind: Any = type(optimizer)
    try:
        built: Optimizer = kind([{"params": [number], **groups[0]}], lr=groups[0]["lr"])
    except Exception as e:  # constructors raise errors of any kind for arguments that they do not accept
        raise InputError(
            f"FedNova measures the length of the steps with a second optimizer of the same kind, but {name} cannot be "
            f"built from its parameter groups ({type(e).__name__}); use an optimizer of torch.optim"
        ) from e
    return built
