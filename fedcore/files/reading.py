"""Reads JSON and YAML from untrusted files within limits.

A few hundred bytes of YAML aliases can expand to a billion values, and deep nesting overflows Python's stack. So the
size is checked first: bytes, values with all aliases expanded, and depth.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from fedcore.errors import InputError

MOST_BYTES = 64 << 20
"""Of a file. The largest file of a run (500 sites, 1000 rounds) is read line by line."""
MOST_VALUES = 2_000_000
MOST_LEVELS = 64
"""Of nesting; the included recipes have 10."""
ADVICE = "restore it from a backup"
_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class LimitExceeded(ValueError):
    """A text is beyond a limit."""


def read_json(path: Path, advice: str = ADVICE) -> dict[str, Any]:
    """The object in a JSON file.

    Raises:
        InputError: The file is missing, damaged or beyond the limits, or holds no object; `advice` ends the message.
    """
    return _object(path, parse_json, advice)


def read_yaml(path: Path, advice: str = ADVICE) -> dict[str, Any]:
    """As `read_json`, for YAML."""
    return _object(path, parse_yaml, advice)


def parse_json(text: str) -> Any:
    """Parses JSON.

    Raises:
        ValueError: It is not JSON, or beyond the limits.
    """
    try:
        found = json.loads(text)
    except RecursionError as e:
        raise LimitExceeded(f"it is nested deeper than {MOST_LEVELS}") from e
    _require_limits(found)
    return found


def parse_yaml(text: str, anchors: bool = True) -> Any:
    """Parses YAML with plain values only.

    Raises:
        ValueError: It is not YAML, has tags of objects, or is beyond the limits; or, if they are not allowed, it has
            anchors.
    """
    try:
        require_yaml_limits(text, anchors)
        found = yaml.load(text, _LOADER)
    except yaml.MarkedYAMLError as e:
        line = f"line {e.problem_mark.line + 1}: " if e.problem_mark else ""
        raise ValueError(f"{line}{e.problem}") from e
    except (yaml.YAMLError, TypeError, AttributeError, OverflowError) as e:
        raise ValueError(str(e).splitlines()[0] if str(e) else type(e).__name__) from e
    _require_limits(found)
    return found


def read_utf8(path: Path, errors: str = "strict") -> str:
    """A whole file as UTF-8; `errors` as in `bytes.decode`.

    Raises:
        OSError: It is missing or cannot be read.
        ValueError: It is not UTF-8, not a regular file, or beyond the limit.
    """
    if path.exists() and not path.is_file():
        raise ValueError("it is not a file")
    with path.open("rb") as file:
        data = file.read(MOST_BYTES + 1)
    if len(data) > MOST_BYTES:
        raise LimitExceeded(f"it has more than {MOST_BYTES >> 20} MiB")
    return data.decode("utf-8", errors)


def _object(path: Path, parse: Any, advice: str) -> dict[str, Any]:
    try:
        found = parse(read_utf8(path))
    except OSError as e:
        raise InputError(f"{path} is missing or cannot be read ({e.strerror}); {advice}") from e
    except UnicodeDecodeError as e:
        raise InputError(f"{path} is damaged: not UTF-8 text (byte {e.start}); {advice}") from e
    except ValueError as e:
        raise InputError(f"{path} is damaged: {e}; {advice}") from e
    if not isinstance(found, dict):
        raise InputError(f"{path} is damaged: it must hold keys and values, found a {type(found).__name__}; {advice}")
    return found


def _require_limits(found: Any) -> None:
    """Raises ValueError for too many values or levels, or for texts with lone surrogates."""
    level, count = [found], 1
    for _ in range(MOST_LEVELS):
        inner = [value for outer in level for value in _inside(outer)]
        for text in (value for value in (*level, *inner) if isinstance(value, str)):
            text.encode()
        count += len(inner)
        if count > MOST_VALUES:
            raise LimitExceeded(f"it holds more than {MOST_VALUES:,} values")
        if not (level := [value for value in inner if isinstance(value, dict | list | set | tuple)]):
            return
    raise LimitExceeded(f"it is nested deeper than {MOST_LEVELS}")


def _inside(value: Any) -> Iterator[Any]:
    if isinstance(value, dict):
        yield from value
        yield from value.values()
    elif isinstance(value, list | tuple | set):
        yield from value


def require_yaml_limits(text: str, anchors_allowed: bool = True) -> None:
    """Raises ValueError for YAML beyond the limits before it is built; an alias counts as the values it expands to."""
    sizes: dict[str, int] = {}
    above: list[int] = []
    anchors: list[str | None] = []
    size = 0
    for event in yaml.parse(text, _LOADER):
        if not anchors_allowed and getattr(event, "anchor", None):
            raise LimitExceeded("it has anchors or aliases, which are not allowed here")
        if isinstance(event, yaml.AliasEvent):
            # An alias inside its own anchor would never end.
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
        if size > MOST_VALUES or len(above) > MOST_LEVELS:
            over = f"{MOST_VALUES:,} values with aliases expanded" if size > MOST_VALUES else f"{MOST_LEVELS} levels"
            raise LimitExceeded(f"it has more than {over}")
