"""SCAFFOLD: control variates correct each step for the difference between a site's gradients and the mean over sites.

Karimireddy et al. 2020, arXiv 1910.06378. In a recipe::

    algorithm: {class_path: fedcore.algorithms.scaffold.Scaffold, init_args: {eta: 1.0}}
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from torch.optim import Optimizer

from fedcore.aggregation.mean import Mean
from fedcore.algorithms.answers import answer_error, tensors_error
from fedcore.algorithms.fedavg import FedAvg
from fedcore.algorithms.trainable import require_one_optimizer, step_towards, trainable_names
from fedcore.errors import InputError
from fedcore.messages.answer import Contribution
from fedcore.messages.message import Message, Weights, weights_of
from fedcore.messages.reveals import WEIGHTS
from fedcore.messages.round import Round
from fedcore.messages.tensors import Tensors
from fedcore.site.site import Site
from fedcore.training.local_trainer import LocalTrainer

OWN = "scaffold/"


@dataclass(frozen=True)
class ScaffoldMessage(Message):
    """Weights and a control variate: to the site c, from the site the change of its c_i."""

    weights: Message
    """Weights, or the message in which a wrapper sends them."""
    control: Tensors = field(metadata=WEIGHTS)
    """A mean of gradients, which reveals as much as a difference of weights."""


@dataclass(frozen=True)
class ScaffoldState(Message):
    """The server's state."""

    weights: Weights
    control: Tensors = field(metadata=WEIGHTS)
    participants: tuple[str, ...] = field(metadata=WEIGHTS)
    """Names of the sites that have contributed in any round, sorted."""


@dataclass(frozen=True)
class Scaffold:
    """y <- y - eta_l (g(y) - c_i + c) at the sites; x <- x + eta mean(y_i - x) and c = mean(c_i) at the server.

    c_i, which takes the memory of one model at its site, is the mean of the gradients of the site's last visit. For
    plain SGD at a constant rate this is option II of the paper, c_i - c + (x - y_i) / (K eta_l), and the algorithm is
    the paper's. For other optimizers (x - y_i) / (K eta_l) is no gradient, but the mean still is: then the gradients
    given to the optimizer are, on average over a visit, without the site's bias; the paper's bounds are not claimed.
    Momentum has no such bias either; the second moments of Adam are still the site's own.

    Gradients of `visit.callbacks` (proximal term), weight decay and clipping come after the correction and are in no
    c_i. Running statistics are averaged. All sites have the same weight, as in the paper, whatever their number of
    images.
    """

    eta: float = 1.0
    """The server's learning rate, positive; 1 takes the mean over sites."""
    sites: int | None = None
    """N, the number of sites of the run, over which c is the mean; a site that has not contributed yet has c_i = 0.
    null: the number of sites that have contributed so far. Both are the same if every round has all sites. With
    `rounds.per_round` set it: a c from few sites at full weight would double the first steps of the next sites."""

    def __post_init__(self) -> None:
        if self.eta <= 0 or (self.sites is not None and self.sites < 1):
            raise ValueError(f"eta must be positive and sites at least 1 or null, got {self.eta} and {self.sites}")

    def start(self, local: LocalTrainer) -> ScaffoldState:
        require_one_optimizer(self, local)
        shared = local.shared()
        zeros = {name: torch.zeros_like(shared[name]) for name in trainable_names(local)}
        return ScaffoldState(Weights(shared), zeros, ())

    def broadcast(self, state: ScaffoldState, site: str, turn: Round) -> ScaffoldMessage:
        return ScaffoldMessage(state.weights, state.control)

    def visit(
        self, site: Site, down: ScaffoldMessage, local: LocalTrainer, turn: Round
    ) -> Contribution[ScaffoldMessage]:  # fmt: skip
        sent, zero = weights_of(down), torch.zeros(())
        before = {k: site.memory.get(OWN + k, zero).expand_as(c) for k, c in down.control.items()}
        local.load(sent)
        correct = _CorrectGradients({k: c - before[k] for k, c in down.control.items()})
        metrics = local.fit(site, turn, sent, [correct])
        after = correct.mean_gradients()
        site.memory = site.memory | {OWN + k: t for k, t in after.items()}
        change = {k: t - before[k] for k, t in after.items()}
        return Contribution(site.name, ScaffoldMessage(Weights(local.shared()), change), site.size, metrics)

    def merge(self, state: ScaffoldState, contributions: Iterable[Contribution[ScaffoldMessage]]) -> ScaffoldState:
        current, incoming = state.weights.tensors, _Incoming(contributions)
        mean = Mean("equal").combine(incoming, current)
        participants = tuple(sorted({*state.participants, *incoming.participants}))
        before, now = self._count(state.participants), self._count(participants)
        control = {k: c * (before / now) + incoming.change.get(k, 0.0) / now for k, c in state.control.items()}
        return ScaffoldState(Weights(step_towards(mean, current, control, self.eta)), control, participants)

    def error_of(self, state: ScaffoldState, message: ScaffoldMessage) -> str | None:
        error = answer_error(FedAvg(), state.weights, message.weights)
        return error or tensors_error(message.control, state.control)

    def _count(self, participants: Sequence[str]) -> int:
        if self.sites is not None and len(participants) > self.sites:
            raise InputError(
                f"sites must be the number of all sites, got {self.sites}, and {len(participants)} have contributed"
            )
        return self.sites or len(participants)


@dataclass
class _Incoming:
    """Passes the weights on as a stream; adds up changes of control variates and notes the sites."""

    contributions: Iterable[Contribution[ScaffoldMessage]]
    change: Tensors = field(default_factory=dict)
    participants: list[str] = field(default_factory=list)

    def __iter__(self) -> Iterator[Contribution[Weights]]:
        for c in self.contributions:
            self.participants.append(c.site)
            for name, t in c.message.control.items():
                self.change[name] = self.change[name] + t if name in self.change else t
            yield Contribution(c.site, Weights(weights_of(c.message)), c.examples, c.metrics)


class _CorrectGradients(Callback):
    """Adds the correction to each gradient, and takes the mean of the uncorrected gradients."""

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

    def mean_gradients(self) -> Tensors:
        """Empty if there was no step."""
        return {k: (t / self.steps).cpu() for k, t in self.total.items()} if self.steps else {}
