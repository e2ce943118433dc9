"""Reads the steps of a pipeline from YAML. A step is a command of fedpretrain with its options:

    shared: {data.manifest: my.csv, data.size: 64}      # options of every training step
    steps:
      encoder: {do: pretrain simclr, rounds.count: 20}
      scratch: {do: finetune classify, each: {label_fraction: [0.01, 0.1]}}
      pretrained: {do: finetune classify, pretrained: "{encoder}", each: {label_fraction: [0.01, 0.1]}}

`{NAME}` is the folder of an earlier step, `{here}` the step's own. `each` makes one step for every combination of its
values, named after them; values that cannot be part of a folder's name get names: `{ours: "{encoder}", none: null}`.
`after` names further steps that must run before.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from pathlib import Path
from typing import Any

from fedcore.config.recipe import Recipe, read_recipe
from fedcore.config.stages import stage_in, stage_of
from fedcore.errors import InputError, InputErrors
from fedcore.files.reading import parse_yaml, read_utf8
from fedcore.suggest import suggestion

HERE = "here"
_RESERVED = {"do", "each", "after"}
_NAME = re.compile(r"\w[\w.-]*")
_REFERENCE = re.compile(r"\{(\w[\w.-]*)\}")


@dataclass(frozen=True)
class Step:
    """One command; its arguments may refer to earlier steps as `{NAME}`."""

    name: str
    """Unique; letters, digits and `_.-`."""
    family: str
    """Name in the file, shared by the steps that differ in values of `each`."""
    arguments: tuple[str, ...]
    after: tuple[str, ...]
    """Steps that it needs without referring to their folders, such as the audit of a set."""

    @property
    def stage(self) -> str | None:
        """The training command, if it is one."""
        return stage_in(self.arguments)

    @property
    def command(self) -> str:
        """The command without its options and folders."""
        given = [at for at, word in enumerate(self.arguments) if word.startswith(("--", "{"))]
        return " ".join(self.arguments[: min(given, default=len(self.arguments))])

    @property
    def needs(self) -> list[str]:
        """Names of the steps that must run before."""
        found = (name for word in self.arguments for name in references(word) if name != HERE)
        return [*dict.fromkeys(found), *self.after]

    @cached_property
    def recipe(self) -> Recipe | None:
        """Of a training command, with all values.

        Raises:
            InputError: There is no such recipe, or it has wrong keys or values.
        """
        stage = self.stage
        return read_recipe(stage_of(stage), stage, self.arguments[len(stage.split()) :]) if stage else None

    @property
    def manifests(self) -> list[str]:
        """Manifests of its images, without those that earlier steps write."""
        if not self.recipe:
            return []
        data = self.recipe.config.data
        paths = [data.manifest, *data.extra_manifests, *([data.synthetic.manifest] if data.synthetic else [])]
        return [path for path in paths if path != "phantom" and not references(path)]

    def resolved(self, folders: Mapping[str, str]) -> list[str]:
        """The arguments with folders instead of references."""
        return [resolve(word, folders.__getitem__) for word in self.arguments]


def references(text: str) -> list[str]:
    """The names in `{NAME}`."""
    return _REFERENCE.findall(text)


def resolve(text: str, value: Callable[[str], str]) -> str:
    """`text` with `value(NAME)` instead of each `{NAME}`."""
    return _REFERENCE.sub(lambda found: value(found[1]), text)


def read_steps(path: Path, overrides: Mapping[str, str]) -> list[Step]:
    """The steps of a file, one for each combination of values under `each`; `overrides` replace `shared` options.

    Raises:
        InputError: The file is not a pipeline.
        InputErrors: All errors in how its steps are written.
    """
    try:
        tree = parse_yaml(read_utf8(path))
    except (OSError, ValueError) as e:
        raise InputError(f"{path} cannot be read as YAML ({e}); see fedpretrain run --help") from e
    if not _is_pipeline(tree):
        raise InputError(
            f"{path} is not a pipeline: it must have the key `steps`, may have the key `shared`, and no other key"
        )
    written = {str(name): about for name, about in tree["steps"].items()}
    if errors := [f"{name}: {error}" for name, about in written.items() for error in _syntax_errors(name, about)]:
        raise InputErrors(str(path), errors)
    shared = {**(tree.get("shared") or {}), **overrides}
    steps = [step for name, about in written.items() for step in _steps(name, about, shared)]
    if errors := list(_reference_errors(steps)):
        raise InputErrors(str(path), errors)
    return steps


def _is_pipeline(tree: Any) -> bool:
    if not isinstance(tree, dict) or tree.keys() - {"shared", "steps"}:
        return False
    return isinstance(tree.get("steps"), dict) and bool(tree["steps"]) and isinstance(tree.get("shared") or {}, dict)


def _syntax_errors(name: str, about: Any) -> Iterator[str]:
    if not _NAME.fullmatch(name) or name == HERE:
        yield "the name of a step must consist of letters, digits and _.-, and must not be 'here'"
    if not isinstance(about, dict) or not isinstance(about.get("do"), str) or not about["do"].split():
        yield "a step must be a mapping with a key `do`, the command"
        return
    if not isinstance(about.get("after") or [], str | list):
        yield "`after` must be the name of a step, or a list of names"
    each = about.get("each") or {}
    if not isinstance(each, dict) or not all(isinstance(values, list | dict) for values in each.values()):
        yield "`each` must map options to lists of values, or to values by name"
        return
    for key, values in each.items():
        if unusable := [value for value in values if not _NAME.fullmatch(_argument(value))]:
            value = _argument(unusable[0])
            yield f"{key} of `each`: {value} cannot be part of a folder's name; give it a name, {key}: {{NAME: VALUE}}"


def _reference_errors(steps: Sequence[Step]) -> Iterator[str]:
    known: list[str] = []
    for step in steps:
        for need in step.needs:
            if need not in known:
                yield f"{step.name}: no earlier step is named {need!r}{suggestion(need, known)}"
        if step.name in known:
            yield f"{step.name}: an earlier step has the same name"
        known.append(step.name)


def _steps(name: str, about: Mapping[str, Any], shared: Mapping[str, Any]) -> Iterator[Step]:
    own = {key: value for key, value in about.items() if key not in _RESERVED}
    each = {key: _by_name(values) for key, values in (about.get("each") or {}).items()}
    after = about.get("after") or []
    do = about["do"].split()
    for chosen in product(*(values.items() for values in each.values())):
        values = {key: value for key, (_, value) in zip(each, chosen, strict=True)}
        options = (dict(shared) if stage_in(do) else {}) | own | values
        arguments = [*do, *(word for key, value in options.items() for word in (f"--{key}", _argument(value)))]
        full_name = "_".join([name, *(value_name for value_name, _ in chosen)])
        yield Step(full_name, name, tuple(arguments), tuple([after] if isinstance(after, str) else after))


def _by_name(values: Sequence[Any] | Mapping[Any, Any]) -> dict[str, Any]:
    pairs = values.items() if isinstance(values, Mapping) else zip(values, values, strict=True)
    return {_argument(name): value for name, value in pairs}


def _argument(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)
