"""Reads a settings file: YAML that is checked against the fields of a dataclass, as recipes are."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any, TypeVar

from jsonargparse import ArgumentParser, set_parsing_settings

from fedcore.config.options import option_names
from fedcore.config.recipe_errors import explain, first_reason
from fedcore.config.recipe_faults import misplaced, require_valid
from fedcore.config.trust import guard
from fedcore.errors import InputError, InputErrors
from fedcore.files.reading import read_yaml

Settings = TypeVar("Settings")


def read_settings(kind: type[Settings], path: Path) -> Settings:
    """The settings in a file; keys that it lacks have the defaults of the dataclass.

    Raises:
        InputErrors: All errors of the file: keys that are unknown, values that are wrong.
        InputError: The file cannot be read, or values do not fit one another.
    """
    return settings_of(kind, read_yaml(path, "correct it"), path)


def settings_of(kind: type[Settings], tree: dict[str, Any], path: Path) -> Settings:
    """As `read_settings`, of keys and values that were read already from the file at `path`, or will be written."""
    guard()
    set_parsing_settings(docstring_parse_attribute_docstrings=True)
    where = str(path)
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(kind, as_group=False)
    if misplaced(parser, tree):
        require_valid(parser, tree, where, path.stem)
    try:
        config = parser.parse_object(tree)
    except (argparse.ArgumentError, ImportError) as e:
        require_valid(parser, tree, where, path.stem)
        raise InputErrors(where, [explain(str(e), option_names(parser, tree))]) from e
    try:
        return kind(**parser.instantiate(config))
    except (ValueError, TypeError) as e:
        raise InputError(f"{path}: {first_reason(str(e))}") from e
