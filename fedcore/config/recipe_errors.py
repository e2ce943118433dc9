"""What jsonargparse says of a mistake in a recipe or an option: what must hold, what was found, what to do."""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Iterator, Sequence
from difflib import get_close_matches
from types import ModuleType

from fedcore.config.options import did_you_mean, inside
from fedcore.config.trust import KIT, no_module, refusal
from fedcore.suggest import suggestion

_KINDS = {"int": "a whole number", "float": "a number", "bool": "true or false", "str": "text", "NoneType": "null",
          "tuple": "a list", "list": "a list"}  # fmt: skip
_SHOWN = 6


def explain(text: str, options: Sequence[str]) -> str:
    """jsonargparse's message in short words, with the nearest right option or class; `options` are all there are."""
    if told := refusal(text):
        return f"{'.'.join(keys_of(text))}: {told}" if keys_of(text) else told
    if key := unknown_key(text):
        return f"unknown option {key!r}{_instead(key, options, text)}"
    if missing := re.search(r"module '([\w.]+)' has no attribute '(\w+)'", text):
        module, name = missing.groups()
        return f"there is no class {module}.{name}{suggestion(name, _public(module))}"
    if missing := re.search(r"No module named '([\w.]+)'", text):
        return no_module(missing[1])
    if bare := re.search(r"argument --([\w.+]+): expected (?:one|at least one) argument", text):
        return f"option '{bare[1]}' must be followed by a value"
    if stray := re.search(r"unrecognized arguments: ([^-].*)", text):
        return f"no word was expected here, got {stray[1]}; options are written --KEY VALUE"
    keys = ".".join(keys_of(text))
    return _of_a_value(keys, text, options) or (f"{keys}: {_last_line(text)}" if keys else _last_line(text))


def unknown_key(text: str) -> str | None:
    """The full name of an option that jsonargparse does not know, if that is what it says."""
    if found := re.search(r"unrecognized arguments: --([\w.]+\+?)", text):
        return found[1]
    if found := re.search(r"Group '([\w.]+)' does not accept option '([\w.]+)'", text):
        return f"{found[1]}.{found[2]}"
    if found := re.search(r"Option '([\w.]+)' is not accepted", text):
        return ".".join([f"{key}.init_args" for key in keys_of(text[: found.start()])] + [found[1]])
    return None


def keys_of(text: str) -> list[str]:
    """The keys that jsonargparse was reading, the outermost first; of a group it says the same one twice."""
    return list(dict.fromkeys(re.findall(r'Parser key "([\w.]+)"', text)))


def meant(text: str) -> str:
    """jsonargparse tries every type of a union in turn, nested ones too; the first refusal that says why is meant."""
    if told := refusal(text):
        return told
    reasons = re.findall(r"^ *- (?!Does not validate)(.+)$", text, re.MULTILINE)
    return reasons[0] if reasons else text


def _of_a_value(key: str, text: str, options: Sequence[str]) -> str | None:
    """What is wrong with the value of the option `key`."""
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
            f"did you mean {path}?" if path else "a class is named by its import path, such as fedssl.methods.moco.MoCo"
        )
        return f"{key} must be {'null or ' if _may_be_null(text) else ''}a class, got {found[1]}; {advice}"
    if found := re.search(r"Unable to load config ['\"](.*?)['\"]", text):
        held = inside(key, options)
        return f"{key} holds several options and takes no value itself, got {found[1]}; give {_listed(held)}"
    kinds = re.findall(r"Expected an? (?:member of )?(.+?)(?:\. Got value: .*)?$", text, re.MULTILINE)
    value = re.search(r"(?:Got|Given) value: (.*?)(?:\. Got value: Namespace.*)?$", text, re.MULTILINE)
    if not kinds or not value:
        return None
    # An option of one kind or null is asked for that kind; the kinds of a union are told once each.
    wanted = [kind for kind in dict.fromkeys(map(_kind, kinds)) if kind != "null" or len(kinds) == 1]
    advice = f"; a list is written '[{value[1]}]'" if wanted == [_KINDS["tuple"]] else ""
    return f"{key} must be {' or '.join(wanted)}, got {value[1]}{advice}"


def _kind(said: str) -> str:
    """A type as a reader would call it."""
    if choices := re.fullmatch(r"typing\.Literal\[(.*)\]|<enum '\w+'>: \{(.*)\}", said):
        return f"one of {', '.join((choices[1] or choices[2]).replace(' ', '').replace(chr(39), '').split(','))}"
    name = re.sub(r"<class '([\w.]+)'>", r"\1", said)
    return _KINDS.get(name, f"a {name}")


def _may_be_null(text: str) -> bool:
    return "Expected a <class 'NoneType'>" in text


def _listed(options: Sequence[str]) -> str:
    shown = ", ".join(f"--{option}" for option in options[:_SHOWN])
    return f"one of {shown}{' ...' if len(options) > _SHOWN else ''}"


def _last_line(text: str) -> str:
    last = text.strip().splitlines()[-1].strip().split(". Got value: Namespace")[0]
    return re.sub(r"<class '([\w.]+)'>", r"\1", last)


def _instead(key: str, options: Sequence[str], text: str) -> str:
    if key.endswith("+"):
        return f"; a list is given whole, --{key[:-1]} '[a,b]'"
    # Its class is named before the refusal, nearest last, or else quoted behind it with those it holds after it.
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
    """The import path of the kit's class of this name, or of one of nearly this name, among modules imported so far."""
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
    """As jsonargparse left it: the text may quote a file, whose word is never imported here."""
    return sys.modules.get(module)
