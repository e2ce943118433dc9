"""Training data of a student, epoch by epoch: trajectories from noise to inverted images (FedISCA), or passes over a
set of images (MediSecFed). Both are functions of the epoch, so that training can resume at any epoch."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from fedcore.errors import InputError
from fedgen.diffusion.sampler import noise_of
from fedgen.oneshot.distillation import TeacherBatch, shuffled_batches, soft_targets, trajectory_batches
from fedgen.oneshot.ensemble import Ensemble, TeacherSplit, TrainedClassifiers, teacher_logits
from fedgen.oneshot.inversion import Inversion
from fedgen.oneshot.teacher_accuracy import TeacherAccuracy
from fedgen.synthetic.synthetic_set import SyntheticSet


@runtime_checkable
class TeacherData(Protocol):
    def batches(self, epoch: int) -> Iterator[TeacherBatch]:
        """Of an epoch, counted from 0."""

    def accuracy(self, epoch: int, last: Float[Tensor, "n c *space"]) -> TeacherAccuracy:
        """Of a held-out classifier, if there is one, on the images of the last batch of an epoch."""


@dataclass(frozen=True)
class InversionData:
    """Each epoch begins with new noise, and inverts the classifiers of the next split. The soft targets are those of
    all classifiers."""

    ensemble: Ensemble
    splits: tuple[TeacherSplit, ...]
    student: nn.Module
    """For the competition (`Inversion.competition`)."""
    inversion: Inversion
    temperature: float
    shape: tuple[int, ...]
    """Of an image."""
    labels: Int[Tensor, " n"]
    """Classes of the images of an epoch."""
    classes: int
    seed: int

    @classmethod
    def of(
        cls, trained: TrainedClassifiers, student: nn.Module, inversion: Inversion, temperature: float,
        batch_size: int, seed: int,
    ) -> InversionData:  # fmt: skip
        """With classes in turn, on the device of the student."""
        device, classes = next(student.parameters()).device, len(trained.conditions.classes)
        labels = torch.arange(batch_size, device=device) % classes
        splits = [split.to(device) for split in trained.splits(False, inversion.hold_out).values()]
        everyone = Ensemble(trained.networks.values()).to(device)
        shape = trained.image_shape.shape
        return cls(everyone, tuple(splits), student, inversion, temperature, shape, labels, classes, seed)

    def batches(self, epoch: int) -> Iterator[TeacherBatch]:
        numbers = range(epoch * len(self.labels), (epoch + 1) * len(self.labels))
        noise = noise_of(self.seed, numbers, self.shape).to(self.labels.device)
        inverted, seed = self._split(epoch).inverted, (self.seed, epoch)
        trajectory = self.inversion.trajectory(inverted, noise, self.labels, seed, self.student)
        return trajectory_batches(trajectory, self.inversion.steps, self.ensemble, self.temperature)

    def accuracy(self, epoch: int, last: Float[Tensor, "n c *space"]) -> TeacherAccuracy:
        held_out = self._split(epoch).held_out
        return TeacherAccuracy.of(held_out(last), self.labels) if held_out else TeacherAccuracy.zero(self.classes)

    def _split(self, epoch: int) -> TeacherSplit:
        return self.splits[epoch % len(self.splits)]


@dataclass(frozen=True)
class SetData:
    """Each epoch takes every image of a set once, in a new order."""

    images: Float[Tensor, "n c *space"]
    targets: Float[Tensor, "n k"]
    batch_size: int
    seed: int

    @classmethod
    def of(
        cls, trained: TrainedClassifiers, synthetic: SyntheticSet, temperature: float, batch_size: int, seed: int,
        device: torch.device,
    ) -> SetData:  # fmt: skip
        """The soft targets of an image come from the classifier of the site whose style it has, if the site has one of
        its own, else from all classifiers.

        Raises:
            InputError: The images do not have the size that the classifiers take.
        """
        images = synthetic.pixels().float()
        if images.shape[1:] != trained.image_shape.shape:
            found, wanted = (" x ".join(map(str, shape)) for shape in (images.shape[1:], trained.image_shape.shape))
            raise InputError(
                f"the classifiers take images of {wanted} (channels first), {synthetic.folder} holds {found}"
            )
        sites = [image.site_style if image.site_style in trained.networks else None for image in synthetic.images]
        targets = soft_targets(teacher_logits(trained.teachers(sites), sites, images, batch_size), temperature)
        return cls(images.to(device), targets.to(device), batch_size, seed)

    def batches(self, epoch: int) -> Iterator[TeacherBatch]:
        return shuffled_batches(self.images, self.targets, self.batch_size, (self.seed, epoch))

    def accuracy(self, epoch: int, last: Float[Tensor, "n c *space"]) -> TeacherAccuracy:
        return TeacherAccuracy.zero(self.targets.shape[1])
