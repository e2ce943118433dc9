"""DeepInversion: images inverted from a trained classifier (Yin et al. 2020, CVPR, arXiv 1912.08795).

Images start as noise and are optimised until the classifier predicts a given label and each of its batch norms
measures the mean and variance of its training. So the images resemble the training images as far as these statistics
describe them; without batch norm, the result is noise that the classifier assigns to the label.

Our reading of paper and code:

- Several classifiers are one by the mean of their logits, and their batch-norm distances are averaged, not summed as in
  FedISCA's code: so an ensemble of one equals that one, equal members do not change it, and no weight changes with the
  number of sites.
- Terms of single images are means over images, as cross entropy is. The code's norms over the whole batch grow with
  its root: its weight of the total variation is times root(n) here.
- Neighbours are those of a pixel's 3^d box, in 2D the code's four directions, in 3D thirteen.
- The code's divergence of the competition is KL(m || p), the paper's Jensen-Shannon KL(p || m): ours is the paper's.
- Images are coarse to fine: tanh of the sum of upsampled codes. Both papers optimise the pixels themselves, which gives
  images of pixel noise that the inverted classifiers still accept: on brain MRI (3 sites, ResNet-10 with stem 16,
  32 x 32, 150 steps, one batch of 64 per site) a held-out classifier classified 0.70 of such images correctly, 0.77 of
  coarse ones (with stem 8 and 100 steps 0.68 and 0.70, docs/results.md); the mean square of neighbours' differences,
  over twice the variance, was 0.65 and 0.10, of real images 0.15.
- Pixels that are optimised themselves stay within [-1, 1]. Images are not flipped: left and right differ in patients.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, interpolate
from torch.nn.modules.batchnorm import _BatchNorm

from fedgen.oneshot.ensemble import Ensemble


@dataclass(frozen=True)
class Inversion:
    """Optimisation of the images.

    Defaults are those of FedISCA's code (Kang et al. 2023), which is for medical images in [-1, 1], except the weight
    of the batch-norm distance; DeepInversion's values for natural images of 224 pixels are in brackets.
    """

    steps: int = 500
    """Of Adam, >= 1 [2000]."""
    lr: float = 0.05
    """Of Adam, > 0 [0.2, with a cosine schedule]."""
    tv: float = 4e-4
    """Weight of the total variation, >= 0: 2.5e-5 times root(256), the batch it is for [8e-4]."""
    l2: float = 0.0
    """Weight of an image's length, >= 0 [1e-5]."""
    batch_norm: float = 0.1
    """Weight of the batch-norm distance, >= 0 [0.05]. Chosen by the accuracy of a held-out classifier: on brain MRI as
    above 0.78 at 0.03, 0.77 at 0.1, 0.51 at 1 and 0.32 at FedISCA's 10, which outweighs the labels: even real images
    have a distance of 59 for these classifiers, against a cross entropy of one or two."""
    first_batch_norm: float = 1.0
    """Weight of the first batch norm relative to each other one, >= 0 [10]."""
    competition: float = 0.0
    """Weight of the competition with a student, >= 0: images on which student and ensemble differ (Adaptive
    DeepInversion) [0, and 10 with a student]."""
    jitter: int = 2
    """Pixels by which images are rolled at a step, at most; >= 0 [30]."""
    scales: int = 2
    """Codes that an image is the sum of, >= 0: with 2, one of half and one of a quarter of its resolution, upsampled,
    then tanh. More are coarser still; 0 optimises the pixels themselves [0, as FedISCA]."""
    hold_out: bool = True
    """Hold out one of several classifiers, another one for every batch, to measure its accuracy on the images
    (`fedgen.oneshot.teacher_accuracy`). False: all are inverted, as in FedISCA, and no accuracy is measured."""

    def __post_init__(self) -> None:
        weights = (self.tv, self.l2, self.batch_norm, self.first_batch_norm, self.competition)
        if self.steps < 1 or not self.lr > 0 or not all(v >= 0 for v in (*weights, self.jitter, self.scales)):
            raise ValueError(f"steps must be at least 1, lr positive and all else at least 0, got {self}")

    def trajectory(
        self, ensemble: Ensemble, noise: Float[Tensor, "n c *space"], labels: Int[Tensor, " n"], seed: Any,
        student: nn.Module | None = None,
    ) -> Iterator[Float[Tensor, "n c *space"]]:  # fmt: skip
        """Yields the images after each step of the optimisation; sets a student to evaluation mode and leaves it there.

        The noise is that of pixels; codes start as its means over blocks, scaled to a variance of 1.

        Images of a batch depend on each other by batch norm and by the rolling, whose `seed` is any that NumPy takes:
        an image is a function of its noise and its batch. On a CPU equal batches give equal images.
        """
        random, codes = np.random.default_rng(seed), [code.requires_grad_() for code in codes_of(noise, self.scales)]
        optimizer = torch.optim.Adam(codes, lr=self.lr)
        for _ in range(self.steps):
            shift = random.integers(-self.jitter, self.jitter, noise.dim() - 2, endpoint=True)
            rolled = self._images(codes, noise).roll(shift.tolist(), list(range(2, noise.dim())))
            gradients = torch.autograd.grad(self.loss(ensemble, rolled, labels, student), codes)
            for code, gradient in zip(codes, gradients, strict=True):
                code.grad = gradient
            optimizer.step()
            with torch.no_grad():
                images = self._images(codes, noise).clone()
                if not self.scales:
                    codes[0].copy_(images.clamp_(-1, 1))
            yield images

    def _images(self, codes: list[Tensor], noise: Tensor) -> Tensor:
        return images_of(codes, noise.shape[2:]) if self.scales else codes[0]

    def loss(
        self, ensemble: Ensemble, images: Float[Tensor, "n c *space"], labels: Int[Tensor, " n"],
        student: nn.Module | None = None,
    ) -> Float[Tensor, ""]:  # fmt: skip
        logits, distance = logits_and_batch_norm_distance(ensemble, images, self.first_batch_norm)
        loss = cross_entropy(logits, labels) + self.batch_norm * distance
        loss = loss + self.tv * total_variation(images) + self.l2 * images.flatten(1).norm(dim=1).mean()
        if student is not None and self.competition:
            loss = loss + self.competition * (1 - jensen_shannon(logits, student.eval()(images)))
        return loss


def codes_of(noise: Float[Tensor, "n c *space"], scales: int) -> list[Tensor]:
    """Noise (n, c, *coarse) of 1/2, 1/4 ... of the resolution, as many as `scales`; with 0, the noise itself."""
    space = noise.shape[2:]
    sides = [2**at for at in range(1, scales + 1)]
    coarse = [
        interpolate(noise, [math.ceil(n / side) for n in space], mode="area") * side ** (len(space) / 2)
        for side in sides
    ]
    return coarse or [noise.clone()]


def images_of(codes: Sequence[Tensor], size: Sequence[int]) -> Float[Tensor, "n c *space"]:
    """Images in [-1, 1]: tanh of the sum of codes (n, c, *coarse) of any resolutions, each upsampled linearly."""
    mode = ("linear", "bilinear", "trilinear")[len(size) - 1]
    return torch.stack([interpolate(code, list(size), mode=mode) for code in codes]).sum(0).tanh()


def logits_and_batch_norm_distance(
    ensemble: Ensemble, images: Float[Tensor, "n c *space"], first_batch_norm: float = 1.0
) -> tuple[Float[Tensor, "n k"], Float[Tensor, ""]]:
    """The logits of the ensemble, and the distance of its batch norms' inputs from their running statistics.

    The distance of mean and variance over batch and space from the running ones, summed over the batch norms of a
    member (the first one weighted by `first_batch_norm`), mean over members; 0 without any batch norm.
    """
    distances: list[Tensor] = []
    with _recorded_distances(ensemble, distances):
        counts, logits = [], []
        for member in ensemble.members:
            logits.append(member(images))
            counts.append(len(distances))
    total = images.new_zeros(())
    for begin, end in zip([0, *counts], counts, strict=False):
        own = distances[begin:end]
        total = total + sum(own[1:], first_batch_norm * own[0] if own else images.new_zeros(()))
    return torch.stack(logits).mean(0), total / len(counts)


@contextmanager
def _recorded_distances(network: nn.Module, distances: list[Tensor]) -> Iterator[None]:
    """Each batch norm of a forward pass appends the distance of its input from its running statistics."""

    def record(layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        assert isinstance(layer, _BatchNorm)
        assert layer.running_mean is not None
        assert layer.running_var is not None
        values = inputs[0].transpose(0, 1).flatten(1)
        mean, var = values.mean(1), values.var(1, unbiased=False)
        distances.append((mean - layer.running_mean).norm() + (var - layer.running_var).norm())

    layers = [part for part in network.modules() if isinstance(part, _BatchNorm) and part.running_mean is not None]
    hooks = [layer.register_forward_pre_hook(record) for layer in layers]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def has_running_statistics(network: nn.Module) -> bool:
    """Whether it has batch norms with running statistics."""
    return any(isinstance(part, _BatchNorm) and part.running_mean is not None for part in network.modules())


def total_variation(images: Float[Tensor, "n c *space"]) -> Float[Tensor, ""]:
    """L2 norms of the differences to neighbours, summed over directions; mean over images."""
    space, total = images.shape[2:], images.new_zeros(())
    for step in product((-1, 0, 1), repeat=len(space)):
        if step > (0,) * len(space):  # of a direction and its opposite, one
            here = [slice(max(0, -s), n - max(0, s)) for s, n in zip(step, space, strict=True)]
            there = [slice(max(0, s), n - max(0, -s)) for s, n in zip(step, space, strict=True)]
            total = total + (images[:, :, *there] - images[:, :, *here]).flatten(1).norm(dim=1).mean()
    return total


def jensen_shannon(
    one: Float[Tensor, "n k"], other: Float[Tensor, "n k"], temperature: float = 3.0
) -> Float[Tensor, ""]:
    """Jensen-Shannon divergence of the softened logits of two classifiers, in [0, log 2], 0 where they agree; mean over
    images. The temperature is the code's.
    """
    p, q = (torch.softmax(logits / temperature, 1) for logits in (one, other))
    m = (p + q) / 2
    tiny = torch.finfo(p.dtype).tiny  # a class of probability 0 has the divergence 0 log 0 = 0
    terms = [part * (part.clamp_min(tiny).log() - m.clamp_min(tiny).log()) for part in (p, q)]
    return torch.stack(terms).sum((0, 2)).mean() / 2
