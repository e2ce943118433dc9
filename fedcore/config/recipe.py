"""Reads a recipe: YAML that is checked against the signature of a stage, with overrides from the command line."""

from __future__ import annotations

import argparse
import importlib
import inspect
import json
import pkgutil
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentParser, DefaultHelpFormatter, Namespace, set_parsing_settings

from fedcore.config.arguments import require_seeds
from fedcore.config.options import option_names
from fedcore.config.recipe_errors import explain, first_reason
from fedcore.config.recipe_faults import misplaced, require_valid
from fedcore.config.recipe_files import find
from fedcore.config.trust import guard, running_trusted
from fedcore.errors import InputError, InputErrors
from fedcore.files.reading import parse_yaml, read_utf8


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
        """The arguments of the stage.

        Raises:
            InputError: A class does not accept its arguments.
        """
        guard()
        try:
            built = self.parser.instantiate(self.config)
        except (ValueError, TypeError, ImportError) as e:
            raise InputError(f"the recipe cannot be built: {first_reason(str(e))}") from e
        return {k: v for k, v in built.items() if k not in ("config", "out", "resume")}


def build_part(key: str, kind: Any, value: Any) -> Any:
    """Builds the value of one key of a resolved recipe, without the rest.

    Raises:
        InputError: It is not of that kind, or names something that cannot be imported.
    """
    guard()
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument(f"--{key}", type=kind)
    try:
        with running_trusted():
            return parser.instantiate(parser.parse_object({key: value}))[key]
    except (argparse.ArgumentError, ValueError, TypeError, ImportError) as e:
        raise InputError(f"the recipe's {key} cannot be built: {first_reason(str(e))}") from e


class RecipeHelpFormatter(DefaultHelpFormatter):
    """Lists the classes that a key accepts if their base class is fedpretrain's: not all of torch's modules."""

    def _get_help_string(self, action: argparse.Action) -> str:
        text, mark, known = super()._get_help_string(action).rpartition(", known subclasses: ")
        if not mark:
            return known
        base, *others = known.removesuffix(")").split(", ")
        ours = [path for path in others if path.startswith("fed")]
        return f"{text}{mark}{', '.join(ours)})" if ours and base.startswith("fed") else f"{text})"


def parser_of(stage: Callable[..., Any], name: str) -> ArgumentParser:
    guard()
    set_parsing_settings(docstring_parse_attribute_docstrings=True)
    parser = ArgumentParser(
        prog=f"fedpretrain {name}", usage=f"fedpretrain {name} [RECIPE] [--out FOLDER] [--KEY VALUE ...]",
        description=inspect.cleandoc(stage.__doc__ or "").split("\n")[0], allow_abbrev=False, exit_on_error=False,
        formatter_class=RecipeHelpFormatter,
    )  # fmt: skip
    parser.add_argument("--config", action="config", help="Recipe: a YAML file or the name of an included recipe.")
    parser.add_argument("--out", type=str, help="Folder of the run; default: checkpoints/<recipe>.")
    parser.add_argument("--resume", type=bool, default=False, help="Continue the run in `out`.")
    parser.add_function_arguments(stage, as_positional=False, skip={"run"})
    return parser


def read_recipe(stage: Callable[..., Any], name: str, arguments: Sequence[str]) -> Recipe:
    """Raises InputErrors with all unknown keys of the file, or InputError for the first other error."""
    if {"-h", "--help"} & set(arguments):
        _import_all(stage.__module__.partition(".")[0])
    parser = parser_of(stage, name)
    arguments, path = _with_path(arguments)
    tree = {}
    if path:
        tree = _read_tree(path)
        if misplaced(parser, tree):
            require_valid(parser, tree, path, name)
        # The content is parsed rather than the file: jsonargparse would change to the folder of the file.
        at = arguments.index("--config")
        arguments[at : at + 2] = [_config_option(tree)]
    _drop_defaults_of_other_classes(parser, tree, arguments)
    try:
        with running_trusted():
            config = parser.parse_args(arguments)
    except (argparse.ArgumentError, ImportError) as e:
        if path:
            require_valid(parser_of(stage, name), tree, path, name)
        _import_all("fedcore", stage.__module__.partition(".")[0])
        raise InputError(explain(str(e), option_names(parser, tree | _typed_classes(arguments)))) from e
    require_seeds(config)
    config.out = config.out or str(Path("checkpoints") / (path.stem if path else name.split()[0]))
    return Recipe(parser, config, parser.dump(config, skip_unset=False))


def recipe_from(stage: Callable[..., Any], name: str, tree: dict[str, Any], where: str) -> Recipe:
    """The recipe with these keys and values, and with defaults for all others.

    Args:
        stage: Function of the command.
        name: Its name.
        tree: Plain keys and values; class paths are imported if their packages are trusted.
        where: What an error message calls the recipe.

    Raises:
        InputErrors: All errors.
    """
    parser = parser_of(stage, name)
    if misplaced(parser, tree):
        require_valid(parser, tree, where, name)
    _drop_defaults_of_other_classes(parser, tree, ())
    try:
        with running_trusted():
            config = parser.parse_args([_config_option(tree)])
    except (argparse.ArgumentError, ImportError) as e:
        require_valid(parser_of(stage, name), tree, where, name)
        raise InputErrors(where, [explain(str(e), option_names(parser, tree))]) from e
    require_seeds(config)
    return Recipe(parser, config, parser.dump(config, skip_unset=False))


def _config_option(tree: Mapping[str, Any]) -> str:
    return f"--config={json.dumps(tree, default=str, ensure_ascii=False)}"


def _import_all(*packages: str) -> None:
    """The help and suggestions list only classes that have been imported."""
    for package in packages:
        for module in pkgutil.walk_packages(importlib.import_module(package).__path__, f"{package}."):
            importlib.import_module(module.name)


def _with_path(arguments: Sequence[str]) -> tuple[list[str], Path | None]:
    """A first argument without dashes is the recipe; the name of an included recipe becomes its path."""
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


def _drop_defaults_of_other_classes(parser: ArgumentParser, tree: dict[str, Any], words: Sequence[str]) -> None:
    """If the file or the arguments name a class, the default class is dropped.

    Otherwise jsonargparse keeps its values for arguments of the same name (SimCLR's `hidden` for BYOL's).
    """
    for action in parser._actions:
        if not isinstance(action.default, dict) or "class_path" not in action.default:
            continue
        key, value = action.dest, tree.get(action.dest)
        in_file = isinstance(value, str) or (isinstance(value, dict) and "class_path" in value)
        in_words = f"--{key}" in words or any(w.startswith((f"--{key}=", f"--{key}.class_path")) for w in words)
        if in_file or in_words:
            parser.set_defaults({key: None})


def _typed_classes(words: Sequence[str]) -> dict[str, Any]:
    """Classes that the command line sets for top-level options, as a recipe would."""
    pairs = [word.partition("=")[::2] if "=" in word else (word, after) for word, after in pairwise([*words, ""])]
    keys = {key.removeprefix("--").removesuffix(".class_path"): value for key, value in pairs if key.startswith("--")}
    return {key: value for key, value in keys.items() if re.fullmatch(r"\w+(\.\w+)+", value) and "." not in key}


def _read_tree(path: Path) -> dict[str, Any]:
    """The keys and values of the file. Raises InputError where it holds none."""
    try:
        tree = parse_yaml(read_utf8(path))
    except OSError as e:
        raise InputError(f"{path} cannot be read ({e.strerror})") from e
    except ValueError as e:
        raise InputError(f"{path} is not valid YAML: {e}") from e
    if not isinstance(tree, dict):
        found = "nothing" if tree is None else f"a {type(tree).__name__}"
        raise InputError(f"{path} must hold keys and values, found {found}")
    return tree
