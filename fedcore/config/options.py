"""The full names of a command's options, and suggestions for unknown ones."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Iterator, Mapping
from difflib import get_close_matches
from typing import Any

from jsonargparse import ArgumentParser

SYNONYMS = {
    "learning_rate": "lr", "epochs": "max_epochs", "batch": "batch_size", "logger": "loggers", "device": "accelerator",
    "gpu": "accelerator", "gpus": "accelerator", "num_workers": "workers", "num_rounds": "count", "path": "manifest",
    "csv": "manifest", "image_size": "size",
}  # fmt: skip
"""Name of an option in other tools -> last part of its name here."""
_MOST_SUGGESTIONS = 4


def option_names(parser: ArgumentParser, tree: Mapping[str, Any]) -> list[str]:
    """All options, including those of the classes in the recipe `tree` and of the default classes."""
    try:
        config = parser.parse_object(dict(tree))
    except (argparse.ArgumentError, ImportError, ValueError):
        config = parser.get_defaults()
    names = [*(action.dest for action in parser._actions), *_leaves(config.as_dict())]
    return [name for name in dict.fromkeys(names) if _last(name) not in ("help", "print_config", "config")]


def did_you_mean(name: str, options: Iterable[str]) -> str:
    """A clause ` (did you mean 'x'?)` with options of the same last name or of similar spelling, or ""."""
    known = [option for option in options if option != name]
    last = SYNONYMS.get(_last(name), _last(name))
    suggested = _called(last, name, known)
    for like in get_close_matches(last, {_last(option) for option in known}, n=1, cutoff=0.8):
        suggested = suggested or _called(like, name, known)
    suggested = suggested or get_close_matches(name, known, n=1, cutoff=0.7)
    return f" (did you mean {' or '.join(map(repr, suggested))}?)" if 0 < len(suggested) <= _MOST_SUGGESTIONS else ""


def options_of_group(group: str, options: Iterable[str]) -> list[str]:
    """The options in a group such as `rounds`."""
    return [option for option in options if option.startswith(f"{group}.")]


def _called(last: str, name: str, options: Iterable[str]) -> list[str]:
    """Options of this last name; of several, those that share most parts with `name`."""
    shared = {option: len({*option.split(".")} & {*name.split(".")}) for option in options if _last(option) == last}
    return [option for option, count in shared.items() if count == max(shared.values())]


def _last(option: str) -> str:
    return option.rpartition(".")[2]


def _leaves(tree: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    for key, value in tree.items():
        if isinstance(value, Mapping) and value:
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}"
