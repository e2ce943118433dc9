"""All errors of a recipe at once, where jsonargparse stops at the first."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentParser

from fedcore.config.options import option_names
from fedcore.config.recipe_errors import explain, keys_of, unknown_key
from fedcore.config.recipe_files import command_of
from fedcore.config.trust import running_trusted
from fedcore.errors import InputError, InputErrors


def misplaced(parser: ArgumentParser, tree: Mapping[str, Any]) -> list[str]:
    """Errors of the file that jsonargparse does not report."""
    found = [
        f"{key} must hold keys and values, found {tree[key]!r}"
        for key in parser.groups or ()
        if not isinstance(tree.get(key, {}), dict)
    ]
    if "config" in tree:
        found.append("unknown option 'config'; a recipe cannot include another one")
    return found


def require_valid(parser: ArgumentParser, tree: Mapping[str, Any], where: Path | str, name: str) -> None:
    """Raises InputErrors with all errors of the recipe: what is wrong is removed, key by key, until the rest is valid.

    `where` is the file, or the name of a recipe that is in no file.
    """
    faults, rest, errors = misplaced(parser, tree), deepcopy(dict(tree)), list[str]()
    rest.pop("config", None)
    while True:
        try:
            with running_trusted():
                parser.parse_object(rest)
            break
        except (argparse.ArgumentError, ImportError) as e:
            errors.append(str(e))
            key = unknown_key(str(e)) or ".".join(keys_of(str(e)))
            if not key or not _remove(rest, key.split(".")):
                break
    if errors or faults:
        if isinstance(where, Path):
            _require_own_recipe(where, name)
        options = option_names(parser, rest)
        raise InputErrors(str(where), [*faults, *(explain(text, options) for text in errors)])


def _require_own_recipe(path: Path, name: str) -> None:
    """Raises InputError if the header of the recipe names another command."""
    if (other := command_of(path)) and other != name:
        raise InputError(
            f"{path.stem} is a recipe for {other!r}, not for {name!r}; run: fedpretrain {other} {path.stem} ..."
        )


def _remove(tree: Any, path: list[str]) -> bool:
    """Deletes a key by its path, which has no list indices; `init_args` may be missing in the path or in the tree."""
    head, *rest = path
    if isinstance(tree, list):
        return any(_remove(item, path) for item in tree)
    if not isinstance(tree, dict):
        return False
    if head == "init_args" and head not in tree:
        return _remove(tree, rest)
    if head not in tree and "init_args" in tree:
        return _remove(tree["init_args"], path)
    if head not in tree:
        return tree.pop(".".join(path), None) is not None
    if not rest:
        del tree[head]
        return True
    return _remove(tree[head], rest)
