"""Distillation of several classifiers into one student, with synthetic images.

FedISCA (Kang et al. 2023, MICCAI, "One-shot federated learning on medical data using knowledge distillation with image
synthesis and client model adaptation"): sites send their classifiers once, and the student trains on all images on the
way from noise to the inverted images. MediSecFed (Kumar et al. 2021, "MediSecFed: private and secure medical image
classification in the presence of malicious clients"): sites send images that they inverted from their own classifiers,
with the classifiers' predictions. Of FedISCA we follow the authors' code; of MediSecFed we know the abstract alone, so
the rest is our reading.
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

TeacherBatch = tuple[Tensor, Tensor]
"""Images (n, c, *space) and their soft targets (n, k)."""
Network = TypeVar("Network", bound=nn.Module)


@dataclass(frozen=True)
class Distillation:
    """How the student is trained; defaults are those of FedISCA's code."""

    epochs: int = 100
    """Trajectories from noise to images, or passes over a set; >= 1."""
    temperature: float = 20.0
    """Logits are divided by it, > 0: the higher, the more improbable classes count."""
    lr: float = 0.001
    """Of SGD, > 0, with momentum 0.9 and weight decay 5e-4; a tenth of it after half of the epochs, a hundredth after
    three quarters."""

    def __post_init__(self) -> None:
        if self.epochs < 1 or not self.temperature > 0 or not self.lr > 0:
            raise ValueError(f"epochs must be at least 1, temperature and lr positive, got {self}")

    def optimizer(self, student: nn.Module) -> SGD:
        return SGD(student.parameters(), lr=self.lr, momentum=0.9, weight_decay=5e-4)

    def train_epoch(self, student: nn.Module, optimizer: SGD, batches: Iterable[TeacherBatch], epoch: int) -> float:
        """Trains the student on the batches of an epoch, counted from 0, and returns their mean loss."""
        for group in optimizer.param_groups:
            group["lr"] = self.lr * 0.1 ** ((2 * epoch >= self.epochs) + (4 * epoch >= 3 * self.epochs))
        losses = []
        for images, targets in batches:
            loss = distillation_loss(targets, student.train()(images), self.temperature)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        return sum(losses) / max(1, len(losses))


def soft_targets(logits: Float[Tensor, "n k"], temperature: float) -> Float[Tensor, "n k"]:
    return torch.softmax(logits / temperature, 1)


def distillation_loss(
    targets: Float[Tensor, "n k"], logits: Float[Tensor, "n k"], temperature: float
) -> Float[Tensor, ""]:
    """T^2 KL(soft targets || softened student), mean over images (Hinton et al. 2015, arXiv 1503.02531).

    The square keeps gradients as large as they are at T = 1.
    """
    return temperature**2 * kl_div((logits / temperature).log_softmax(1), targets, reduction="batchmean")


def trajectory_batches(
    trajectory: Iterable[Float[Tensor, "n c *space"]], steps: int, ensemble: Ensemble, temperature: float
) -> Iterator[TeacherBatch]:
    """FedISCA: the images of all steps from noise on. The soft targets of the first steps come from the noise-adapted
    classifiers, those of the last steps from the classifiers themselves.

    The loss of the paper is alpha KL(p || s) + (1 - alpha) KL(p' || s) with alpha rising from 0 to 1; its gradient is
    that of KL(alpha p + (1 - alpha) p' || s), and that mixture is used here. The code first computes the whole
    trajectory and then trains; the trajectory does not depend on the student, so alternating steps give the same
    result and need no memory for images.
    """
    adapted = noise_adapted(ensemble)
    for step, images in enumerate(trajectory):
        alpha = step / steps
        with torch.no_grad():
            clean, noisy = (soft_targets(network(images), temperature) for network in (ensemble, adapted))
        yield images, alpha * clean + (1 - alpha) * noisy


def noise_adapted(network: Network) -> Network:
    """A copy whose batch norms use mean and variance of the current batch: FedISCA's client model adaptation.

    The code passes all images through a copy in training mode to update its running statistics, and leaves it in that
    mode, in which they have no effect. So this copy gives the same logits without those passes; dropout stays off.
    """
    adapted = copy.deepcopy(network)
    for layer in adapted.modules():
        if isinstance(layer, _BatchNorm):
            layer.running_mean = layer.running_var = None
    return adapted


def shuffled_batches(
    images: Float[Tensor, "n c *space"], targets: Float[Tensor, "n k"], batch_size: int, seed: tuple[int, int]
) -> Iterator[TeacherBatch]:
    """Batches of a set in random order; a last batch of one image is skipped, since batch norm cannot train on it."""
    order = torch.from_numpy(np.random.default_rng(seed).permutation(len(images)))
    for at in order.split(batch_size):
        if len(at) > 1:
            yield images[at], targets[at]
