"""Losses of classifiers: cross entropy for one class per image, binary cross entropy for several findings per image.

Both can weight classes. Each site computes the weights from its own images, so no additional data is sent. With
`class_balance` 1 a site minimises the mean over its classes of the mean loss of a class; the federation minimises the
mean of these over sites, weighted by numbers of images. Where class frequencies differ between sites, this is not the
balanced loss of all images together: that would need the class counts of every site. A class that is rare at one site
has the weight of any other class there, which is what the balanced accuracy of that site measures.
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
    """A loss of logits and targets. A visit calls `class_weights` once and `mean_loss` at each step.

    Types have no shapes: jsonargparse accepts a class for a protocol only where the types of both are literally equal.
    """

    def targets(self) -> Target:
        """The targets that the loss compares with."""

    def class_weights(self, images: Images, num_classes: int) -> Tensor:
        """Weights of the classes at a site, with mean 1 over its images, so that step lengths stay the same."""

    def mean_loss(self, logits: Tensor, truth: Tensor, weights: Tensor) -> Tensor:
        """The mean over the batch of the weighted losses of logits (n, k).

        It is not divided by the sum of weights, so that its expectation over random batches is the mean loss of the
        site.
        """


@dataclass(frozen=True)
class CrossEntropy:
    """Cross entropy, for one class per image."""

    class_balance: float = 0.0
    """In [0, 1]: a class of frequency p has the weight p^-class_balance. 1: all classes of a site have equal weight,
    and single images of a rare class make large steps; 0.5: the usual compromise; 0: all images have equal weight."""
    label_smoothing: float = 0.0
    """In [0, 1): part of the target that is spread over all classes (Szegedy et al. 2015, arXiv 1512.00567)."""

    def __post_init__(self) -> None:
        _require(self.class_balance, self.label_smoothing)

    def targets(self) -> Target:
        return "labels"

    def class_weights(self, images: Images, num_classes: int) -> Tensor:
        """(k,); 0 for a class without images."""
        frequencies = class_frequencies(images, lambda part: one_hot(part.labels, num_classes).double().mean(0))
        return balanced_weights(frequencies, self.class_balance)

    def mean_loss(self, logits: Tensor, truth: Tensor, weights: Tensor) -> Tensor:
        """`truth` is (n,)."""
        losses = cross_entropy(logits, truth, reduction="none", label_smoothing=self.label_smoothing)
        return (weights[truth] * losses).mean()


@dataclass(frozen=True)
class BinaryCrossEntropy:
    """Binary cross entropy of each finding, for several findings per image or none (`fedcore.data.findings`)."""

    class_balance: float = 0.0
    """As in CrossEntropy, for the images with and without each finding. Rare findings need some balance; the
    probabilities then no longer estimate the frequency of the finding, and calibration gets worse."""
    label_smoothing: float = 0.0
    """In [0, 1): part of the target that is replaced by 0.5."""

    def __post_init__(self) -> None:
        _require(self.class_balance, self.label_smoothing)

    def targets(self) -> Target:
        return "findings"

    def class_weights(self, images: Images, num_classes: int) -> Tensor:
        """(k, 2): the weights of absence and presence of each finding."""
        present = class_frequencies(images, lambda part: _findings(part).double().mean(0))
        return balanced_weights(torch.stack([1 - present, present], 1), self.class_balance)

    def mean_loss(self, logits: Tensor, truth: Tensor, weights: Tensor) -> Tensor:
        """`truth` is (n, k) of 0 and 1."""
        target = truth * (1 - self.label_smoothing) + self.label_smoothing / 2
        losses = binary_cross_entropy_with_logits(logits, target.to(logits.dtype), reduction="none")
        return (torch.where(truth > 0, weights[:, 1], weights[:, 0]) * losses).mean()


def class_frequencies(images: Images, frequencies: Callable[[Images], Float[Tensor, "*k"]]) -> Float[Tensor, "*k"]:
    """Frequency of each class in training batches, companions (synthetic images) included.

    Batches contain companions, and the weight of a class that only they have must not be 0.
    """
    own, added = frequencies(images), images.added
    if added is None:
        return own
    return (1 - added.fraction) * own + added.fraction * frequencies(added.images)


def balanced_weights(frequencies: Float[Tensor, "*some k"], balance: float) -> Float[Tensor, "*some k"]:
    """frequency^-balance, scaled to mean 1 over the images; 0 where the frequency is 0."""
    present = frequencies > 0
    raw = torch.where(present, frequencies.clamp_min(torch.finfo(frequencies.dtype).tiny) ** -balance, 0.0)
    return (raw / (raw * frequencies).sum(-1, keepdim=True)).float()


def _findings(images: Images) -> Tensor:
    if images.findings is None:
        raise ValueError(f"site '{images.site}' has no findings")
    return images.findings


def _require(class_balance: float, label_smoothing: float) -> None:
    if not (0 <= class_balance <= 1 and 0 <= label_smoothing < 1):
        raise ValueError(
            f"class_balance must lie in [0, 1] and label_smoothing in [0, 1), got {class_balance} and {label_smoothing}"
        )
