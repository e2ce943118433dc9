"""What a classifier learns by: cross entropy over classes, or over findings of which an image may have several.

Both can weigh classes. The weights are made at each site from its own images, so nothing more leaves it: at full
balance a site minimises the mean over its classes of the mean loss of a class, and the federation the sum of these
by images. Where sites have classes in other shares that is not the balanced loss of all images together, whose
weights would take a count of every class from every site; but a class that is rare at one site weighs there as much as
any other, which is what a site's own balanced accuracy asks for.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy, one_hot

from fedcore.data.dataset import Images, Target


@runtime_checkable
class Loss(Protocol):
    """How answers are compared with what is true; `weights` is asked once a visit, `mean` at each step.

    Types have no shapes: a recipe's class is taken for a protocol where the types of both are the same to the letter.
    """

    def targets(self) -> Target:
        """What it takes beside the pixels."""

    def weights(self, images: Images, classes: int) -> Tensor:
        """Of the classes at a site; its images weigh 1 on average, so that steps stay as long as without."""

    def mean(self, logits: Tensor, truth: Tensor, weights: Tensor) -> Tensor:
        """Of logits (n, k), over the batch and not over its weights: batches drawn at random then have the site's own
        mean loss."""


@dataclass(frozen=True)
class CrossEntropy:
    """An image is of one class."""

    balance: float = 0.0
    """In [0, 1]: a class that comes with frequency p weighs as p^-balance. 1: all classes of a site weigh the same, at
    the price of large steps for single images of a rare one; 0.5 is the usual middle; 0: all images weigh the same."""
    smoothing: float = 0.0
    """In [0, 1): part of the truth that is spread over all classes (Szegedy et al. 2015, arXiv 1512.00567)."""

    def __post_init__(self) -> None:
        _require(self.balance, self.smoothing)

    def targets(self) -> Target:
        return "labels"

    def weights(self, images: Images, classes: int) -> Tensor:
        """(k,); of a class that does not come: 0."""
        return weights_of(shares(images, lambda some: one_hot(some.labels, classes).double().mean(0)), self.balance)

    def mean(self, logits: Tensor, truth: Tensor, weights: Tensor) -> Tensor:
        """`truth` is (n,)."""
        losses = cross_entropy(logits, truth, reduction="none", label_smoothing=self.smoothing)
        return (weights[truth] * losses).mean()


@dataclass(frozen=True)
class BinaryCrossEntropy:
    """An image may have several findings, or none; each is learned by itself (`fedcore.data.findings`)."""

    balance: float = 0.0
    """As of CrossEntropy, for the images with and without each finding. Rare findings want some of it; the
    probabilities are then no longer those of the finding, and calibration suffers."""
    smoothing: float = 0.0
    """In [0, 1): part of the truth that is even odds."""

    def __post_init__(self) -> None:
        _require(self.balance, self.smoothing)

    def targets(self) -> Target:
        return "findings"

    def weights(self, images: Images, classes: int) -> Tensor:
        """(k, 2): of a finding's absence and presence."""
        present = shares(images, lambda some: _known(some).double().mean(0))
        return weights_of(torch.stack([1 - present, present], 1), self.balance)

    def mean(self, logits: Tensor, truth: Tensor, weights: Tensor) -> Tensor:
        """`truth` is (n, k) of 0 and 1."""
        target = truth * (1 - self.smoothing) + self.smoothing / 2
        losses = binary_cross_entropy_with_logits(logits, target.to(logits.dtype), reduction="none")
        return (torch.where(truth > 0, weights[:, 1], weights[:, 0]) * losses).mean()


def shares(images: Images, share_of: Callable[[Images], Float[Tensor, "*k"]]) -> Float[Tensor, "*k"]:
    """How often each class comes in batches of training, companions included: they are learned from too, and a class
    that only they have must not weigh nothing."""
    own, company = share_of(images), images.added
    return own if company is None else (1 - company.fraction) * own + company.fraction * share_of(company.images)


def weights_of(shares: Float[Tensor, "*some k"], balance: float) -> Float[Tensor, "*some k"]:
    """share^-balance, scaled to mean 1 over the images; 0 where the share is 0."""
    present = shares > 0
    raw = torch.where(present, shares.clamp_min(torch.finfo(shares.dtype).tiny) ** -balance, 0.0)
    return (raw / (raw * shares).sum(-1, keepdim=True)).float()


def _known(images: Images) -> Tensor:
    if images.findings is None:
        raise ValueError(f"site '{images.site}' has no findings")
    return images.findings


def _require(balance: float, smoothing: float) -> None:
    if not (0 <= balance <= 1 and 0 <= smoothing < 1):
        raise ValueError(f"balance must lie in [0, 1] and smoothing in [0, 1), got {balance} and {smoothing}")
