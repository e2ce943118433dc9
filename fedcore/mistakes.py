"""What jsonargparse says of a mistake in a recipe, in words that name the key and the nearest right one."""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Iterable
from types import ModuleType

from jsonargparse import ArgumentParser

from fedcore.nearest import nearest
from fedcore.trust import refusal


def explain(parser: ArgumentParser, text: str) -> str:
    """jsonargparse's message in short words, with the nearest right key or class."""
    if told := refusal(text):
        return f"{'.'.join(keys_of(text))}: {told}" if keys_of(text) else told
    if key := unknown_key(text):
        return f"{key!r} is no key of this recipe{nearest(key, _known_keys(parser, key, text))}"
    if missing := re.search(r"module '([\w.]+)' has no attribute '(\w+)'", text):
        module, name = missing.groups()
        return f"there is no class {module}.{name}{nearest(name, _public(module))}"
    if wrong := re.search(r"Expected '([\w.]+)' to be a subclass of (?:<class ')?([\w.]*\w)", text):
        return f"{'.'.join(keys_of(text))}: {wrong[1]} is not a {wrong[2]}"
    if missing := re.search(r"No module named '([\w.]+)'", text):
        return f"there is no module {missing[1]!r}; a class is named by its import path, such as fedssl.moco.MoCo"
    keys = ".".join(keys_of(text))
    last = re.sub(
        r"<class '([\w.]+)'>", r"\1", text.strip().splitlines()[-1].strip().split(". Got value: Namespace")[0]
    )
    return f"{keys}: {last}" if keys else last


def unknown_key(text: str) -> str | None:
    """The full name of a key that jsonargparse does not know, if that is what it says."""
    if found := re.search(r"unrecognized arguments: --([\w.]+)", text):
        return found[1]
    if found := re.search(r"Group '([\w.]+)' does not accept option '([\w.]+)'", text):
        return f"{found[1]}.{found[2]}"
    if found := re.search(r"Option '([\w.]+)' is not accepted", text):
        return ".".join([f"{key}.init_args" for key in keys_of(text[: found.start()])] + [found[1]])
    return None


def keys_of(text: str) -> list[str]:
    """The keys that jsonargparse was reading, the outermost first."""
    return re.findall(r'Parser key "([\w.]+)"', text)


def meant(text: str) -> str:
    """jsonargparse tries every type of a union in turn, nested ones too; the first refusal that says why is meant."""
    if told := refusal(text):
        return told
    reasons = re.findall(r"^ *- (?!Does not validate)(.+)$", text, re.MULTILINE)
    return reasons[0] if reasons else text


def _known_keys(parser: ArgumentParser, key: str, text: str) -> Iterable[str]:
    # Its class is named before the refusal, nearest last, or else quoted behind it with those it holds after it.
    before, _, behind = text.partition("is not accepted")
    classes = re.findall(r"given class_path '([\w.]+)'", before)[-1:] or re.findall(r"class_path='([\w.]+)'", behind)
    if ".init_args." in key and classes:
        prefix = key.rsplit(".", 1)[0]
        return [f"{prefix}.{name}" for name in _arguments_of(classes[0])] + [
            prefix.removesuffix(".init_args") + ".class_path"
        ]
    return [action.dest for action in parser._actions if action.dest not in ("help", "print_config")]


def _arguments_of(class_path: str) -> list[str]:
    module, name = class_path.rsplit(".", 1)
    known = getattr(_imported(module), name, None)
    return list(inspect.signature(known).parameters) if callable(known) else []


def _public(module: str) -> list[str]:
    return [name for name in dir(_imported(module)) if not name.startswith("_")]


def _imported(module: str) -> ModuleType | None:
    """As jsonargparse left it: the text may quote a file, whose word is never imported here."""
    return sys.modules.get(module)
