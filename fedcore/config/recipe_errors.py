"""Rewrites jsonargparse's error messages: what must hold, what was found, what to do."""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Iterator, Sequence
from difflib import get_close_matches
from types import ModuleType

from fedcore.config.options import did_you_mean, options_of_group
from fedcore.config.trust import KIT, denied_import, module_not_found
from fedcore.suggest import suggestion

_KINDS = {"int": "a whole number", "float": "a number", "bool": "true or false", "str": "text", "NoneType": "null",
          "tuple": "a list", "list": "a list"}  # fmt: skip
_SHOWN = 6


def explain(text: str, options: Sequence[str]) -> str:
    """A short message for an error of jsonargparse, with a suggestion; `options` are all valid options."""
    if message := denied_import(text):
        return f"{'.'.join(keys_of(text))}: {message}" if keys_of(text) else message
    if key := unknown_key(text):
        return f"unknown option {key!r}{_suggestion(key, options, text)}"
    if missing := re.search(r"module '([\w.]+)' has no attribute '(\w+)'", text):
        module, name = missing.groups()
        return f"there is no class {module}.{name}{suggestion(name, _public(module))}"
    if missing := re.search(r"No module named '([\w.]+)'", text):
        return module_not_found(missing[1])
    if bare := re.search(r"argument --([\w.+]+): expected (?:one|at least one) argument", text):
        return f"option '{bare[1]}' must be followed by a value"
    if stray := re.search(r"unrecognized arguments: ([^-].*)", text):
        return f"unexpected argument {stray[1]}; write options as --KEY VALUE"
    keys = ".".join(keys_of(text))
    return _wrong_value(keys, text, options) or (f"{keys}: {_last_line(text)}" if keys else _last_line(text))


def unknown_key(text: str) -> str | None:
    """The full name of the option that is unknown to jsonargparse, if that is the error."""
    if found := re.search(r"unrecognized arguments: --([\w.]+\+?)", text):
        return found[1]
    if found := re.search(r"Group '([\w.]+)' does not accept option '([\w.]+)'", text):
        return f"{found[1]}.{found[2]}"
    if found := re.search(r"Option '([\w.]+)' is not accepted", text):
        return ".".join([f"{key}.init_args" for key in keys_of(text[: found.start()])] + [found[1]])
    return None


def keys_of(text: str) -> list[str]:
    """The keys that jsonargparse was parsing, outermost first; it repeats the key of a group."""
    return list(dict.fromkeys(re.findall(r'Parser key "([\w.]+)"', text)))


def first_reason(text: str) -> str:
    """jsonargparse tries all types of a union, also nested ones; the first error with a reason is the relevant one."""
    if message := denied_import(text):
        return message
    reasons = re.findall(r"^ *- (?!Does not validate)(.+)$", text, re.MULTILINE)
    return reasons[0] if reasons else text


def _wrong_value(key: str, text: str, options: Sequence[str]) -> str | None:
    """The error in the value of the option `key`."""
    if found := re.search(r"given class_path '([\w.]+)':\s+the following arguments are required: ([\w, ]+)", text):
        needed = [f"{key}.{name}" for name in found[2].split(", ")]
        return (
            f"{key}: {found[1]} has no default for {' and '.join(needed)}; give {'it' if len(needed) == 1 else 'them'}"
        )
    if found := re.search(r"Expected '([\w.]+)' to be a subclass of (?:<class ')?([\w.]*\w)", text):
        return f"{key}: {found[1]} is not a {found[2]}"
    if found := re.search(r"Expected a dot import path string: (.+)", text):
        path = _class_like(found[1])
        advice = (
            f"did you mean {path}?" if path else "give the import path of a class, such as fedssl.methods.moco.MoCo"
        )
        return f"{key} must be {'null or ' if _may_be_null(text) else ''}a class, got {found[1]}; {advice}"
    if found := re.search(r"Unable to load config ['\"](.*?)['\"]", text):
        grouped = options_of_group(key, options)
        return f"{key} is a group of options and has no value itself, got {found[1]}; set {_listed(grouped)}"
    kinds = re.findall(r"Expected an? (?:member of )?(.+?)(?:\. Got value: .*)?$", text, re.MULTILINE)
    value = re.search(r"(?:Got|Given) value: (.*?)(?:\. Got value: Namespace.*)?$", text, re.MULTILINE)
    if not kinds or not value:
        return None
    # Of an option that may be null, the other kinds are named; each kind of a union once.
    wanted = [kind for kind in dict.fromkeys(map(_kind, kinds)) if kind != "null" or len(kinds) == 1]
    advice = f"; write a list as '[{value[1]}]'" if wanted == [_KINDS["tuple"]] else ""
    return f"{key} must be {' or '.join(wanted)}, got {value[1]}{advice}"


def _kind(description: str) -> str:
    """The name of a type for readers."""
    if choices := re.fullmatch(r"typing\.Literal\[(.*)\]|<enum '\w+'>: \{(.*)\}", description):
        return f"one of {', '.join((choices[1] or choices[2]).replace(' ', '').replace(chr(39), '').split(','))}"
    name = re.sub(r"<class '([\w.]+)'>", r"\1", description)
    return _KINDS.get(name, f"a {name}")


def _may_be_null(text: str) -> bool:
    return "Expected a <class 'NoneType'>" in text


def _listed(options: Sequence[str]) -> str:
    shown = ", ".join(f"--{option}" for option in options[:_SHOWN])
    return f"one of {shown}{' ...' if len(options) > _SHOWN else ''}"


def _last_line(text: str) -> str:
    last = text.strip().splitlines()[-1].strip().split(". Got value: Namespace")[0]
    return re.sub(r"<class '([\w.]+)'>", r"\1", last)


def _suggestion(key: str, options: Sequence[str], text: str) -> str:
    if key.endswith("+"):
        return f"; set the whole list, --{key[:-1]} '[a,b]'"
    # Its class is named before the error, the innermost last, or quoted behind it, followed by the classes inside it.
    before, _, behind = text.partition("is not accepted")
    classes = re.findall(r"given class_path '([\w.]+)'", before)[-1:] or re.findall(r"class_path='([\w.]+)'", behind)
    if ".init_args." in key and classes:
        prefix = key.rsplit(".", 1)[0]
        deeper = [
            option for option in options if option.startswith(f"{prefix}.") and option.count(".") > key.count(".")
        ]
        own = [f"{prefix}.{name}" for name in _arguments_of(classes[0])]
        options = [*own, f"{prefix.removesuffix('.init_args')}.class_path", *deeper]
    return did_you_mean(key, options)


def _arguments_of(class_path: str) -> list[str]:
    module, name = class_path.rsplit(".", 1)
    known = getattr(_imported(module), name, None)
    return list(inspect.signature(known).parameters) if callable(known) else []


def _public(module: str) -> list[str]:
    return [name for name in dir(_imported(module)) if not name.startswith("_")]


def _class_like(name: str) -> str | None:
    """The import path of fedpretrain's class of this or a similar name, among modules imported so far."""
    known = dict(_classes())
    close = [name] if name in known else get_close_matches(name, known, n=1, cutoff=0.7)
    return known[close[0]] if close else None


def _classes() -> Iterator[tuple[str, str]]:
    for path, module in sorted(sys.modules.items()):
        if path.partition(".")[0] in KIT:
            for name, found in vars(module).items():
                if isinstance(found, type) and found.__module__ == path and not name.startswith("_"):
                    yield name, f"{path}.{name}"


def _imported(module: str) -> ModuleType | None:
    """Only if jsonargparse imported it: the text may quote a file, and nothing that a file names is imported here."""
    return sys.modules.get(module)
