"""The knowledge of several classifiers into one, by what they say of images that nobody has scanned.

FedISCA (Kang et al. 2023, MICCAI, "One-shot federated learning on medical data using knowledge distillation with image
synthesis and client model adaptation"): sites send their classifiers once, and a student learns all along the way from
noise to inverted images. MediSecFed (Kumar et al. 2021, "MediSecFed: private and secure medical image classification
in the presence of malicious clients"): sites send images that they inverted from their own classifiers, and what these
say of them. Of FedISCA we follow the authors' code; of MediSecFed we know the abstract, so what stands here of it is
our reading.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import kl_div
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim import SGD

from fedgen.oneshot.ensemble import Ensemble

Lesson = tuple[Tensor, Tensor]
"""Images (n, c, *space), and what is to be learned of them: softened probabilities (n, k)."""
Network = TypeVar("Network", bound=nn.Module)


@dataclass(frozen=True)
class Distillation:
    """How a student learns; the values are those of FedISCA's code."""

    epochs: int = 100
    """Walks from noise to images, or passes over a set; >= 1."""
    temperature: float = 20.0
    """What logits are divided by, > 0: the higher, the more what is unlikely counts."""
    lr: float = 0.001
    """SGD's, > 0, with momentum 0.9 and weight decay 5e-4; a tenth from half of the epochs on, and again from three
    quarters."""

    def __post_init__(self) -> None:
        if self.epochs < 1 or not self.temperature > 0 or not self.lr > 0:
            raise ValueError(f"epochs must be at least 1, temperature and lr positive, got {self}")

    def optimizer(self, student: nn.Module) -> SGD:
        return SGD(student.parameters(), lr=self.lr, momentum=0.9, weight_decay=5e-4)

    def teach(self, student: nn.Module, optimizer: SGD, lessons: Iterable[Lesson], epoch: int) -> float:
        """Trains the student on the lessons of an epoch, the first is 0, and returns their mean loss."""
        for group in optimizer.param_groups:
            group["lr"] = self.lr * 0.1 ** ((2 * epoch >= self.epochs) + (4 * epoch >= 3 * self.epochs))
        losses = []
        for images, soft in lessons:
            loss = distance(soft, student.train()(images), self.temperature)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        return sum(losses) / max(1, len(losses))


def softened(logits: Float[Tensor, "n k"], temperature: float) -> Float[Tensor, "n k"]:
    return torch.softmax(logits / temperature, 1)


def distance(soft: Float[Tensor, "n k"], logits: Float[Tensor, "n k"], temperature: float) -> Float[Tensor, ""]:
    """T^2 KL(soft || softened student), mean over images (Hinton et al. 2015, arXiv 1503.02531).

    The square keeps gradients as large as they are at T = 1.
    """
    return temperature**2 * kl_div((logits / temperature).log_softmax(1), soft, reduction="batchmean")


def along(
    walk: Iterable[Float[Tensor, "n c *space"]], steps: int, ensemble: Ensemble, temperature: float
) -> Iterator[Lesson]:
    """FedISCA: all images on the way from noise teach, first as the noise-adapted classifiers see them, then as the
    classifiers themselves do.

    The loss of the paper is alpha KL(p || s) + (1 - alpha) KL(p' || s) with alpha rising from 0 to 1; its gradient is
    that of KL(alpha p + (1 - alpha) p' || s), and that mixture is what is given here. The code first walks all the way
    and then teaches; the walk knows nothing of the student, so a step of each in turn is the same and holds no images.
    """
    noisy = noise_adapted(ensemble)
    for at, images in enumerate(walk):
        alpha = at / steps
        with torch.no_grad():
            sure, adapted = (softened(network(images), temperature) for network in (ensemble, noisy))
        yield images, alpha * sure + (1 - alpha) * adapted


def noise_adapted(network: Network) -> Network:
    """A copy whose batch norms take mean and variance of the batch at hand: client model adaptation.

    The code passes all images through a copy in training mode to move its running statistics, and leaves it in that
    mode, in which they have no influence. So this answers the same without those passes; dropout stays off.
    """
    adapted = copy.deepcopy(network)
    for layer in adapted.modules():
        if isinstance(layer, _BatchNorm):
            layer.running_mean = layer.running_var = None
    return adapted


def shuffled(
    images: Float[Tensor, "n c *space"], soft: Float[Tensor, "n k"], batch_size: int, seed: tuple[int, int]
) -> Iterator[Lesson]:
    """Batches of a set in a new order; one image left over is left out, since batch norm cannot use it."""
    order = torch.from_numpy(np.random.default_rng(seed).permutation(len(images)))
    for at in order.split(batch_size):
        if len(at) > 1:
            yield images[at], soft[at]
