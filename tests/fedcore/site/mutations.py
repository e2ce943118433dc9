"""Random changes of requests and answers."""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Iterator
from typing import Any

from fedcore.messages.request import TRAIN

VALUES: tuple[Any, ...] = (
    None, True, False, 0, 1, -1, 2**31, 2**64, 10**30, 0.5, float("nan"), float("inf"), "", "a", "b", TRAIN, "x" * 3000,
    "\x00", "\ud800", "../../etc/passwd", "__import__('os')", "os.system", "builtins.eval", "F64",
    "fedcore.messages.message.Message", "fedcore.messages.message.Weights",
    [], {}, [0], [[]], ["a", 0], {"kind": "x", "parts": {}}, [[["a"]]], [2**40],
)  # fmt: skip


def mutated(originals: list[bytes], count: int, seed: int) -> Iterator[bytes]:
    draw = random.Random(seed)
    kinds = (flipped, cut, spliced, with_header, with_header, with_header, with_json, with_json, with_json, with_json)
    for _ in range(count):
        yield draw.choice(kinds)(draw, originals)


def flipped(draw: random.Random, originals: list[bytes]) -> bytes:
    data = bytearray(draw.choice(originals))
    for _ in range(draw.choice((1, 1, 2, 5, 40))):
        data[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
    return bytes(data)


def cut(draw: random.Random, originals: list[bytes]) -> bytes:
    data = draw.choice(originals)
    begin, end = sorted(draw.choices(range(len(data) + 1), k=2))
    return draw.choice((data[:end], data[begin:], data[begin:end], data[:begin] + data[end:], data + data[begin:end]))


def spliced(draw: random.Random, originals: list[bytes]) -> bytes:
    one, other = draw.choices(originals, k=2)
    return one[: draw.randrange(len(one))] + other[draw.randrange(len(other)) :]


def with_header(draw: random.Random, originals: list[bytes]) -> bytes:
    """A value of the file's header changed: names, shapes, types and places of tensors, or the JSON of the message."""
    head, header, body = parts(draw.choice(originals))
    return file(head, changed(draw, header), body)


def with_json(draw: random.Random, originals: list[bytes]) -> bytes:
    """Values changed of what goes with the message, and of what says how it is made."""
    head, header, body = parts(draw.choice(originals))
    both = {"head": head, "message": json.loads(header["__metadata__"]["fedpretrain"])}
    for _ in range(draw.choice((1, 1, 1, 2, 3))):
        both = changed(draw, both)
    if not isinstance(both, dict):
        return file(both, header, body)
    if "message" in both:
        header["__metadata__"]["fedpretrain"] = json.dumps(both["message"])
    return file(both.get("head"), header, body)


def parts(data: bytes) -> tuple[Any, dict[str, Any], bytes]:
    """The head, the header of the safetensors file, and its tensors."""
    head, message = _json(data)
    header, body = _json(message)
    return head, header, body


def file(head: Any, header: Any, body: bytes) -> bytes:
    """The inverse of `parts`."""
    return _bytes(head) + _bytes(header) + body


def _json(data: bytes) -> tuple[Any, bytes]:
    end = 8 + int.from_bytes(data[:8], "little")
    return json.loads(data[8:end]), data[end:]


def _bytes(tree: Any) -> bytes:
    text = json.dumps(tree).encode()
    return len(text).to_bytes(8, "little") + text


def changed(draw: random.Random, tree: Any) -> Any:
    """One place of the tree replaced, removed, renamed or doubled."""
    tree = copy.deepcopy(tree)
    places = list(places_of(tree))
    if not places or draw.random() < 0.01:
        return draw.choice(VALUES)
    inside, key = draw.choice(places)
    what = draw.randrange(8)
    if what == 0:
        del inside[key]
    elif what == 1 and isinstance(inside, dict):
        inside[draw.choice(("x", "kind", "parts", "refusal", "0", "99", "site"))] = inside.pop(key)
    elif what == 2 and isinstance(inside, list):
        inside.append(copy.deepcopy(inside[key]))
    elif what == 3:
        other, at = draw.choice(places)
        inside[key] = copy.deepcopy(other[at])
    else:
        inside[key] = copy.deepcopy(draw.choice(VALUES))
    return tree


def places_of(tree: Any) -> Iterator[tuple[Any, Any]]:
    inside = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    for key, value in inside:
        yield tree, key
        yield from places_of(value)
