"""FedNova: sites count by what they know, not by how many steps they took (Wang et al. 2020, arXiv 2007.07481).

A site of ten times the images takes ten times the steps, and FedAvg moves its way for both. In a recipe::

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
from fedcore.algorithms.base import LocalCallback
from fedcore.algorithms.fedprox import ProximalTerm
from fedcore.algorithms.trainable import learned, require_one_optimizer, stepped
from fedcore.errors import InputError, Refused
from fedcore.messages.message import WEIGHTS, Contribution, Message, Tensors, Weights, weights_of
from fedcore.site.site import Round, Site
from fedcore.training.local_trainer import LocalTrainer

PACE = "images per length"


@dataclass(frozen=True)
class Walked(Message):
    """What a site learned and how far it could have come."""

    weights: Message
    """Weights, or what they travel as."""
    rest: Tensors = field(metadata=WEIGHTS)
    """Running statistics, counters and what else is not learned."""
    length: Float[Tensor, ""] = field(metadata=WEIGHTS)
    """eta |a_i|_1, which follows from images, batch and epochs; how many images is told anyway."""


@dataclass(frozen=True)
class FedNova:
    """x <- x + tau_eff sum_i p_i (y_i - x) / |a_i|_1 with tau_eff = sum_i p_i |a_i|_1 and p_i by images.

    a_i holds the part that each gradient of a visit has in y_i - x, so |a_i|_1 is the number of steps for plain SGD.
    Here it is measured: how far the site's own optimizer comes where every gradient is 1, its learning rate, momentum
    and the springs among `guides` included. That is the paper's |a_i|_1 for SGD, SGD with momentum and the proximal
    solver, times the rate, of which a common factor cancels. Adam and its kin are not linear, and the paper leaves
    them open; by this measure they count steps too. Moments that `visit.keep_optimizer` carries over are left out.

    With equal lengths it is FedAvg. tau_eff is free in the paper: this is the one that FedAvg implies, so that the
    server's step is as long. Running statistics, which no step makes, are averaged by images.
    """

    guides: tuple[LocalCallback, ...] = ()
    """What acts on local training."""

    def start(self, local: LocalTrainer) -> Weights:
        require_one_optimizer(self, local)
        if made := local.optimizers():
            _follower(made[0], nn.Parameter(torch.zeros(())))
        return Weights(local.shared())

    def broadcast(self, state: Weights, site: str, turn: Round) -> Weights:
        return state

    def visit(self, site: Site, down: Weights, local: LocalTrainer, turn: Round) -> Contribution[Walked]:
        local.load(down.tensors)
        walk = _Walk(sum((g.mu for g in self.guides if isinstance(g, ProximalTerm)), 0.0))
        metrics = local.fit(site, turn, [*(g.callback(down.tensors, site, turn) for g in self.guides), walk])
        if not walk.length > 0:
            raise Refused("FedNova divides by how far a site's steps go, and it took none")
        names, shared = learned(local), local.shared()
        rest = {k: t for k, t in shared.items() if k not in names}
        up = Walked(Weights({k: shared[k] for k in names}), rest, walk.length.detach().clone())
        return Contribution(site.name, up, site.size, metrics)

    def merge(self, state: Weights, contributions: Iterable[Contribution[Walked]]) -> Weights:
        """In one pass: a mean that weighs sites by n_i / |a_i|_1, and a step `further` than to it."""
        arriving = _Arriving(contributions)
        mean = Mean(PACE).combine(arriving, state.tensors)
        rest = Mean().combine(arriving.rest, {}) if any(c.message.tensors for c in arriving.rest) else {}
        return Weights(stepped(state.tensors, mean, arriving.names, arriving.further) | rest)


@dataclass
class _Arriving:
    """Streams what was learned, weighed by images per length; what is not learned is little, and is held."""

    contributions: Iterable[Contribution[Walked]]
    rest: list[Contribution[Weights]] = field(default_factory=list)
    names: set[str] = field(default_factory=set)
    images: float = 0.0
    distance: float = 0.0
    pace: float = 0.0

    def __iter__(self) -> Iterator[Contribution[Weights]]:
        for c in self.contributions:
            length, sent = float(c.message.length), weights_of(c.message)
            self.images += c.examples
            self.distance += c.examples * length
            self.pace += c.examples / length
            self.names |= sent.keys()
            self.rest.append(Contribution(c.site, Weights(c.message.rest), c.examples))
            yield Contribution(c.site, Weights(sent), c.examples, {PACE: c.examples / length})

    @property
    def further(self) -> float:
        """tau_eff sum_i p_i / |a_i|_1, at least 1: sum_i p_i (y_i - x) / |a_i|_1 is that sum times (mean - x)."""
        return self.distance * self.pace / self.images**2


class _Walk(Callback):
    """Moves one number as the site's optimizer moves its weights, from 0 by gradients of 1."""

    def __init__(self, mu: float):
        self.mu, self.at = mu, nn.Parameter(torch.zeros((), dtype=torch.float64))
        self.optimizers: list[Optimizer] = []

    @property
    def length(self) -> Float[Tensor, ""]:
        return -self.at

    def on_train_start(self, trainer: Trainer, module: LightningModule) -> None:
        self.optimizers = [_follower(trainer.optimizers[0], self.at)]

    def on_before_optimizer_step(self, trainer: Trainer, module: LightningModule, optimizer: Optimizer) -> None:
        (follower,) = self.optimizers
        follower.param_groups[0]["lr"] = optimizer.param_groups[0]["lr"]
        self.at.grad = 1 + self.mu * self.at.detach()
        follower.step()


def _follower(optimizer: Optimizer, number: nn.Parameter) -> Optimizer:
    """One of the same kind and settings that moves a single number.

    Raises:
        InputError: There is none, or groups of parameters move at rates of their own, so that no one length holds.
    """
    # Decay is a pull of the loss towards 0 and no part of how a gradient is taken; a number needs no fused kernel.
    plainly = {"weight_decay": 0.0, "fused": False, "foreach": False, "capturable": False}
    groups = [{k: plainly.get(k, v) for k, v in g.items() if k != "params"} for g in optimizer.param_groups]
    name = type(optimizer).__name__
    if any(group != groups[0] for group in groups):
        raise InputError(f"FedNova needs one rate for all parameters; {name} has groups that differ: give it one group")
    kind: Any = type(optimizer)
    try:
        made: Optimizer = kind([{"params": [number], **groups[0]}], lr=groups[0]["lr"])
    except Exception as e:  # what constructors raise of arguments that they do not take is theirs
        raise InputError(
            f"FedNova follows one number by an optimizer like that of the visit, and {name} cannot be made anew from "
            f"its groups ({type(e).__name__}); take one of torch.optim"
        ) from e
    return made
