"""What a student is taught, epoch by epoch: walks from noise to inverted images (FedISCA), or passes over a set of
images (MediSecFed). Either is a function of the epoch, so that it can be gone on with."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from fedcore.errors import InputError
from fedgen.distil import Lesson, along, shuffled, softened
from fedgen.drawn import DrawnSet
from fedgen.ensemble import Ensemble, Tuned, answers
from fedgen.inversion import Inversion
from fedgen.recognition import Recognition
from fedgen.sampling import noise_of


@runtime_checkable
class Course(Protocol):
    def lessons(self, epoch: int) -> Iterator[Lesson]:
        """Of an epoch, the first is 0."""

    def recognition(self, last: Float[Tensor, "n c *space"]) -> Recognition:
        """How the teachers take the images of an epoch's last lesson, where they made them."""


@dataclass(frozen=True)
class Walks:
    """Each epoch begins with new noise."""

    ensemble: Ensemble
    student: nn.Module
    """Whom images compete with."""
    inversion: Inversion
    temperature: float
    shape: tuple[int, ...]
    """Of an image."""
    labels: Int[Tensor, " n"]
    """What the images of an epoch become."""
    seed: int

    @classmethod
    def of(
        cls, tuned: Tuned, student: nn.Module, inversion: Inversion, temperature: float, batch_size: int, seed: int
    ) -> Walks:
        """With classes in turn, where the student is."""
        device = next(student.parameters()).device
        labels = torch.arange(batch_size, device=device) % len(tuned.known.classes)
        return cls(tuned.together().to(device), student, inversion, temperature, tuned.canvas.shape, labels, seed)

    def lessons(self, epoch: int) -> Iterator[Lesson]:
        numbers = range(epoch * len(self.labels), (epoch + 1) * len(self.labels))
        noise = noise_of(self.seed, numbers, self.shape).to(self.labels.device)
        walk = self.inversion.walk(self.ensemble, noise, self.labels, (self.seed, epoch), self.student)
        return along(walk, self.inversion.steps, self.ensemble, self.temperature)

    def recognition(self, last: Float[Tensor, "n c *space"]) -> Recognition:
        return Recognition.of(self.ensemble(last), self.labels)


@dataclass(frozen=True)
class Passes:
    """Each epoch takes every image once, in a new order."""

    images: Float[Tensor, "n c *space"]
    soft: Float[Tensor, "n k"]
    """What was said of them."""
    batch_size: int
    seed: int

    @classmethod
    def of(
        cls, tuned: Tuned, drawn: DrawnSet, temperature: float, batch_size: int, seed: int, device: torch.device
    ) -> Passes:
        """An image is answered by the site that it imitates where that has a classifier of its own, else by all.

        Raises:
            InputError: The images are of another size than the classifiers'.
        """
        images = drawn.pixels().float()
        if images.shape[1:] != tuned.canvas.shape:
            found, wanted = (" x ".join(map(str, shape)) for shape in (images.shape[1:], tuned.canvas.shape))
            raise InputError(f"the classifiers take images of {wanted} (channels first), {drawn.folder} holds {found}")
        own = [image.imitates if image.imitates in tuned.networks else None for image in drawn.images]
        soft = softened(answers(tuned.teachers(own), own, images, batch_size), temperature)
        return cls(images.to(device), soft.to(device), batch_size, seed)

    def lessons(self, epoch: int) -> Iterator[Lesson]:
        return shuffled(self.images, self.soft, self.batch_size, (self.seed, epoch))

    def recognition(self, last: Float[Tensor, "n c *space"]) -> Recognition:
        return Recognition.none(self.soft.shape[1])
