"""Weights that travel as int8, both ways, after FedDM (Vora et al. 2024, arXiv 2407.14730): a quarter of the bytes.

Not the weights are rounded, but their difference to the receiver's copy. Differences become smaller as the learning
rate falls, and so do rounding errors; the error of rounded weights would stay as large as the steps of int8. No error
is lost for good:

- down, the server stores the copy that the sites have, and sends the difference between its weights and this copy. The
  rounding error of one message is part of the next difference;
- up, a site sends the change of its weights from its copy, and stores the rounding error for its next visit (error
  feedback: Seide et al. 2014; Karimireddy et al. 2019, arXiv 1901.09847). The server adds the change to its own
  weights, which are exact, and not to the copy.

So at any time, the server's mean is that of exact messages from the same visits, minus the mean of the errors that
sites have stored. Rounding of differences, error feedback, and one scale for each output channel are our reading of
FedDM, whose abstract says only "quantised updates".
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch

from fedcore.algorithms.answers import tensors_error
from fedcore.algorithms.wrapper import Wrapper
from fedcore.errors import InputError, Refused
from fedcore.messages.answer import Contribution
from fedcore.messages.int8 import from_int8, to_int8
from fedcore.messages.message import Message, Weights, replaced, weights_of
from fedcore.messages.reveals import WEIGHTS
from fedcore.messages.round import Round
from fedcore.messages.tensors import Tensors
from fedcore.site.site import Site
from fedcore.training.local_trainer import LocalTrainer
from fedcore.training.site_state import with_prefix

COPY, RESIDUAL = "quantised/copy/", "quantised/lost/"


@dataclass(frozen=True)
class Int8Delta(Message):
    """The difference to the receiver's copy, and tensors that are not rounded."""

    levels: Tensors = field(metadata=WEIGHTS)
    """int8."""
    scales: Tensors = field(metadata=WEIGHTS)
    """The value of one level, for each output channel."""
    unquantised: Tensors = field(metadata=WEIGHTS)


@dataclass(frozen=True)
class QuantisedState(Message):
    """The server's state: that of the wrapped algorithm, and the copy of its weights that sites have."""

    algorithm: Message
    copy: Weights
    """What a site has after it received `delta`."""
    delta: Int8Delta
    """From the copy before the last round to this one: what the sites of the last round still need."""
    last_sites: tuple[str, ...] = field(metadata=WEIGHTS)
    """Names of the sites of the last round."""


@dataclass(frozen=True)
class Quantised(Wrapper):
    """Runs `algorithm` with weights that are sent as int8.

    The algorithm must send the server's weights to all sites alike. Other parts of its messages (an exchange's) stay as
    they are, and so do vectors, scalars and tensors that are not float32: norms, biases, running statistics and
    counters are few (0.3 % of a U-Net), and a rounded variance may become negative.

    A site stores two models in its memory; the server stores one and a quarter more. A site that was not in the last
    round is sent the weights in full: if `rounds.per_round` is much smaller than the number of sites, only messages to
    the server become smaller.
    """

    def inner_state(self, state: QuantisedState) -> Message:
        return state.algorithm

    def start(self, local: LocalTrainer) -> QuantisedState:
        state = self.inner.start(local)
        return QuantisedState(state, Weights(weights_of(state)), Int8Delta({}, {}, {}), ())

    def broadcast(self, state: QuantisedState, site: str, turn: Round) -> Message:
        delta = state.delta if site in state.last_sites else Int8Delta({}, {}, state.copy.tensors)
        name = type(self.inner).__name__

        def quantise(sent: Weights) -> Int8Delta:
            if sent.tensors is not weights_of(state.algorithm):
                raise InputError(
                    f"Quantised needs an algorithm that sends the server's weights to all sites, and {name} does not"
                )
            return delta

        return replaced(self.inner.broadcast(state.algorithm, site, turn), Weights, quantise)

    def visit(self, site: Site, down: Message, local: LocalTrainer, turn: Round) -> Contribution[Any]:
        held, residual = with_prefix(COPY, site.memory), with_prefix(RESIDUAL, site.memory)
        exact = replaced(down, Int8Delta, lambda delta: Weights(apply_delta(held, delta)))
        contribution = self.inner.visit(site, exact, local, turn)
        copy = weights_of(exact)
        up, error = int8_delta(weights_of(contribution.message), copy, residual)
        stored = {COPY + k: t for k, t in copy.items()} | {RESIDUAL + k: t for k, t in (residual | error).items()}
        site.memory = site.memory | stored
        return dataclasses.replace(contribution, message=replaced(contribution.message, Weights, lambda _: up))

    def merge(self, state: QuantisedState, contributions: Iterable[Contribution[Any]]) -> QuantisedState:
        incoming = _Dequantised(contributions, weights_of(state.algorithm))
        merged = self.inner.merge(state.algorithm, incoming)
        # No residual here: the copy already differs from the weights by the rounding error of the last delta.
        delta, _ = int8_delta(weights_of(merged), state.copy.tensors, {})
        return QuantisedState(merged, Weights(apply_delta(state.copy.tensors, delta)), delta, tuple(incoming.sites))

    def error_of(self, state: QuantisedState, message: Message) -> str | None:
        """The wrapped algorithm checks the message with the server's weights in the places of the differences."""
        weights, errors = weights_of(state.algorithm), list[str | None]()

        def check(delta: Int8Delta) -> Weights:
            errors.append(_delta_error(delta, weights))
            return Weights({k: weights[k] for k in (*delta.levels, *delta.unquantised) if k in weights})

        exact = replaced(message, Int8Delta, check)
        return next(filter(None, errors), None) or super().error_of(state, exact)


@dataclass
class _Dequantised:
    """Contributions as the wrapped algorithm expects them: the server's weights plus the change of each site."""

    contributions: Iterable[Contribution[Any]]
    weights: Tensors
    sites: list[str] = field(default_factory=list)

    def __iter__(self) -> Iterator[Contribution[Any]]:
        for c in self.contributions:
            self.sites.append(c.site)
            exact = replaced(c.message, Int8Delta, lambda delta: Weights(apply_delta(self.weights, delta)))
            yield dataclasses.replace(c, message=exact)


def int8_delta(tensors: Tensors, copy: Tensors, residual: Tensors) -> tuple[Int8Delta, Tensors]:
    """tensors - copy + residual, rounded to int8, and the rounding error.

    Raises:
        Refused: A difference is not finite.
    """
    levels, scales, error = {}, {}, {}
    for name, t in tensors.items():
        if t.dim() < 2 or t.dtype != torch.float32:
            continue
        difference = t - copy[name] + residual.get(name, 0.0)
        if not difference.isfinite().all():
            raise Refused(f"{name} is not finite and cannot be rounded; a lower learning rate may help")
        levels[name], scales[name] = to_int8(difference)
        error[name] = difference - from_int8(levels[name], scales[name])
    return Int8Delta(levels, scales, {k: t.clone() for k, t in tensors.items() if k not in levels}), error


def _delta_error(delta: Int8Delta, weights: Tensors) -> str | None:
    as_int8 = {k: weights[k].to("meta", torch.int8) for k in delta.levels if k in weights}
    steps = {k: torch.empty(len(t), device="meta") for k, t in as_int8.items() if t.dim()}
    error = tensors_error(delta.levels, as_int8) or tensors_error(delta.scales, steps)
    if error is None and (delta.scales.keys() != delta.levels.keys() or delta.levels.keys() & delta.unquantised.keys()):
        error = "its differences and their scales are not of the same tensors"
    return error or tensors_error(delta.unquantised, weights)


def apply_delta(copy: Tensors, delta: Int8Delta) -> Tensors:
    """The copy plus the difference, and the tensors that are not rounded."""
    moved = {k: copy[k] + from_int8(t, delta.scales[k]) for k, t in delta.levels.items()}
    return moved | {k: t.clone() for k, t in delta.unquantised.items()}  # safetensors does not accept shared memory
