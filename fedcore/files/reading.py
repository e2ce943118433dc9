"""JSON and YAML that others may have written, read within limits.

A few hundred bytes of YAML aliases stand for a billion values, and brackets in brackets end Python's stack. So a text
is measured before it is believed: bytes, values with every alias written out, and depth.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from fedcore.errors import InputError

MOST_BYTES = 64 << 20
"""Of a file; the largest that the kit writes, a run of 500 sites for 1000 rounds, is read line by line."""
MOST_VALUES = 2_000_000
DEEPEST = 64
"""Brackets in brackets; the kit's own recipes have 10."""
ADVICE = "restore it from a backup"
_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class TooMuch(ValueError):
    """A text of more than the limits."""


def read_json(path: Path, advice: str = ADVICE) -> dict[str, Any]:
    """The object in a JSON file.

    Raises:
        InputError: The file is missing, damaged or beyond the limits, or holds something else; `advice` ends the text.
    """
    return _object(path, json_of, advice)


def read_yaml(path: Path, advice: str = ADVICE) -> dict[str, Any]:
    """As `read_json`, of YAML."""
    return _object(path, yaml_of, advice)


def json_of(text: str) -> Any:
    """What JSON says.

    Raises:
        ValueError: It is no JSON, or beyond the limits.
    """
    try:
        found = json.loads(text)
    except RecursionError as e:
        raise TooMuch(f"it is nested deeper than {DEEPEST}") from e
    _require_modest(found)
    return found


def yaml_of(text: str) -> Any:
    """What YAML says, of plain values alone.

    Raises:
        ValueError: It is no YAML, or beyond the limits.
    """
    try:
        require_modest_yaml(text)
        found = yaml.load(text, _LOADER)
    except yaml.MarkedYAMLError as e:
        line = f"line {e.problem_mark.line + 1}: " if e.problem_mark else ""
        raise ValueError(f"{line}{e.problem}") from e
    except (yaml.YAMLError, TypeError, AttributeError, OverflowError) as e:
        raise ValueError(str(e).splitlines()[0] if str(e) else type(e).__name__) from e
    _require_modest(found)
    return found


def text_of(path: Path, errors: str = "strict") -> str:
    """A whole file, as UTF-8; `errors` as of `bytes.decode`.

    Raises:
        OSError: It is missing or cannot be read.
        ValueError: It is no text, no regular file, or beyond the limit.
    """
    if path.exists() and not path.is_file():
        raise ValueError("it is no file")
    with path.open("rb") as file:
        data = file.read(MOST_BYTES + 1)
    if len(data) > MOST_BYTES:
        raise TooMuch(f"it has more than {MOST_BYTES >> 20} MiB")
    return data.decode("utf-8", errors)


def _object(path: Path, parse: Any, advice: str) -> dict[str, Any]:
    try:
        found = parse(text_of(path))
    except OSError as e:
        raise InputError(f"{path} is missing or cannot be read ({e.strerror}); {advice}") from e
    except UnicodeDecodeError as e:
        raise InputError(f"{path} is damaged: it is no UTF-8 text (byte {e.start}); {advice}") from e
    except ValueError as e:
        raise InputError(f"{path} is damaged: {e}; {advice}") from e
    if not isinstance(found, dict):
        raise InputError(f"{path} is damaged: it must hold keys and values, found a {type(found).__name__}; {advice}")
    return found


def _require_modest(found: Any) -> None:
    """Raises ValueError for a tree of too many values or levels, or texts that are no Unicode (half of a pair)."""
    level, count = [found], 1
    for _ in range(DEEPEST):
        inner = [value for outer in level for value in _inside(outer)]
        for text in (value for value in (*level, *inner) if isinstance(value, str)):
            text.encode()
        count += len(inner)
        if count > MOST_VALUES:
            raise TooMuch(f"it holds more than {MOST_VALUES:,} values")
        if not (level := [value for value in inner if isinstance(value, dict | list | set | tuple)]):
            return
    raise TooMuch(f"it is nested deeper than {DEEPEST}")


def _inside(value: Any) -> Iterator[Any]:
    if isinstance(value, dict):
        yield from value
        yield from value.values()
    elif isinstance(value, list | tuple | set):
        yield from value


def require_modest_yaml(text: str) -> None:
    """Raises ValueError for YAML beyond the limits before it is built; an alias counts as all it stands for."""
    sizes: dict[str, int] = {}
    above: list[int] = []
    anchors: list[str | None] = []
    size = 0
    for event in yaml.parse(text, _LOADER):
        if isinstance(event, yaml.AliasEvent):
            # One that stands inside what it names would never end.
            size += sizes.get(str(event.anchor), MOST_VALUES)
        elif isinstance(event, yaml.ScalarEvent):
            size += 1
            if event.anchor:
                sizes[event.anchor] = 1
        elif isinstance(event, yaml.CollectionStartEvent):
            above.append(size)
            anchors.append(event.anchor)
            size = 1
        elif isinstance(event, yaml.CollectionEndEvent):
            if anchor := anchors.pop():
                sizes[anchor] = size
            size += above.pop()
        if size > MOST_VALUES or len(above) > DEEPEST:
            over = f"{MOST_VALUES:,} values, its aliases written out" if size > MOST_VALUES else f"{DEEPEST} levels"
            raise TooMuch(f"it stands for more than {over}")
