"""Generators that hospitals train together, and synthetic sets: `from fedgen import train_generator, sample, ...`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fedgen.python_api import GeneratorRun, SyntheticImages, audit, release, sample, train_generator

__all__ = ["GeneratorRun", "SyntheticImages", "audit", "release", "sample", "train_generator"]


def __getattr__(name: str) -> Any:
    """Imports the functions when they are first asked for, so that `fedpretrain --help` is quick."""
    if name in __all__:
        from fedgen import python_api

        return getattr(python_api, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
