"""Tolerant readers of JSON: what has the wrong type counts as absent, what cannot be read is noted."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from fedcore.files.reading import MOST_BYTES, parse_json, read_utf8


def mapping(value: Any) -> dict[str, Any]:
    return {str(key): item for key, item in value.items()} if isinstance(value, dict) else {}


def number(value: Any) -> float | None:
    """A finite number, or None: a loss of NaN is no point of a curve."""
    fits = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    return float(value) if fits else None


def whole(value: Any) -> int | None:
    found = number(value)
    return None if found is None else int(found)


def numbers(value: Any) -> dict[str, float]:
    return {key: found for key, item in mapping(value).items() if (found := number(item)) is not None}


def counts(value: Any) -> dict[str, int]:
    return {key: int(found) for key, found in numbers(value).items()}


def items(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def texts(value: Any) -> tuple[str, ...]:
    return tuple(str(item) for item in items(value))


def read_text(path: Path, gaps: list[str], *, lacking: str = "") -> str:
    """The text of `path`, or "" with the reason in `gaps` (`lacking`, if given, where the file is absent)."""
    try:
        return read_utf8(path, errors="replace")
    except FileNotFoundError:
        gaps += [lacking] if lacking else []
    except OSError as error:
        gaps.append(f"{path.name} cannot be read: {error.strerror}.")
    except ValueError as error:
        gaps.append(f"{path.name} cannot be read: {error}.")
    return ""


def read_object(path: Path, gaps: list[str], *, lacking: str = "") -> dict[str, Any]:
    """The JSON object in `path`, or {} with the reason in `gaps`."""
    text = read_text(path, gaps, lacking=lacking)
    found = _parse(text)
    if found is None and path.is_file():
        gaps.append(f"{path.name} is not a complete JSON object; its content is missing here.")
    return found or {}


def read_lines(path: Path, gaps: list[str], *, label: str, lacking: str = "") -> Iterator[dict[str, Any]]:
    """The JSON objects of a .jsonl file, one at a time, so that an audit of any length takes little memory.

    A line that cannot be read is skipped and noted; at the end of the file it is what a killed run leaves.
    """
    try:
        file = path.open(encoding="utf-8", errors="replace")
    except OSError:
        gaps += [lacking] if lacking else []
        return
    with file:
        # Of a line beyond the limit the parts are no JSON objects.
        for at, line in enumerate(iter(lambda: file.readline(MOST_BYTES), ""), start=1):
            found = _parse(line)
            if found is not None:
                yield found
            elif not line.endswith("\n"):
                gaps.append(f"The last line of {label} was cut off while it was written, and is skipped.")
            elif line.strip():
                gaps.append(f"Line {at} of {label} is not a JSON object, and is skipped.")


def _parse(text: str) -> dict[str, Any] | None:
    try:
        found = parse_json(text)
    except ValueError:
        return None
    return mapping(found) if isinstance(found, dict) else None
