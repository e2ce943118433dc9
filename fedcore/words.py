"""The small commands' arguments, typed by a function's signature."""

from __future__ import annotations

import argparse
import inspect
from collections.abc import Callable, Sequence
from typing import Any

from jsonargparse import ArgumentParser

from fedcore.errors import InputError
from fedcore.seeds import require_seed


def call(function: Callable[..., Any], name: str, arguments: Sequence[str]) -> Any:
    """Calls `function` with what the command line says; parameters without default are positional."""
    return function(**typed(function, name, arguments))


def typed(function: Callable[..., Any], name: str, arguments: Sequence[str]) -> dict[str, Any]:
    """What `function` would be called with.

    Raises:
        InputError: It takes no such arguments.
    """
    parser = ArgumentParser(
        prog=f"fedpretrain {name}", description=inspect.cleandoc(function.__doc__ or "").split("\n")[0],
        allow_abbrev=False, exit_on_error=False,
    )  # fmt: skip
    parser.add_function_arguments(function, as_positional=True)
    try:
        config = parser.parse_args(list(arguments))
    except argparse.ArgumentError as e:
        raise InputError(f"{name}: {str(e).strip().splitlines()[-1].strip()}\n{parser.format_usage().strip()}") from e
    require_seed(config.get("seed", 0))
    try:
        return dict(parser.instantiate(config))
    except ValueError as e:
        raise InputError(f"{name}: {e}") from e
