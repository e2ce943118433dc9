"""Bytes that are no request or answer are errors that quote nothing."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
import safetensors.torch
import torch
from jaxtyping import Float
from torch import Tensor

from fedcore.algorithms.fednova import FedNovaMessage
from fedcore.messages import encoding
from fedcore.messages.agreement import Built
from fedcore.messages.encoding import WireError, kinds_of_messages
from fedcore.messages.message import Empty, Message, Weights
from fedcore.messages.reveals import STATISTICS
from fedcore.messages.wire import answer_bytes, answer_of, request_bytes, request_of
from tests.fedcore.messages.test_wire import ANSWER, REQUEST, SECRET
from tests.fedcore.site.mutations import file, parts


@dataclass(frozen=True)
class Pair(Message):
    """Two fields that share an axis."""

    first: Float[Tensor, " n"] = field(metadata=STATISTICS)
    second: Float[Tensor, "n m"] = field(metadata=STATISTICS)


def changed(data: bytes, change: Callable[[dict[str, Any]], Any], **tensors: Tensor) -> bytes:
    """The same bytes, their JSON changed and tensors put in the place of their own."""
    head, header, body = parts(data)
    both = {"head": head, "message": json.loads(header["__metadata__"]["fedpretrain"])}
    change(both)
    own = safetensors.torch.load(file({}, header, body)[10:])
    saved = safetensors.torch.save(own | tensors, {"fedpretrain": json.dumps(both.get("message"))})
    text = json.dumps(both.get("head")).encode()
    return len(text).to_bytes(8, "little") + text + saved


def head(**values: Any) -> Callable[[dict[str, Any]], None]:
    return lambda about: about["head"].update(values)


def without(name: str) -> Callable[[dict[str, Any]], None]:
    return lambda about: about["head"].pop(name)


def tree(**values: Any) -> Callable[[dict[str, Any]], None]:
    return lambda about: about["message"].update(values)


def nested(about: dict[str, Any]) -> None:
    kind = f"{FedNovaMessage.__module__}.{FedNovaMessage.__qualname__}"
    for _ in range(12):
        about["message"] = {"kind": kind, "parts": {"weights": about["message"], "rest": [], "length": 0}}


BOTH: dict[str, Callable[[dict[str, Any]], Any]] = {
    "another format": head(format=SECRET),
    "a kind that nobody knows": tree(kind=f"os.{SECRET}"),
    "a kind that is no text": tree(kind=[SECRET]),
    "a field more": lambda about: about["message"]["parts"].update({SECRET: 0}),
    "a field missing": tree(parts={}),
    "parts that are none": tree(parts=[SECRET]),
    "a tensor that is not there": tree(parts={"tensors": [[SECRET, 99]]}),
    "a tensor named twice": tree(parts={"tensors": [[SECRET, 0], [SECRET, 1]]}),
    "a tensor that is not named": tree(parts={"tensors": []}),
    "a tensor for a dict": tree(parts={"tensors": 0}),
    "a name that is a number": tree(parts={"tensors": [[3, 0]]}),
    "a message for a dict": tree(parts={"tensors": {"kind": "fedcore.messages.message.Empty", "parts": {}}}),
    "messages in messages": nested,
    "no head": lambda about: about.pop("head"),
    "a head that is a list": lambda about: about.update(head=[SECRET]),
    "no message": lambda about: about.pop("message"),
    "a site that is a number": head(site=3),
}


REQUESTS = BOTH | {
    "a word that is a number": head(word=1),
    "a word that is long": head(word=SECRET * 100),
    "a run that is long": head(run=SECRET * 100),
    "a round of two numbers": head(turn=[0, 1]),
    "a round of texts": head(turn=[SECRET, 1, 2]),
    "a round of truths": head(turn=[True, 1, 2]),
    "a round before the first": head(turn=[-1, 1, 0]),
    "a visit that counts of one number": head(counted=[3]),
    "a visit that counts that is nothing": head(counted=[]),
    "a visit that counts that is false": head(counted=False),
    "an agreement with another field": head(agreement={SECRET: 1}),
    "an agreement of another type": head(agreement=SECRET),
    "classes that are a text": lambda about: about["head"]["agreement"].update(classes=SECRET),
    "classes that are an object": lambda about: about["head"]["agreement"].update(classes={SECRET: 1}),
    "a size of texts": lambda about: about["head"]["agreement"].update(size=[SECRET]),
    "a size of truths": lambda about: about["head"]["agreement"].update(size=[True, True]),
    "no word": without("word"),
}


ANSWERS = BOTH | {
    "another site": head(site=SECRET),
    "no site": without("site"),
    "images that are no number": head(examples=SECRET),
    "images that are broken": head(examples=1.5),
    "a loss that is infinite": head(metrics={"loss": float("inf")}),
    "a loss that is NaN": head(metrics={"loss": float("nan")}),
    "a loss that is a text": head(metrics={"loss": SECRET}),
    "a loss that is a truth": head(metrics={"loss": True}),
    "a loss beyond any float": head(metrics={"loss": 10**400}),
    "a metric that is a sentence": head(metrics={SECRET: 1.0}),
    "too many metrics": head(metrics={f"m{at}": 1.0 for at in range(33)}),
    "metrics that are a list": head(metrics=[SECRET]),
    "seconds that are infinite": head(seconds=float("inf")),
    "a level that nobody knows": head(reveals=SECRET),
    "keeps that is a number": head(keeps=1),
    "a refusal that is a list": head(refusal=[SECRET]),
}


def complaint(read: Callable[[], Any]) -> str:
    with pytest.raises(WireError) as caught:
        read()
    text = str(caught.value)
    assert SECRET not in text
    assert text.isprintable()
    return text


@pytest.mark.parametrize("change", REQUESTS.values(), ids=REQUESTS)
def test_a_request_that_is_none_is_an_error_that_quotes_nothing(change: Callable[[dict[str, Any]], Any]) -> None:
    data = changed(request_bytes(REQUEST), change)
    complaint(lambda: request_of(data, kinds_of_messages()))


@pytest.mark.parametrize("change", ANSWERS.values(), ids=ANSWERS)
def test_an_answer_that_is_none_is_an_error_that_quotes_nothing(change: Callable[[dict[str, Any]], Any]) -> None:
    data = changed(answer_bytes(ANSWER), change)
    complaint(lambda: answer_of(data, "a", kinds_of_messages()))


def test_an_answer_of_another_site_than_the_transport_knows_is_refused() -> None:
    text = complaint(lambda: answer_of(answer_bytes(ANSWER), "b", kinds_of_messages()))
    assert text == "it names a different site from the one that sent it"


def test_a_kind_must_be_one_of_those_that_the_reader_was_given() -> None:
    text = complaint(lambda: request_of(request_bytes(REQUEST), {}))
    assert text == "this recipe has no message of its kind; install the same version on both sides"


@pytest.mark.parametrize(
    ("message", "wrong"),
    [
        (Built(SECRET), torch.zeros(3)),
        (Built(SECRET), torch.tensor([1], dtype=torch.uint8)),
        (Built(SECRET), torch.frombuffer(bytearray(b"[1, 2]"), dtype=torch.uint8)),
        (Built(SECRET), torch.frombuffer(bytearray(b'"\\ud800"'), dtype=torch.uint8)),
        (Built(SECRET), torch.frombuffer(bytearray(b"[" * 5000), dtype=torch.uint8)),
        (FedNovaMessage(Empty(), {}, torch.tensor(1.0)), torch.zeros(2)),
        (FedNovaMessage(Empty(), {}, torch.tensor(1.0)), torch.tensor(1)),
        (Pair(torch.zeros(2), torch.zeros(2, 3)), torch.zeros(3)),
    ],
    ids=["float for text", "no JSON", "list for text", "half a pair", "deep", "axes", "dtype", "size of a shared axis"],
)
def test_a_value_of_another_type_shape_or_dtype_is_refused(message: Message, wrong: Tensor) -> None:
    data = changed(answer_bytes(replace(ANSWER, message=message)), lambda about: None, **{"0": wrong})
    complaint(lambda: answer_of(data, "a", kinds_of_messages()))


@pytest.mark.parametrize("dtype", [torch.complex64, torch.float8_e4m3fn, torch.float8_e5m2, torch.uint16], ids=str)
def test_a_tensor_of_a_type_that_no_message_has_is_refused(dtype: torch.dtype) -> None:
    data = answer_bytes(replace(ANSWER, message=Weights({"w": torch.ones(2).to(dtype)})))
    assert (
        complaint(lambda: answer_of(data, "a", kinds_of_messages()))
        == "it holds a tensor of a type that is not allowed"
    )


def test_an_extra_tensor_is_refused() -> None:
    data = changed(request_bytes(REQUEST), lambda about: None, **{SECRET: torch.ones(3)})
    assert complaint(lambda: request_of(data, kinds_of_messages())) == "it holds tensors that its message does not name"


@pytest.mark.parametrize(
    "data", [b"", b"\x00" * 8, b"\xff" * 64, b"{}" * 40, (2).to_bytes(8, "little") + b"{}"], ids=repr
)
def test_bytes_that_are_no_file_are_refused(data: bytes) -> None:
    complaint(lambda: request_of(data, kinds_of_messages()))
    complaint(lambda: answer_of(data, "a", kinds_of_messages()))


def test_a_header_beyond_the_limit_is_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    data = request_bytes(REQUEST)
    monkeypatch.setattr(encoding, "LONGEST_HEADER", 64)
    assert complaint(lambda: request_of(data, kinds_of_messages())) == "its header is too long"


def test_a_file_beyond_the_limit_is_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encoding, "LARGEST", 100)
    data = request_bytes(REQUEST)
    assert complaint(lambda: request_of(data, kinds_of_messages())) == f"it has {len(data)} bytes, at most 100 are read"
