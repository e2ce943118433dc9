"""A recipe: YAML, checked against the signature of a stage, with overrides from the command line."""

from __future__ import annotations

import argparse
import importlib
import inspect
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import ArgumentParser, Namespace, set_parsing_settings

from fedcore.errors import Faults, InputError
from fedcore.nearest import nearest
from fedcore.recipes import find


@dataclass(frozen=True)
class Recipe:
    parser: ArgumentParser
    config: Namespace
    text: str
    """Every value resolved, as YAML."""

    @property
    def out(self) -> Path:
        return Path(self.config.out)

    @property
    def resume(self) -> bool:
        return bool(self.config.resume)

    def build(self) -> dict[str, Any]:
        """The stage's arguments; what a class refuses becomes an InputError."""
        try:
            built = self.parser.instantiate(self.config)
        except (ValueError, TypeError) as e:
            raise InputError(f"the recipe cannot be built: {_meant(str(e))}") from e
        return {k: v for k, v in built.items() if k not in ("config", "out", "resume")}


def parser_of(stage: Callable[..., Any], name: str) -> ArgumentParser:
    set_parsing_settings(docstring_parse_attribute_docstrings=True)
    parser = ArgumentParser(
        prog=f"fedpretrain {name}", description=inspect.cleandoc(stage.__doc__ or "").split("\n")[0],
        allow_abbrev=False, exit_on_error=False,
    )  # fmt: skip
    parser.add_argument("--config", action="config", help="Recipe: a YAML file or the name of a shipped one.")
    parser.add_argument("--out", type=str, help="Folder of the run; checkpoints/<recipe> if not given.")
    parser.add_argument("--resume", type=bool, default=False, help="Go on with the run in `out`.")
    parser.add_function_arguments(stage, as_positional=False, skip={"run"})
    return parser


def read_recipe(stage: Callable[..., Any], name: str, arguments: Sequence[str]) -> Recipe:
    """Raises Faults with every unknown key of the file, or InputError for the first other mistake."""
    parser = parser_of(stage, name)
    arguments, path = _with_path(arguments)
    if path:
        _require_known_keys(parser, path)
    try:
        config = parser.parse_args(arguments)
    except argparse.ArgumentError as e:
        raise InputError(explain(parser, str(e))) from e
    config.out = config.out or str(Path("checkpoints") / (path.stem if path else name))
    return Recipe(parser, config, parser.dump(config, skip_unset=False))


def _with_path(arguments: Sequence[str]) -> tuple[list[str], Path | None]:
    """A first word without dashes is the recipe; names of shipped recipes become their paths."""
    words = list(arguments)
    if words and not words[0].startswith("-"):
        words.insert(0, "--config")
    words = [part for word in words for part in (word.split("=", 1) if word.startswith("--config=") else [word])]
    if "--config" not in words[:-1]:
        return words, None
    at = words.index("--config") + 1
    path = find(words[at])
    words[at] = str(path)
    return words, path


def _place(error: yaml.YAMLError | UnicodeDecodeError) -> str:
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark:
        return f"line {error.problem_mark.line + 1}: {error.problem}"
    return str(error).splitlines()[0]


def _meant(text: str) -> str:
    """jsonargparse tries every type of a union in turn, nested ones too; the first refusal that says why is meant."""
    reasons = re.findall(r"^ *- (?!Does not validate)(.+)$", text, re.MULTILINE)
    return reasons[0] if reasons else text


def _require_known_keys(parser: ArgumentParser, path: Path) -> None:
    """Takes one unknown key after another out of the tree, so that all are reported together."""
    try:
        tree = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as e:
        raise InputError(f"{path} is no valid YAML: {_place(e)}") from e
    if not isinstance(tree, dict):
        found = "nothing" if tree is None else f"a {type(tree).__name__}"
        raise InputError(f"{path} must hold keys and values, found {found}")
    faults = [
        f"{key} must hold keys and values, found {tree[key]!r}"
        for key in parser.groups or ()
        if not isinstance(tree.get(key, {}), dict)
    ]
    while True:
        try:
            parser.parse_object(tree)
            break
        except argparse.ArgumentError as e:
            faults.append(explain(parser, str(e)))
            key = _unknown_key(str(e)) or ".".join(_inside(str(e)))
            if not key or not _remove(tree, key.split(".")):
                break
    if faults:
        raise Faults(str(path), faults)


def explain(parser: ArgumentParser, text: str) -> str:
    """jsonargparse's message in short words, with the nearest right key or class."""
    if key := _unknown_key(text):
        return f"{key!r} is no key of this recipe{nearest(key, _known_keys(parser, key, text))}"
    if missing := re.search(r"module '([\w.]+)' has no attribute '(\w+)'", text):
        module, name = missing.groups()
        return f"there is no class {module}.{name}{nearest(name, _public(module))}"
    if wrong := re.search(r"Expected '([\w.]+)' to be a subclass of (?:<class ')?([\w.]*\w)", text):
        return f"{'.'.join(_inside(text))}: {wrong[1]} is not a {wrong[2]}"
    if missing := re.search(r"No module named '([\w.]+)'", text):
        return f"there is no module {missing[1]!r}; a class is named by its import path, such as fedssl.moco.MoCo"
    keys = ".".join(_inside(text))
    last = re.sub(
        r"<class '([\w.]+)'>", r"\1", text.strip().splitlines()[-1].strip().split(". Got value: Namespace")[0]
    )
    return f"{keys}: {last}" if keys else last


def _unknown_key(text: str) -> str | None:
    """The full name of a key that jsonargparse does not know, if that is what it says."""
    if found := re.search(r"unrecognized arguments: --([\w.]+)", text):
        return found[1]
    if found := re.search(r"Group '([\w.]+)' does not accept option '([\w.]+)'", text):
        return f"{found[1]}.{found[2]}"
    if found := re.search(r"Option '([\w.]+)' is not accepted", text):
        inside = _inside(text[: found.start()])
        return ".".join([f"{key}.init_args" for key in inside] + [found[1]])
    return None


def _inside(text: str) -> list[str]:
    """The keys that jsonargparse was reading, the outermost first."""
    return re.findall(r'Parser key "([\w.]+)"', text)


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
    return list(inspect.signature(getattr(importlib.import_module(module), name)).parameters)


def _public(module: str) -> list[str]:
    return [name for name in dir(importlib.import_module(module)) if not name.startswith("_")]


def _remove(tree: Any, path: list[str]) -> bool:
    """Deletes a key by its path, which counts no places in lists; `init_args` may be left out of path and tree."""
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
