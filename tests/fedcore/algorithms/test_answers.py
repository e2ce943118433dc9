from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Any

import pytest
import torch
from jaxtyping import TypeCheckError
from torch import Tensor

from fedcore.algorithms.answers import answer_error, tensors_error
from fedcore.algorithms.fedavg import FedAvg
from fedcore.messages.answer import Contribution
from fedcore.messages.message import Empty, Message, Weights
from fedcore.messages.round import Round
from fedcore.server.validation import Sent
from tests.fedcore.toys import Hospitals
from tests.trainings import EVERYTHING, NAMES, TRAININGS, images_of_all_kinds

TURN = Round(0, 2, 0)


def changed(message: Message) -> Iterator[Message]:
    """The message with one part of it changed, in many ways, as far as the types of its fields allow: the wire rejects
    what they do not."""
    for field in dataclasses.fields(message):
        for other in changed_part(getattr(message, field.name)):
            with suppress(TypeCheckError):
                yield dataclasses.replace(message, **{field.name: other})


def changed_part(value: Any) -> Iterator[Any]:
    if isinstance(value, Message):
        yield Empty()
        yield Weights({})
        yield Weights({"of_another_model": torch.zeros(3)})
        yield from changed(value)
    elif isinstance(value, Tensor):
        yield from changed_tensor(value)
    elif isinstance(value, Mapping):
        yield {**value, "of_another_model": torch.zeros(3)}
        yield {}
        for name in [*value][:1] + [*value][-1:]:
            yield {k: t for k, t in value.items() if k != name}
            yield from ({**value, name: other} for other in changed_tensor(value[name]))


def changed_tensor(tensor: Tensor) -> Iterator[Tensor]:
    yield tensor[None].expand(2, *tensor.shape).clone()
    yield tensor.flatten()[:0]
    yield tensor.double() if tensor.dtype != torch.float64 else tensor.int()
    yield tensor.to(torch.int8) if tensor.dtype != torch.int8 else tensor.float()
    if tensor.dim():
        yield tensor[1:]
        yield torch.cat([tensor, tensor], -1)
    yield torch.zeros_like(tensor)
    yield -torch.ones_like(tensor)


@pytest.mark.parametrize("name", TRAININGS)
def test_a_changed_answer_is_rejected_or_can_be_merged(name: str) -> None:
    training = TRAININGS[name]
    algorithm, trainer, data = training.algorithm, training.local(), images_of_all_kinds()
    state = algorithm.start(trainer)
    where, sent = Hospitals(data, trainer, data, EVERYTHING), Sent(state, algorithm)
    tasks = [(site, algorithm.broadcast(state, site, TURN)) for site in NAMES]
    answers = [answer for answer in where.ask(algorithm, tasks, TURN) if isinstance(answer, Contribution)]
    assert [sent.error_of(answer) for answer in answers] == [None] * len(NAMES)
    rejected = 0
    for message in changed(answers[0].message):
        if error := sent.error_of(dataclasses.replace(answers[0], message=message)):
            rejected += 1
            assert error.isprintable()
        else:
            merged = algorithm.merge(state, [dataclasses.replace(answers[0], message=message), answers[1]])
            algorithm.broadcast(merged, "b", dataclasses.replace(TURN, index=1))
    assert rejected or not dataclasses.fields(answers[0].message)


def test_an_algorithm_that_checks_nothing_itself_is_sent_the_kind_that_it_declares() -> None:
    assert answer_error(FedAvg(), Weights({}), Empty()) == "it holds Empty instead of the requested Weights"
    assert answer_error(FedAvg(), Weights({}), Weights({})) is None


def test_tensors_may_be_a_part_of_those_at_the_server() -> None:
    there = {"a": torch.zeros(2), "b": torch.zeros(3)}
    assert tensors_error({"b": torch.ones(3)}, there) is None
    assert tensors_error({"b": torch.ones(2)}, there) == "b has shape (2,), and at the server it is (3,)"
    assert tensors_error({"c": torch.ones(2)}, there) == "c has shape (2,), and at the server it is missing"
