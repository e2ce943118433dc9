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
from fedgen.diffusion.sampler import noise_of
from fedgen.oneshot.distillation import Lesson, along, shuffled, softened
from fedgen.oneshot.ensemble import Ensemble, Panel, Tuned, answers
from fedgen.oneshot.inversion import Inversion
from fedgen.oneshot.teacher_accuracy import Recognition
from fedgen.synthetic.synthetic_set import SyntheticSet


@runtime_checkable
class Course(Protocol):
    def lessons(self, epoch: int) -> Iterator[Lesson]:
        """Of an epoch, the first is 0."""

    def recognition(self, epoch: int, last: Float[Tensor, "n c *space"]) -> Recognition:
        """How a classifier that had no part in them takes the images of an epoch's last lesson, where there is one."""


@dataclass(frozen=True)
class Walks:
    """Each epoch begins with new noise, and the next panel makes images of it. All classifiers answer."""

    ensemble: Ensemble
    panels: tuple[Panel, ...]
    student: nn.Module
    """Whom images compete with."""
    inversion: Inversion
    temperature: float
    shape: tuple[int, ...]
    """Of an image."""
    labels: Int[Tensor, " n"]
    """What the images of an epoch become."""
    classes: int
    seed: int

    @classmethod
    def of(
        cls, tuned: Tuned, student: nn.Module, inversion: Inversion, temperature: float, batch_size: int, seed: int
    ) -> Walks:
        """With classes in turn, where the student is."""
        device, classes = next(student.parameters()).device, len(tuned.known.classes)
        labels = torch.arange(batch_size, device=device) % classes
        panels = [panel.to(device) for panel in tuned.panels(False, inversion.hold_out).values()]
        everyone = Ensemble(tuned.networks.values()).to(device)
        shape = tuned.canvas.shape
        return cls(everyone, tuple(panels), student, inversion, temperature, shape, labels, classes, seed)

    def lessons(self, epoch: int) -> Iterator[Lesson]:
        numbers = range(epoch * len(self.labels), (epoch + 1) * len(self.labels))
        noise = noise_of(self.seed, numbers, self.shape).to(self.labels.device)
        walk = self.inversion.walk(self._panel(epoch).makers, noise, self.labels, (self.seed, epoch), self.student)
        return along(walk, self.inversion.steps, self.ensemble, self.temperature)

    def recognition(self, epoch: int, last: Float[Tensor, "n c *space"]) -> Recognition:
        judges = self._panel(epoch).judges
        return Recognition.of(judges(last), self.labels) if judges else Recognition.none(self.classes)

    def _panel(self, epoch: int) -> Panel:
        return self.panels[epoch % len(self.panels)]


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
        cls, tuned: Tuned, drawn: SyntheticSet, temperature: float, batch_size: int, seed: int, device: torch.device
    ) -> Passes:
        """An image is answered by the site that it imitates where that has a classifier of its own, else by all.

        Raises:
            InputError: The images are of another size than the classifiers'.
        """
        images = drawn.pixels().float()
        if images.shape[1:] != tuned.canvas.shape:
            found, wanted = (" x ".join(map(str, shape)) for shape in (images.shape[1:], tuned.canvas.shape))
            raise InputError(f"the classifiers take images of {wanted} (channels first), {drawn.folder} holds {found}")
        own = [image.site_style if image.site_style in tuned.networks else None for image in drawn.images]
        soft = softened(answers(tuned.teachers(own), own, images, batch_size), temperature)
        return cls(images.to(device), soft.to(device), batch_size, seed)

    def lessons(self, epoch: int) -> Iterator[Lesson]:
        return shuffled(self.images, self.soft, self.batch_size, (self.seed, epoch))

    def recognition(self, epoch: int, last: Float[Tensor, "n c *space"]) -> Recognition:
        return Recognition.none(self.soft.shape[1])
