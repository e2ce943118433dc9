"""Parses the arguments of commands without a recipe by the signature of a function."""

from __future__ import annotations

import argparse
import inspect
from collections.abc import Callable, Sequence
from typing import Any

from jsonargparse import ArgumentParser, Namespace

from fedcore.config.options import option_names
from fedcore.config.recipe_errors import explain
from fedcore.config.trust import guard
from fedcore.errors import InputError


def call(function: Callable[..., Any], name: str, arguments: Sequence[str]) -> Any:
    """Calls `function` with the parsed arguments; parameters without default are positional."""
    return function(**parse_arguments(function, name, arguments))


def parse_arguments(function: Callable[..., Any], name: str, arguments: Sequence[str]) -> dict[str, Any]:
    """The keyword arguments for `function`.

    Raises:
        InputError: An argument is unknown, missing or has a wrong value.
    """
    guard()
    parser = ArgumentParser(
        prog=f"fedpretrain {name}", description=inspect.cleandoc(function.__doc__ or "").split("\n")[0],
        allow_abbrev=False, exit_on_error=False,
    )  # fmt: skip
    parser.add_function_arguments(function, as_positional=True)
    try:
        config = parser.parse_args(list(arguments))
    except argparse.ArgumentError as e:
        reason = explain(str(e), option_names(parser, {}))
        raise InputError(f"{name}: {reason}\n{parser.format_usage().strip()}") from e
    require_seeds(config)
    try:
        return dict(parser.instantiate(config))
    except ValueError as e:
        raise InputError(f"{name}: {e}") from e


def require_seeds(config: Namespace) -> None:
    """Raises InputError for a seed that random number generators do not accept."""
    for key, value in config.items():
        if key.rpartition(".")[2] == "seed" and isinstance(value, int) and not 0 <= value < 2**63:
            raise InputError(f"{key} must lie in 0..2^63-1, got {value}")
