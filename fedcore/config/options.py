"""The options of a command by their full names, and which of them a wrong name may mean."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Iterator, Mapping
from difflib import get_close_matches
from typing import Any

from jsonargparse import ArgumentParser

OTHER_WORDS = {
    "learning_rate": "lr", "epochs": "max_epochs", "batch": "batch_size", "logger": "loggers", "device": "accelerator",
    "gpu": "accelerator", "gpus": "accelerator", "num_workers": "workers", "num_rounds": "count", "path": "manifest",
    "csv": "manifest", "image_size": "size",
}  # fmt: skip
"""What other tools call an option, and its last name here."""
_MOST = 4


def option_names(parser: ArgumentParser, tree: Mapping[str, Any]) -> list[str]:
    """Full names of all options, those of the classes that `tree`, a recipe, names or leaves as they are included."""
    try:
        config = parser.parse_object(dict(tree))
    except (argparse.ArgumentError, ImportError, ValueError):
        config = parser.get_defaults()
    names = [*(action.dest for action in parser._actions), *_leaves(config.as_dict())]
    return [name for name in dict.fromkeys(names) if _last(name) not in ("help", "print_config", "config")]


def did_you_mean(name: str, options: Iterable[str]) -> str:
    """A clause ` (did you mean 'x'?)` for a name of no option: one of the same last name, or of like spelling."""
    known = [option for option in options if option != name]
    last = OTHER_WORDS.get(_last(name), _last(name))
    meant = _called(last, name, known)
    for like in get_close_matches(last, {_last(option) for option in known}, n=1, cutoff=0.8):
        meant = meant or _called(like, name, known)
    meant = meant or get_close_matches(name, known, n=1, cutoff=0.7)
    return f" (did you mean {' or '.join(map(repr, meant))}?)" if 0 < len(meant) <= _MOST else ""


def inside(group: str, options: Iterable[str]) -> list[str]:
    """The options that a group such as `rounds` holds."""
    return [option for option in options if option.startswith(f"{group}.")]


def _called(last: str, name: str, options: Iterable[str]) -> list[str]:
    """Options of this last name, of several those that have most words in common with `name`."""
    words = {option: len({*option.split(".")} & {*name.split(".")}) for option in options if _last(option) == last}
    return [option for option, count in words.items() if count == max(words.values())]


def _last(option: str) -> str:
    return option.rpartition(".")[2]


def _leaves(tree: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    for key, value in tree.items():
        if isinstance(value, Mapping) and value:
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}"
