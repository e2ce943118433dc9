"""Federated fine-tuning of classifiers and segmenters: `from fedtune import finetune, segment`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fedtune.python_api import FinetuningRun, finetune, segment

__all__ = ["FinetuningRun", "finetune", "segment"]


def __getattr__(name: str) -> Any:
    """Imports the functions when they are first asked for, so that `fedpretrain --help` is quick."""
    if name in __all__:
        from fedtune import python_api

        return getattr(python_api, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
