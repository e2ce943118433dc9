"""FedOpt: the server uses the change of a round as a gradient, and takes a step of an optimizer.

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

from fedcore.algorithms.trainable import trainable_names
from fedcore.algorithms.wrapper import Wrapper
from fedcore.errors import InputError
from fedcore.messages.answer import Contribution
from fedcore.messages.message import Message, Weights, replaced, weights_of
from fedcore.messages.reveals import WEIGHTS
from fedcore.messages.tensors import Tensors
from fedcore.training.local_trainer import LocalTrainer

Entries = Float[Tensor, "..."]
Step = tuple[Entries, Entries, Entries]


@runtime_checkable
class Rule(Protocol):
    """The server's optimizer: a step from the pseudo-gradient of one tensor."""

    def start(self) -> tuple[float, float]:
        """Initial values of the moments m and v."""

    def step(self, delta: Entries, m: Entries, v: Entries) -> Step:
        """The step to add to the tensor, and the new moments; `delta` is the mean of the round minus the tensor."""


@dataclass(frozen=True)
class Momentum:
    """FedAvgM: m <- beta m + delta, a step of eta m. With beta 0 and eta 1 it is exactly FedAvg."""

    eta: float = 1.0
    """The server's learning rate, positive."""
    beta: float = 0.9
    """In [0, 1). Where rounds agree, steps grow to 1 / (1 - beta) times their length; reduce eta accordingly."""

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
    """m <- beta1 m + (1 - beta1) delta, v as the subclass defines it, a step of eta m / (sqrt(v) + tau).

    As in the paper, v starts at tau^2, and there is no bias correction.
    """

    eta: float = 0.01
    """The server's learning rate, positive: the distance that a weight moves in a round, whatever its change. The paper
    tunes it for each data set."""
    beta1: float = 0.9
    """In [0, 1)."""
    tau: float = 1e-3
    """Positive. Weights whose change in a round is much smaller hardly move; with a large tau, steps are proportional
    to changes."""

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
    """FedAdagrad: v <- v + delta^2, so steps only get shorter."""

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
    """FedYogi: v <- v - (1 - beta2) delta^2 sign(v - delta^2), which falls more slowly than Adam's v."""

    beta2: float = 0.99
    """In [0, 1)."""

    def second(self, square: Entries, v: Entries) -> Entries:
        return v - (1 - self.beta2) * square * (v - square).sign()


@dataclass(frozen=True)
class FedOptState(Message):
    """The server's state: that of the wrapped algorithm, and the moments of the trainable weights."""

    algorithm: Message
    first_moment: Tensors = field(metadata=WEIGHTS)
    second_moment: Tensors = field(metadata=WEIGHTS)


@dataclass(frozen=True)
class FedOpt(Wrapper):
    """Runs `algorithm`; the server then steps by `rule` from its weights towards the result of the round.

    Sites work as without it. The server stores two more models. Only trainable weights take steps; running statistics
    are those of the wrapped algorithm.
    """

    rule: Rule | None = None
    """The server's optimizer: Momentum, Adagrad, Adam or Yogi of this module; null: Adam."""

    def inner_state(self, state: FedOptState) -> Message:
        return state.algorithm

    def start(self, local: LocalTrainer) -> FedOptState:
        state = self.inner.start(local)
        if (count := _count_weights(state)) != 1:
            raise InputError(
                f"FedOpt needs a server with one set of weights, but {type(self.inner).__name__} has {count}; "
                "to send FedOpt's messages as int8, wrap it into Quantised instead"
            )
        m, v = self._rule.start()
        weights = weights_of(state)
        return FedOptState(
            state,
            {name: torch.full_like(weights[name], m) for name in trainable_names(local)},
            {name: torch.full_like(weights[name], v) for name in trainable_names(local)},
        )

    def merge(self, state: FedOptState, contributions: Iterable[Contribution[Any]]) -> FedOptState:
        before, merged = weights_of(state.algorithm), self.inner.merge(state.algorithm, contributions)
        weights, first, second = dict(weights_of(merged)), dict[str, Tensor](), dict[str, Tensor]()
        for name, m in state.first_moment.items():
            delta = weights[name] - before[name]
            step, first[name], second[name] = self._rule.step(delta, m, state.second_moment[name])
            # before + step, written as mean + (step - delta): a step of exactly delta then gives exactly the mean.
            weights[name] = weights[name] + (step - delta)
        return FedOptState(replaced(merged, Weights, lambda _: Weights(weights)), first, second)

    @property
    def _rule(self) -> Rule:
        return self.rule or Adam()


def _count_weights(state: Message) -> int:
    """Number of `Weights` in the state, nested messages included."""
    if isinstance(state, Weights):
        return 1
    parts = (getattr(state, f.name) for f in dataclasses.fields(state))
    return sum(_count_weights(part) for part in parts if isinstance(part, Message))
