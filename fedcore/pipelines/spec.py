"""The steps of a road, a YAML of commands as they would be typed:

    shared: {data.manifest: my.csv, data.size: 64}      # of every step that trains
    steps:
      encoder: {do: pretrain simclr, rounds.count: 20}
      scratch: {do: finetune classify, each: {label_fraction: [0.01, 0.1]}}
      pretrained: {do: finetune classify, pretrained: "{encoder}", each: {label_fraction: [0.01, 0.1]}}

`{NAME}` is the folder of an earlier step, `{here}` the step's own. `each` makes a step of every combination of its
values, which it names; values that are no plain words are given names: `{ours: "{encoder}", none: null}`.
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

from fedcore.cli.main import stage_in, stage_of
from fedcore.config.recipe import Recipe, read_recipe
from fedcore.errors import InputError, InputErrors
from fedcore.files.reading import text_of, yaml_of
from fedcore.suggest import suggestion

HERE = "here"
_WORDS = {"do", "each", "after"}
_NAME = re.compile(r"\w[\w.-]*")
_NAMED = re.compile(r"\{(\w[\w.-]*)\}")


@dataclass(frozen=True)
class Step:
    """One command; `words` still name earlier steps."""

    name: str
    """Its own, of letters, digits and `_.-`."""
    family: str
    """Its name in the file, which steps that differ in values of `each` share."""
    words: tuple[str, ...]
    after: tuple[str, ...]
    """Steps that it needs without naming their folders, such as the audit of a set."""

    @property
    def stage(self) -> str | None:
        """The training command, if it is one."""
        return stage_in(self.words)

    @property
    def does(self) -> str:
        """The command without what sets it apart."""
        given = [at for at, word in enumerate(self.words) if word.startswith(("--", "{"))]
        return " ".join(self.words[: min(given, default=len(self.words))])

    @property
    def needs(self) -> list[str]:
        return [*dict.fromkeys(n for word in self.words for n in names_in(word) if n != HERE), *self.after]

    @cached_property
    def recipe(self) -> Recipe | None:
        """Of a training command, every value resolved.

        Raises:
            InputError: There is no such recipe, or it has no such keys or values.
        """
        stage = self.stage
        return read_recipe(stage_of(stage), stage, self.words[len(stage.split()) :]) if stage else None

    @property
    def manifests(self) -> list[str]:
        """Files that tell its images, without those of earlier steps."""
        if not self.recipe:
            return []
        data = self.recipe.config.data
        all_of_them = [data.manifest, *data.extra_manifests, *([data.synthetic.manifest] if data.synthetic else [])]
        return [path for path in all_of_them if path != "phantom" and not names_in(path)]

    def told(self, folders: Mapping[str, str]) -> list[str]:
        """The words with folders in place of names."""
        return [with_names(word, folders.__getitem__) for word in self.words]


def names_in(text: str) -> list[str]:
    return _NAMED.findall(text)


def with_names(text: str, value: Callable[[str], str]) -> str:
    """`text` with values in place of the names in it."""
    return _NAMED.sub(lambda found: value(found[1]), text)


def read_steps(path: Path, overrides: Mapping[str, str]) -> list[Step]:
    """The steps of a file, one for each combination of what stands under `each`.

    Raises:
        InputError: It is no road.
        InputErrors: All that is wrong with how its steps are written.
    """
    try:
        tree = yaml_of(text_of(path))
    except (OSError, ValueError) as e:
        raise InputError(f"{path} cannot be read as YAML ({e}); see fedpretrain run --help") from e
    if not _is_road(tree):
        raise InputError(f"{path} is no road: it must hold `steps`, by name, and may hold `shared`, and nothing else")
    written = {str(name): about for name, about in tree["steps"].items()}
    if faults := [f"{name}: {fault}" for name, about in written.items() for fault in _misspelt(name, about)]:
        raise InputErrors(str(path), faults)
    shared = {**(tree.get("shared") or {}), **overrides}
    steps = [step for name, about in written.items() for step in _steps(name, about, shared)]
    known: list[str] = []
    for step in steps:
        faults += [f"{step.name}: no step before it is called {need!r}{suggestion(need, known)}"
                   for need in step.needs if need not in known]  # fmt: skip
        faults += [f"{step.name}: an earlier step is called so too"] * (step.name in known)
        known.append(step.name)
    if faults:
        raise InputErrors(str(path), faults)
    return steps


def _is_road(tree: Any) -> bool:
    if not isinstance(tree, dict) or tree.keys() - {"shared", "steps"}:
        return False
    return isinstance(tree.get("steps"), dict) and bool(tree["steps"]) and isinstance(tree.get("shared") or {}, dict)


def _misspelt(name: str, about: Any) -> Iterator[str]:
    if not _NAME.fullmatch(name) or name == HERE:
        yield "a step's name is of letters, digits and _.- and not 'here'"
    if not isinstance(about, dict) or not isinstance(about.get("do"), str) or not about["do"].split():
        yield "a step is a mapping with `do`, a command"
        return
    if not isinstance(about.get("after") or [], str | list):
        yield "`after` is the name of a step, or a list of them"
    each = about.get("each") or {}
    if not isinstance(each, dict) or not all(isinstance(values, list | dict) for values in each.values()):
        yield "`each` is a mapping of keys to lists of values, or to values by name"
        return
    for key, values in each.items():
        if strange := [value for value in values if not _NAME.fullmatch(_word(value))]:
            yield f"{key} of `each`: {_word(strange[0])} names no folder; give it a name, {key}: {{NAME: VALUE}}"


def _steps(name: str, about: Mapping[str, Any], shared: Mapping[str, Any]) -> Iterator[Step]:
    own = {key: value for key, value in about.items() if key not in _WORDS}
    each = {key: _by_name(values) for key, values in (about.get("each") or {}).items()}
    after = about.get("after") or []
    do = about["do"].split()
    for chosen in product(*(values.items() for values in each.values())):
        values = {key: value for key, (_, value) in zip(each, chosen, strict=True)}
        settings = (dict(shared) if stage_in(do) else {}) | own | values
        words = [*do, *(word for key, value in settings.items() for word in (f"--{key}", _word(value)))]
        title = "_".join([name, *(told for told, _ in chosen)])
        yield Step(title, name, tuple(words), tuple([after] if isinstance(after, str) else after))


def _by_name(values: Sequence[Any] | Mapping[Any, Any]) -> dict[str, Any]:
    pairs = values.items() if isinstance(values, Mapping) else zip(values, values, strict=True)
    return {_word(name): value for name, value in pairs}


def _word(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)
