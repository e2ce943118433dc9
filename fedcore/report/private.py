"""Texts without absolute paths, for pages that leave the machine: a path is shortened to its last part."""

from __future__ import annotations

import re
from pathlib import PurePosixPath, PureWindowsPath
from typing import Any

import yaml

from fedcore.files.reading import parse_yaml

# Folders may hold spaces, so "/scans/Jane Doe/a.csv" loses both names. In a sentence with another slash this removes
# too much rather than too little.
_PATH = re.compile(
    r"""(?<![\w.])(?:[A-Za-z]:|~\w*|file:)?[\\/]+(?![\s\\/])  # a root: /, C:\, ~/, \\server
        (?:[^\\/\n'"<>|:;,]+[\\/]+)*                           # folders
        ([^\\/\s'"<>|:;,)\]}]+)[\\/]*                          # the last part""",
    re.VERBOSE,
)


def shorten_paths(value: Any) -> Any:
    """`value` (JSON-like, any depth) with each absolute path in its texts and keys cut to the last part."""
    if isinstance(value, str):
        return _shorten(value)
    if isinstance(value, dict):
        return {shorten_paths(key): shorten_paths(item) for key, item in value.items()}
    if isinstance(value, list):
        return [shorten_paths(item) for item in value]
    return value


def shorten_recipe(text: str) -> str:
    """A recipe's YAML with absolute paths shortened and comments removed, which may name anything."""
    try:
        return str(yaml.safe_dump(shorten_paths(parse_yaml(text)), sort_keys=False, allow_unicode=True))
    except ValueError:
        return _shorten(text)


def _shorten(text: str) -> str:
    whole = text.strip()
    if "\n" not in whole and PurePosixPath(whole).is_absolute():
        return PurePosixPath(whole).name
    if "\n" not in whole and PureWindowsPath(whole).is_absolute():
        return PureWindowsPath(whole).name
    return _PATH.sub(r"\1", text)
