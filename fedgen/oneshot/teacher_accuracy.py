"""How many inverted images a held-out classifier assigns to the class they were made for, and with what probability.

The classifier took no part in the images (`fedgen.oneshot.ensemble.TeacherSplit`) and is in evaluation mode: the
inverted classifiers also assign noise to the class, and from noise no student learns. A run with one classifier has no
such figures.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Float, Int
from torch import Tensor

from fedcore.messages.message import Message
from fedcore.messages.reveals import STATISTICS
from fedcore.report.units import figure
from fedcore.tables import terminal, text_table

COLUMNS = ("images", "correct", "probability")
ByClass = dict[str, dict[str, int | float]]
"""By class, without classes of no image: number of `images` made for it, of those the `correct` ones (no other class is
more probable), and the mean `probability` of the class."""


@dataclass(frozen=True)
class TeacherAccuracy(Message):
    """Sums over images by the class that each was made for; those of batches add up."""

    images: Float[Tensor, " k"] = field(metadata=STATISTICS)
    correct: Float[Tensor, " k"] = field(metadata=STATISTICS)
    probability: Float[Tensor, " k"] = field(metadata=STATISTICS)

    @classmethod
    def zero(cls, classes: int) -> TeacherAccuracy:
        return cls(*torch.zeros(3, classes, dtype=torch.float64))

    @classmethod
    def of(cls, logits: Float[Tensor, "n k"], labels: Int[Tensor, " n"]) -> TeacherAccuracy:
        logits, labels = logits.detach().cpu().double(), labels.cpu()
        probability = logits.softmax(1).gather(1, labels[:, None])[:, 0]
        of_each = (torch.ones_like(probability), (logits.argmax(1) == labels).double(), probability)
        return cls(*(torch.bincount(labels, values, minlength=logits.shape[1]) for values in of_each))

    def __add__(self, other: TeacherAccuracy) -> TeacherAccuracy:
        return TeacherAccuracy(
            self.images + other.images, self.correct + other.correct, self.probability + other.probability
        )

    def by_class(self, classes: Sequence[str]) -> ByClass:
        return {
            name: {"images": int(n), "correct": int(correct), "probability": round(float(total / n), 4)}
            for name, n, correct, total in zip(classes, self.images, self.correct, self.probability, strict=True)
            if n
        }


def rows(accuracy: ByClass) -> Mapping[str, list[str]]:
    return {name: [figure(float(of_class[column])) for column in COLUMNS] for name, of_class in accuracy.items()}


def print_accuracy(accuracy: ByClass) -> None:
    """A table in the terminal."""
    terminal().print(text_table("class", COLUMNS, rows(accuracy)))
