"""Nearly equal names of classes, sites or patients, which differ only in case, blanks or form."""

from __future__ import annotations

import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from fractions import Fraction

from fedcore.data.findings import NO_FINDING, SEPARATOR, is_no_finding, normalise_label
from fedcore.data.manifest.cells import MISSING, format_rows
from fedcore.errors import InputErrors

_BETWEEN = re.compile(r"(?<!\d)[\s_]+|[\s_]+(?!\d)|(?<=[^\W\d])-(?=[^\W\d])")
"""Blanks, underscores and hyphens; not between digits, where they separate numbers."""
_NUMBER = re.compile(r"[+-]?\d+(\.\d+)?")


def label_error(label: str) -> str:
    """Why the meaning of a label cell is unclear; '' if it is clear."""
    if label.casefold() == "none" and label != "none":
        return (
            f"label '{label}' is ambiguous; leave the cell empty if the image is unlabelled, or write '{NO_FINDING}' "
            "(or 'none') if it has no finding"
        )
    names = normalise_label(label).split(SEPARATOR)
    if len(names) > 1 and (words := [name for name in names if name.casefold() in MISSING - {"none"}]):
        return f"label '{label}' contains a finding and '{words[0]}', a word for no label; remove one of them"
    return ""


def name_key(name: str) -> str:
    """Equal for names that a person would read as one: `Lung_cancer` and `lung cancer`, `01` and `1`."""
    if is_no_finding(name):
        return NO_FINDING
    text = unicodedata.normalize("NFKC", name).casefold().strip()
    if _NUMBER.fullmatch(text):
        return str(Fraction(text))
    return _BETWEEN.sub("", text)


def similar_names(rows_by_name: Mapping[str, Iterable[int]]) -> list[dict[str, Iterable[int]]]:
    """Groups of names with equal keys, with their rows."""
    groups: dict[str, dict[str, Iterable[int]]] = defaultdict(dict)
    for name, rows in sorted(rows_by_name.items()):
        groups[name_key(name)][name] = rows
    return [group for group in groups.values() if len(group) > 1]


def similar_name_errors(what: str, rows_by_name: Mapping[str, Iterable[int]]) -> list[str]:
    """One error per group of similar names of `classes` or `sites`."""
    errors = []
    for group in similar_names(rows_by_name):
        names = " and ".join(f"'{name}' ({format_rows(rows)})" for name, rows in group.items())
        errors.append(f"{what} {names} seem to be one, written in several ways; write one of them everywhere")
    return errors


def require_distinct(classes: Sequence[str]) -> None:
    """Raises InputErrors where classes, of several manifests together, seem to be one."""
    names = {name for label in classes for name in label.split(SEPARATOR)}
    if errors := [
        f"classes {' and '.join(map(repr, group))} seem to be one" for group in similar_names(dict.fromkeys(names, ()))
    ]:
        raise InputErrors("labels", errors, "Write them in one way in all manifests.")
