"""Names that should be one and are not: classes, sites or patients that differ in case, blanks or form alone."""

from __future__ import annotations

import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from fractions import Fraction

from fedcore.data.findings import NO_FINDING, SEPARATOR, canonical, says_nothing
from fedcore.data.manifest.cells import MISSING, rows_told
from fedcore.errors import InputErrors

_BETWEEN = re.compile(r"(?<!\d)[\s_]+|[\s_]+(?!\d)|(?<=[^\W\d])-(?=[^\W\d])")
"""Blanks and what is written for them; not between digits, where they set numbers apart."""
_NUMBER = re.compile(r"[+-]?\d+(\.\d+)?")


def label_fault(label: str) -> str:
    """Why a cell says neither a class, nor findings, nor that there is no label; '' if it does."""
    if label.casefold() == "none" and label != "none":
        return (
            f"label '{label}' may say that nobody has looked, or that nothing was found; leave the cell empty, or "
            f"write '{NO_FINDING}' (or 'none')"
        )
    names = canonical(label).split(SEPARATOR)
    if len(names) > 1 and (words := [name for name in names if name.casefold() in MISSING - {"none"}]):
        return f"label '{label}' holds a finding and '{words[0]}', a word for no label; take one of them out"
    return ""


def kind_of_name(name: str) -> str:
    """Equal for names that a person would take for one: `Lung_cancer` and `lung cancer`, `01` and `1`."""
    if says_nothing(name):
        return NO_FINDING
    text = unicodedata.normalize("NFKC", name).casefold().strip()
    if _NUMBER.fullmatch(text):
        return str(Fraction(text))
    return _BETWEEN.sub("", text)


def alike(rows_by_name: Mapping[str, Iterable[int]]) -> list[dict[str, Iterable[int]]]:
    """Groups of names that a person would take for one, with their rows."""
    groups: dict[str, dict[str, Iterable[int]]] = defaultdict(dict)
    for name, rows in sorted(rows_by_name.items()):
        groups[kind_of_name(name)][name] = rows
    return [group for group in groups.values() if len(group) > 1]


def alike_faults(what: str, rows_by_name: Mapping[str, Iterable[int]]) -> list[str]:
    """Of `classes` or `sites`, a fault a group."""
    faults = []
    for group in alike(rows_by_name):
        told = " and ".join(f"'{name}' ({rows_told(rows)})" for name, rows in group.items())
        faults.append(f"{what} {told} seem to be one, written in several ways; write one of them everywhere")
    return faults


def require_distinct(classes: Sequence[str]) -> None:
    """Of several manifests together. Raises InputErrors where classes seem to be one."""
    names = {name for label in classes for name in label.split(SEPARATOR)}
    if faults := [
        f"classes {' and '.join(map(repr, group))} seem to be one" for group in alike(dict.fromkeys(names, ()))
    ]:
        raise InputErrors("labels", faults, "Write them in one way in all manifests.")
