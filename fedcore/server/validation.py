"""Whether an answer can be used. A site may be broken or worse: nothing of it enters a mean unseen."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from fedcore.algorithms.answers import answer_error, tensors_error
from fedcore.errors import InputError
from fedcore.messages.agreement import Facts
from fedcore.messages.answer import Contribution
from fedcore.messages.message import Message, is_finite, leaves, weights_of
from fedcore.messages.request import TRAIN

MOST_IMAGES = 10**12
"""Of a site; a larger number of images is none."""


class Sent:
    """The server's state while sites are visited, and what answers are compared with.

    Sites of this process are sent its own tensors, since a copy would be a model of memory per site. Torch counts what
    is written into a tensor, so a merge, a visit or a callback that does so is found before anything wrong is sent to
    the next site.
    """

    def __init__(self, state: Message, algorithm: Any, word: str = TRAIN):
        """`algorithm`: what the answers are for; None: those of a query. `word`: what sites are asked for."""
        self.state, self.weights, self._algorithm = state, weights_of(state), algorithm
        self._asker = word if algorithm is None else type(algorithm).__name__
        self._tensors = [(leaf.name, leaf.tensor, _writes(leaf.tensor)) for leaf in leaves(state)]

    def require_unchanged(self) -> None:
        """Raises InputError where somebody wrote into the state."""
        for name, tensor, writes in self._tensors:
            if _writes(tensor) != writes:
                raise InputError(
                    f"{self._asker} (or a part of it) wrote into {name}, a tensor of the server's "
                    "state, while sites were visited: later sites would be sent other weights; make new tensors "
                    "instead, such as a + b for a.add_(b)"
                )

    def error_of(self, answer: Contribution[Message], facts: Facts | None = None) -> str | None:
        """What is wrong with an answer, whichever site sent it."""
        for leaf in leaves(answer.message):
            if not is_finite(leaf.tensor):
                return f"{leaf.name} is not finite"
        error = tensors_error(weights_of(answer.message), self.weights) if self.weights else None
        error = error or answer_error(self._algorithm, self.state, answer.message)
        return error or _count_error(answer.examples, facts)


def facts_error(facts: Facts) -> str | None:
    """What is wrong with what a site says of its images."""
    numbers = (facts.train, facts.val, facts.test, facts.mask_classes)
    if min(numbers) < 0 or max(numbers) > MOST_IMAGES:
        return f"its numbers of images and mask classes are not all from 0 to {MOST_IMAGES}"
    if facts.channels < 1 or len(facts.size) not in (2, 3) or min(facts.size) < 1:
        return "its images have no channel, or no size of 2 or 3 axes"
    if not all(text.isprintable() for text in (*facts.classes, *facts.versions, facts.data)):
        return "a class or a version has a name with control characters"
    return None


def _count_error(examples: int, facts: Facts | None) -> str | None:
    if examples < 0:
        return f"its number of images is {examples}"
    if facts is not None and examples > (most := facts.train + facts.val + facts.test):
        return f"it reports {examples} images, but {most} before the first round"
    return None


def _writes(tensor: Tensor) -> int:
    return 0 if tensor.is_inference() else tensor._version
