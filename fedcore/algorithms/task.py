"""What a recipe asks of sites and server, as both build it from the recipe."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol, runtime_checkable

from pytorch_lightning import LightningModule

from fedcore.algorithms.base import Algorithm, Visitor
from fedcore.data.cohort import Cohort
from fedcore.data.dataset import Images
from fedcore.messages.agreement import Agreement
from fedcore.training.visit import Visit


@runtime_checkable
class Task(Protocol):
    """One kind of training. Server and sites hold an equal one, made from the recipe that each site approved."""

    @property
    def algorithm(self) -> Algorithm:
        """How sites cooperate, exchange included."""

    @property
    def visit(self) -> Visit:
        """Local training in one round."""

    def module(self, agreement: Agreement) -> LightningModule:
        """What is trained; equal bits on every side. Raises InputError where it cannot be built."""

    def words(self, agreement: Agreement, module: LightningModule) -> Mapping[str, Visitor]:
        """What sites can be asked for, `train` among them."""

    def parts(
        self, cohort: Cohort, module: LightningModule | None = None
    ) -> tuple[dict[str, Images], dict[str, Images]]:
        """What each site trains on and what it evaluates on, of a cohort whose classes are the agreed ones; before the
        agreement there is no module, and the images are counted alone."""

    def mask_classes(self, cohort: Cohort) -> int:
        """One more than the highest number in masks; 0 where the task uses none."""
