"""Short names of runs and of the encoders that runs start from."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path, PurePath

RANDOM = "random initialisation"


def run_names(folders: Sequence[Path]) -> list[str]:
    """The shortest unique ends of the folders' paths; a folder given twice is numbered."""
    names = _shortest([folder.resolve() for folder in folders])
    return [
        name if names.count(name) == 1 else f"{name} ({names[: at + 1].count(name)})" for at, name in enumerate(names)
    ]


def _shortest(folders: Sequence[Path]) -> list[str]:
    names = []
    for folder in folders:
        others = [other for other in folders if other != folder]
        depths = range(1, len(folder.parts) + 1)
        unique = (d for d in depths if all(_tail(folder, d) != _tail(other, d) for other in others))
        names.append(_tail(folder, next(unique, 1)))
    return names


def _tail(folder: Path, depth: int) -> str:
    return "/".join(folder.parts[-depth:])


def start_name(encoder: str | None) -> str:
    """An encoder's folder in short: the run's name, with the site's name if it was pretrained locally."""
    if encoder is None:
        return RANDOM
    parts = [part for part in PurePath(encoder).parts if part != "/"]
    parts = parts[:-1] if parts[-1:] == ["encoder"] and len(parts) > 1 else parts
    return (
        f"{parts[-3]}, local at {parts[-1]}"
        if parts[-2:-1] == ["sites"] and len(parts) > 2
        else (parts or [RANDOM])[-1]
    )
