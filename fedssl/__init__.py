"""Federated self-supervised pretraining: `from fedssl import pretrain`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fedssl.python_api import PretrainingRun, pretrain

__all__ = ["PretrainingRun", "pretrain"]


def __getattr__(name: str) -> Any:
    """Imports the functions when they are first asked for, so that `fedpretrain --help` is quick."""
    if name in __all__:
        from fedssl import python_api

        return getattr(python_api, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
