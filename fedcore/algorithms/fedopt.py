"""FedOpt: the server takes what a round changed for a gradient, and steps as an optimizer does.

FedAvgM by Hsu et al. 2019, arXiv 1909.06335; FedAdagrad, FedAdam and FedYogi by Reddi et al. 2021, arXiv 2003.00295.
In a recipe::

    algorithm:
      class_path: fedcore.algorithms.fedopt.FedOpt
      init_args: {rule: {class_path: fedcore.algorithms.fedopt.Yogi, init_args: {eta: 0.01}}}
"""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from fedcore.algorithms.base import Algorithm, FedAvg
from fedcore.algorithms.trainable import learned
from fedcore.errors import InputError
from fedcore.messages.message import WEIGHTS, Contribution, Message, Tensors, Weights, replaced, weights_of
from fedcore.site.site import Round, Site
from fedcore.training.local_trainer import LocalTrainer

Entries = Float[Tensor, "..."]
Step = tuple[Entries, Entries, Entries]


@runtime_checkable
class Rule(Protocol):
    """What the server does with one tensor's pseudo-gradient."""

    def start(self) -> tuple[float, float]:
        """Where the moments m and v begin."""

    def step(self, delta: Entries, m: Entries, v: Entries) -> Step:
        """What to add to the tensor, and the moments after it; `delta` is the round's mean less the tensor."""


@dataclass(frozen=True)
class Momentum:
    """FedAvgM: m <- beta m + delta, a step of eta m. With beta 0 and eta 1 it is FedAvg to the bit."""

    eta: float = 1.0
    """The server's learning rate, positive."""
    beta: float = 0.9
    """In [0, 1). Where rounds agree, steps grow to 1 / (1 - beta) times their length; a smaller eta makes up for it."""

    def __post_init__(self) -> None:
        if not (self.eta > 0 and 0 <= self.beta < 1):
            raise ValueError(f"eta must be positive and beta lie in [0, 1), got {self}")

    def start(self) -> tuple[float, float]:
        return 0.0, 0.0

    def step(self, delta: Entries, m: Entries, v: Entries) -> Step:
        m = self.beta * m + delta
        return self.eta * m, m, v


@dataclass(frozen=True)
class Adaptive(ABC):
    """m <- beta1 m + (1 - beta1) delta, a v of the rule's own, a step of eta m / (sqrt(v) + tau).

    As in the paper v begins at tau^2 and no moment is corrected for its beginning.
    """

    eta: float = 0.01
    """The server's learning rate, positive: how far a weight moves in a round, whatever its change. The paper tunes it
    for each data set."""
    beta1: float = 0.9
    """In [0, 1)."""
    tau: float = 1e-3
    """Positive. Weights that change by much less in a round hardly move; with a large one all move in proportion."""

    def __post_init__(self) -> None:
        betas = [value for name, value in vars(self).items() if name.startswith("beta")]
        if not (self.eta > 0 and self.tau > 0 and all(0 <= beta < 1 for beta in betas)):
            raise ValueError(f"eta and tau must be positive and every beta lie in [0, 1), got {self}")

    def start(self) -> tuple[float, float]:
        return 0.0, self.tau**2

    def step(self, delta: Entries, m: Entries, v: Entries) -> Step:
        m, v = self.beta1 * m + (1 - self.beta1) * delta, self.second(delta.square(), v)
        return self.eta * m / (v.sqrt() + self.tau), m, v

    @abstractmethod
    def second(self, square: Entries, v: Entries) -> Entries:
        """v after a round with this delta^2."""


@dataclass(frozen=True)
class Adagrad(Adaptive):
    """FedAdagrad: v <- v + delta^2. Steps only get shorter."""

    beta1: float = 0.0
    """In [0, 1)."""

    def second(self, square: Entries, v: Entries) -> Entries:
        return v + square


@dataclass(frozen=True)
class Adam(Adaptive):
    """FedAdam: v <- beta2 v + (1 - beta2) delta^2."""

    beta2: float = 0.99
    """In [0, 1)."""

    def second(self, square: Entries, v: Entries) -> Entries:
        return self.beta2 * v + (1 - self.beta2) * square


@dataclass(frozen=True)
class Yogi(Adaptive):
    """FedYogi: v <- v - (1 - beta2) delta^2 sign(v - delta^2), which forgets a great change more slowly than Adam."""

    beta2: float = 0.99
    """In [0, 1)."""

    def second(self, square: Entries, v: Entries) -> Entries:
        return v - (1 - self.beta2) * square * (v - square).sign()


@dataclass(frozen=True)
class Stepped(Message):
    """The server's state: the wrapped algorithm's, and the moments of what is learned."""

    algorithm: Message
    first: Tensors = field(metadata=WEIGHTS)
    second: Tensors = field(metadata=WEIGHTS)


@dataclass(frozen=True)
class FedOpt:
    """Runs `algorithm`, and steps from the server's weights by `rule` towards what it made of a round.

    The sites notice nothing. The server keeps two more models. Running statistics are what the wrapped algorithm makes
    them; only what is learned takes steps.
    """

    algorithm: Algorithm | None = None
    """What is wrapped; null: fedcore.algorithms.base.FedAvg."""
    rule: Rule | None = None
    """The server's optimizer: Momentum, Adagrad, Adam or Yogi of this file; null: Adam."""

    def start(self, local: LocalTrainer) -> Stepped:
        state = self._inner.start(local)
        if (sets := _sets(state)) != 1:
            raise InputError(
                f"FedOpt steps the one set of weights of the server, of which {type(self._inner).__name__} has {sets}; "
                "to send what it makes as int8, wrap it into Quantised instead"
            )
        m, v = self._rule.start()
        weights = weights_of(state)
        return Stepped(
            state,
            {name: torch.full_like(weights[name], m) for name in learned(local)},
            {name: torch.full_like(weights[name], v) for name in learned(local)},
        )

    def broadcast(self, state: Stepped, site: str, turn: Round) -> Any:
        return self._inner.broadcast(state.algorithm, site, turn)

    def visit(self, site: Site, down: Message, local: LocalTrainer, turn: Round) -> Contribution[Any]:
        return self._inner.visit(site, down, local, turn)

    def merge(self, state: Stepped, contributions: Iterable[Contribution[Any]]) -> Stepped:
        before, merged = weights_of(state.algorithm), self._inner.merge(state.algorithm, contributions)
        weights, first, second = dict(weights_of(merged)), dict[str, Tensor](), dict[str, Tensor]()
        for name, m in state.first.items():
            delta = weights[name] - before[name]
            step, first[name], second[name] = self._rule.step(delta, m, state.second[name])
            # before + step, seen from the mean: so that a step of just delta is the mean to the bit.
            weights[name] = weights[name] + (step - delta)
        return Stepped(replaced(merged, Weights, lambda _: Weights(weights)), first, second)

    @property
    def _inner(self) -> Algorithm:
        return self.algorithm or FedAvg()

    @property
    def _rule(self) -> Rule:
        return self.rule or Adam()


def _sets(state: Message) -> int:
    """How many `Weights` the state holds, however deep."""
    if isinstance(state, Weights):
        return 1
    parts = (getattr(state, f.name) for f in dataclasses.fields(state))
    return sum(_sets(part) for part in parts if isinstance(part, Message))
