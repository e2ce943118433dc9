"""How many inverted images a classifier takes for what they were made for, and how sure it is.

The classifier is one that had no part in the images (fedgen.oneshot.ensemble.Panel), in evaluation mode: those that
made them are convinced by noise as well, from which no student learns. Of a run with one classifier nothing is told.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Float, Int
from torch import Tensor

from fedcore.messages.message import STATISTICS, Message
from fedcore.report.units import figure
from fedcore.tables import terminal, text_table

TITLES = ("images", "recognised", "probability")
Told = dict[str, dict[str, int | float]]
"""By class, without those of no image: `images` made for it, `recognised` of them (no other class is likelier), and the
mean `probability` that the classifiers give it."""


@dataclass(frozen=True)
class Recognition(Message):
    """Sums over images by the class that each was made for; those of batches add up."""

    images: Float[Tensor, " k"] = field(metadata=STATISTICS)
    recognised: Float[Tensor, " k"] = field(metadata=STATISTICS)
    probability: Float[Tensor, " k"] = field(metadata=STATISTICS)

    @classmethod
    def none(cls, classes: int) -> Recognition:
        return cls(*torch.zeros(3, classes, dtype=torch.float64))

    @classmethod
    def of(cls, logits: Float[Tensor, "n k"], labels: Int[Tensor, " n"]) -> Recognition:
        logits, labels = logits.detach().cpu().double(), labels.cpu()
        given = logits.softmax(1).gather(1, labels[:, None])[:, 0]
        of_each = (torch.ones_like(given), (logits.argmax(1) == labels).double(), given)
        return cls(*(torch.bincount(labels, values, minlength=logits.shape[1]) for values in of_each))

    def __add__(self, other: Recognition) -> Recognition:
        return Recognition(
            self.images + other.images, self.recognised + other.recognised, self.probability + other.probability
        )

    def told(self, classes: Sequence[str]) -> Told:
        return {
            name: {"images": int(n), "recognised": int(recognised), "probability": round(float(total / n), 4)}
            for name, n, recognised, total in zip(
                classes, self.images, self.recognised, self.probability, strict=True
            )
            if n
        }  # fmt: skip


def rows(told: Told) -> Mapping[str, list[str]]:
    return {name: [figure(float(of[title])) for title in TITLES] for name, of in told.items()}


def show(told: Told) -> None:
    """A table in the terminal."""
    terminal().print(text_table("class", TITLES, rows(told)))
