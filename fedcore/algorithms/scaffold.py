"""SCAFFOLD: each step is corrected by how a site's gradients differ from everybody's.

Karimireddy et al. 2020, arXiv 1910.06378. In a recipe::

    algorithm: {class_path: fedcore.algorithms.scaffold.Scaffold, init_args: {eta: 1.0}}
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from torch.optim import Optimizer

from fedcore.aggregation.mean import Mean
from fedcore.algorithms.base import LocalCallback
from fedcore.algorithms.trainable import learned, require_one_optimizer, stepped
from fedcore.errors import InputError
from fedcore.messages.message import WEIGHTS, Contribution, Message, Tensors, Weights, weights_of
from fedcore.site.site import Round, Site
from fedcore.training.local_trainer import LocalTrainer

OWN = "scaffold/"


@dataclass(frozen=True)
class Steered(Message):
    """Weights and a control variate: down c; up how far the site's own c_i has moved."""

    weights: Message
    """Weights, or what they travel as."""
    control: Tensors = field(metadata=WEIGHTS)
    """A mean of gradients, which gives away what a difference of weights does."""


@dataclass(frozen=True)
class Steering(Message):
    """The server's state."""

    weights: Weights
    control: Tensors = field(metadata=WEIGHTS)
    heard: Tensors = field(metadata=WEIGHTS)
    """The names of the sites that ever answered; a tensor each, because that is what a message holds."""


@dataclass(frozen=True)
class Scaffold:
    """y <- y - eta_l (g(y) - c_i + c) at the sites; x <- x + eta mean(y_i - x) and c = mean(c_i) at the server.

    c_i, a model of memory at its site, is the mean of the gradients of its last visit. With plain SGD at a constant
    rate that is option II of the paper, c_i - c + (x - y_i) / (K eta_l), and the algorithm is the paper's. By any
    other optimizer (x - y_i) / (K eta_l) is no gradient, and the mean still is one: what holds is that the optimizer
    is shown gradients without the site's bias, on the average of a visit; the paper's bounds are not claimed. Momentum
    then has no such bias either. Adam still divides by second moments that are the site's own.

    What guides add (a spring), weight decay and clipping come behind the correction and are in no c_i. Running
    statistics are averaged. All sites count alike, as in the paper, however many images they have.
    """

    eta: float = 1.0
    """The server's learning rate, positive; 1 takes the mean of the sites."""
    sites: int | None = None
    """N, the sites of the run, by which c is a mean; a site that has not answered yet has c_i = 0. null: those that
    have answered so far. Both are the same where all are asked each round; with `rounds.per_round` say it: a c from
    few sites at full weight doubles the first steps of the next."""
    guides: tuple[LocalCallback, ...] = ()
    """What else acts on local training, behind the correction."""

    def __post_init__(self) -> None:
        if self.eta <= 0 or (self.sites is not None and self.sites < 1):
            raise ValueError(f"eta must be positive and sites at least 1 or null, got {self.eta} and {self.sites}")

    def start(self, local: LocalTrainer) -> Steering:
        require_one_optimizer(self, local)
        shared = local.shared()
        return Steering(Weights(shared), {name: torch.zeros_like(shared[name]) for name in learned(local)}, {})

    def broadcast(self, state: Steering, site: str, turn: Round) -> Steered:
        return Steered(state.weights, state.control)

    def visit(self, site: Site, down: Steered, local: LocalTrainer, turn: Round) -> Contribution[Steered]:
        anchor, zero = weights_of(down), torch.zeros(())
        before = {k: site.memory.get(OWN + k, zero).expand_as(c) for k, c in down.control.items()}
        local.load(anchor)
        steer = _Steer({k: c - before[k] for k, c in down.control.items()})
        metrics = local.fit(site, turn, [steer, *(g.callback(anchor, site, turn) for g in self.guides)])
        after = steer.mean()
        site.memory = site.memory | {OWN + k: t for k, t in after.items()}
        change = {k: t - before[k] for k, t in after.items()}
        return Contribution(site.name, Steered(Weights(local.shared()), change), site.size, metrics)

    def merge(self, state: Steering, contributions: Iterable[Contribution[Steered]]) -> Steering:
        current, arriving = state.weights.tensors, _Arriving(contributions)
        mean = Mean("equal").combine(arriving, current)
        heard = state.heard | arriving.heard
        before, now = self._count(state.heard), self._count(heard)
        control = {k: c * (before / now) + arriving.change.get(k, 0.0) / now for k, c in state.control.items()}
        return Steering(Weights(stepped(current, mean, control, self.eta)), control, heard)

    def _count(self, heard: Tensors) -> int:
        if self.sites is not None and len(heard) > self.sites:
            raise InputError(f"sites must be the number of all sites, got {self.sites}, and {len(heard)} have answered")
        return self.sites or len(heard)


@dataclass
class _Arriving:
    """Streams the weights on and adds up the rest."""

    contributions: Iterable[Contribution[Steered]]
    change: Tensors = field(default_factory=dict)
    heard: Tensors = field(default_factory=dict)

    def __iter__(self) -> Iterator[Contribution[Weights]]:
        for c in self.contributions:
            self.heard[c.site] = torch.ones(1, dtype=torch.bool)
            for name, t in c.message.control.items():
                self.change[name] = self.change[name] + t if name in self.change else t
            yield Contribution(c.site, Weights(weights_of(c.message)), c.examples, c.metrics)


class _Steer(Callback):
    """Adds the correction to each gradient, and keeps the mean of those that came without it."""

    def __init__(self, correction: Tensors):
        self.correction, self.total, self.steps = correction, dict[str, torch.Tensor](), 0

    def on_train_start(self, trainer: Trainer, module: LightningModule) -> None:
        self.correction = {k: t.to(module.device) for k, t in self.correction.items()}
        self.total = {k: torch.zeros_like(t) for k, t in self.correction.items()}

    @torch.no_grad()
    def on_before_optimizer_step(self, trainer: Trainer, module: LightningModule, optimizer: Optimizer) -> None:
        self.steps += 1
        grads = {k: p.grad for k, p in module.named_parameters() if p.grad is not None and k in self.correction}
        if grads:
            torch._foreach_add_([self.total[k] for k in grads], list(grads.values()))
            torch._foreach_add_(list(grads.values()), [self.correction[k] for k in grads])

    def mean(self) -> Tensors:
        """Empty where no step was taken."""
        return {k: (t / self.steps).cpu() for k, t in self.total.items()} if self.steps else {}
