"""Weights that travel as int8, both ways, after FedDM (Vora et al. 2024, arXiv 2407.14730): a quarter of the bytes.

What is rounded is never the weights but how far the receiver's copy is from them. Differences get smaller as the
learning rate falls, and what rounding loses with them; rounded weights would stay as far off as int8 is coarse.
Nothing that rounding loses is lost for ever:

- down, the server knows what its sites hold and sends what that lacks. What one message leaves out is still lacking,
  and is in the next;
- up, a site sends how far it trained from its copy, and keeps what that left out for its next visit (error feedback:
  Seide et al. 2014; Karimireddy et al. 2019, arXiv 1901.09847). The server adds it to its own weights, which are
  exact, and not to the copy.

So a mean at the server is, at any time, that of exact messages from the same visits less the mean of what the sites
still keep. That the difference is what is rounded, the feedback, and a step for each output channel are our reading
of FedDM, whose abstract speaks of quantised updates.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from fedcore.algorithms.base import Algorithm, FedAvg
from fedcore.errors import InputError, Refused
from fedcore.messages.int8 import from_int8, to_int8
from fedcore.messages.message import WEIGHTS, Contribution, Message, Tensors, Weights, replaced, weights_of
from fedcore.site.site import Round, Site
from fedcore.training.local_trainer import LocalTrainer

COPY, LOST = "quantised/copy/", "quantised/lost/"


@dataclass(frozen=True)
class Rounded(Message):
    """What a receiver's copy lacks, and tensors that travel whole."""

    levels: Tensors = field(metadata=WEIGHTS)
    """int8."""
    steps: Tensors = field(metadata=WEIGHTS)
    """How much one level is, for each output channel."""
    whole: Tensors = field(metadata=WEIGHTS)


@dataclass(frozen=True)
class Followed(Message):
    """The server's state: the wrapped algorithm's, and what the sites know of it."""

    algorithm: Message
    copy: Weights
    """What a site holds once it has received `news`."""
    news: Rounded
    """What the sites of the last round lack."""
    followers: Tensors = field(metadata=WEIGHTS)
    """The names of these sites; a tensor each, because that is what a message holds."""


@dataclass(frozen=True)
class Quantised:
    """Runs `algorithm` on weights that travel as int8.

    It must send the server's weights to all sites alike. Whatever else it sends stays as it is (an exchange's part),
    and so do vectors, scalars and what is not float32: norms, biases, running statistics and counters are few
    (0.3 % of a U-Net), and a rounded variance may be negative.

    A site keeps two models in its memory, the server one and a quarter beside its own. A site that was not in the last
    round is sent all in full: where `rounds.per_round` is far below the number of sites, only the way up is short.
    """

    algorithm: Algorithm | None = None
    """What is wrapped; null: fedcore.algorithms.base.FedAvg."""

    def start(self, local: LocalTrainer) -> Followed:
        state = self._inner.start(local)
        return Followed(state, Weights(weights_of(state)), Rounded({}, {}, {}), {})

    def broadcast(self, state: Followed, site: str, turn: Round) -> Message:
        news = state.news if site in state.followers else Rounded({}, {}, state.copy.tensors)

        name = type(self._inner).__name__

        def shorten(sent: Weights) -> Rounded:
            if sent.tensors is not weights_of(state.algorithm):
                raise InputError(f"Quantised needs an algorithm that sends all sites the server's weights, not {name}")
            return news

        return replaced(self._inner.broadcast(state.algorithm, site, turn), Weights, shorten)

    def visit(self, site: Site, down: Message, local: LocalTrainer, turn: Round) -> Contribution[Any]:
        held, lost = _under(COPY, site.memory), _under(LOST, site.memory)
        opened = replaced(down, Rounded, lambda news: Weights(caught_up(held, news)))
        contribution = self._inner.visit(site, opened, local, turn)
        copy = weights_of(opened)
        up, left = rounded(weights_of(contribution.message), copy, lost)
        kept = {COPY + k: t for k, t in copy.items()} | {LOST + k: t for k, t in (lost | left).items()}
        site.memory = site.memory | kept
        return dataclasses.replace(contribution, message=replaced(contribution.message, Weights, lambda _: up))

    def merge(self, state: Followed, contributions: Iterable[Contribution[Any]]) -> Followed:
        arriving = _Opened(contributions, weights_of(state.algorithm))
        merged = self._inner.merge(state.algorithm, arriving)
        # What the last round's news left out is lacking still: the copy is behind the weights by that much more.
        news, _ = rounded(weights_of(merged), state.copy.tensors, {})
        return Followed(merged, Weights(caught_up(state.copy.tensors, news)), news, arriving.followers)

    @property
    def _inner(self) -> Algorithm:
        return self.algorithm or FedAvg()


@dataclass
class _Opened:
    """Contributions as the wrapped algorithm knows them: the server's weights with what each site has learned."""

    contributions: Iterable[Contribution[Any]]
    weights: Tensors
    followers: Tensors = field(default_factory=dict)

    def __iter__(self) -> Iterator[Contribution[Any]]:
        for c in self.contributions:
            self.followers[c.site] = torch.ones(1, dtype=torch.bool)
            opened = replaced(c.message, Rounded, lambda up: Weights(caught_up(self.weights, up)))
            yield dataclasses.replace(c, message=opened)


def rounded(tensors: Tensors, copy: Tensors, lost: Tensors) -> tuple[Rounded, Tensors]:
    """What the holder of `copy` is sent to come to `tensors` with what was `lost` before, and what that leaves out.

    Raises:
        Refused: A difference is not finite.
    """
    levels, steps, left = {}, {}, {}
    for name, t in tensors.items():
        if t.dim() < 2 or t.dtype != torch.float32:
            continue
        lacking = t - copy[name] + lost.get(name, 0.0)
        if not lacking.isfinite().all():
            raise Refused(f"{name} is not finite and cannot be rounded; a lower learning rate may help")
        levels[name], steps[name] = to_int8(lacking)
        left[name] = lacking - from_int8(levels[name], steps[name])
    return Rounded(levels, steps, {k: t.clone() for k, t in tensors.items() if k not in levels}), left


def caught_up(copy: Tensors, news: Rounded) -> Tensors:
    """The tensors of `news`, as far as the holder of `copy` can know them."""
    moved = {k: copy[k] + from_int8(t, news.steps[k]) for k, t in news.levels.items()}
    return moved | {k: t.clone() for k, t in news.whole.items()}  # a file takes no two names for one memory


def _under(prefix: str, memory: Tensors) -> dict[str, Tensor]:
    return {k.removeprefix(prefix): t for k, t in memory.items() if k.startswith(prefix)}
