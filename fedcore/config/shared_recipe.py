"""The part of a recipe that server and sites have in common, where sites run on machines of their own.

What only the server needs (folder, loggers, workers) and what each hospital sets for itself (manifest, policy, GPU) is
left out. The rest is written in one form, so that equal recipes have equal texts and one digest. A site approves the
digest; whoever has another text has another digest.
"""

from __future__ import annotations

import hashlib
import inspect
import re
from collections.abc import Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import yaml

from fedcore.config.recipe import recipe_from
from fedcore.config.stages import STAGES, stage_of
from fedcore.config.trust import trusting
from fedcore.errors import InputError, InputErrors
from fedcore.files.reading import parse_yaml

OF_SERVER = ("out", "resume", "config", "loggers", "workers", "policy", "pretrained", "rounds.deadline")
"""Keys that the server sets for itself. `policy` is what it wishes; each site has its own."""
OF_SITE = (
    "data.manifest", "data.columns", "data.cache", "data.on_error", "data.test_fraction", "data.sites",
    "data.partition", "data.phantom", "data.extra_manifests", "data.allow_unaudited", "data.synthetic.manifest",
    "visit.accelerator",
)  # fmt: skip
"""Keys that each hospital sets for itself, or that only a simulation has."""
LARGEST = 200_000
"""Bytes of a recipe."""
SHOWN = 12
"""Characters of a digest that messages show."""
ADVICE = "add {} to trust in site.yaml"
"""For a package that a site does not trust."""
_ONLY_SIMULATED = {
    "data.sites": "the sites are the hospitals that joined the deployment",
    "data.partition": "the images of each hospital stay with it",
    "data.extra_manifests": "each hospital has one manifest; a synthetic set is mixed in by data.synthetic",
}
_DIGEST = re.compile(r"[0-9a-f]{64}")
_CLASS = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)+")


@dataclass(frozen=True)
class SharedRecipe:
    """A command and the text of its recipe, as every site that approved it has them."""

    command: str
    text: str
    """YAML of the form that `of` writes."""

    @classmethod
    def of(cls, command: str, resolved: str) -> SharedRecipe:
        """From a resolved recipe (`fedcore.config.recipe.Recipe.text`).

        Raises:
            InputErrors: It sets what only a simulation has.
        """
        tree = parse_yaml(resolved) or {}
        wrong = [
            f"{key} must be omitted with hospitals apart, because {reason}; found {found}"
            for key, reason in _ONLY_SIMULATED.items()
            if (found := _value(tree, key)) not in (None, [], ())
        ]
        if wrong:
            raise InputErrors("the recipe", wrong)
        for key in (*OF_SERVER, *OF_SITE):
            _remove(tree, key.split("."))
        return cls.received(command, _written(tree))

    @classmethod
    def received(cls, command: str, text: str) -> SharedRecipe:
        """From another machine; nothing that it names is imported.

        Raises:
            InputError: It is no shared recipe of a command that is known here.
        """
        if command not in STAGES:
            raise InputError(f"a recipe is of one of the commands {', '.join(STAGES)}, and this one names another")
        if (size := len(text.encode(errors="replace"))) > LARGEST:
            raise InputError(f"a recipe has at most {LARGEST} bytes, found {size}")
        found = cls(command, text)
        keys = {*inspect.signature(stage_of(command)).parameters} - {"run"}
        wrong = [f"{key} is no option of {command}" for key in found.tree if key not in {*keys, *OF_SERVER}]
        wrong += [f"{key} is for the server to set" for key in OF_SERVER if _has(found.tree, key)]
        wrong += [f"{key} is for each hospital to set" for key in OF_SITE if _has(found.tree, key)]
        if wrong:
            raise InputErrors("the recipe", [error[:200] for error in wrong], shown=8)
        if _written(found.tree) != text:
            raise InputError("a shared recipe must be in the form that fedpretrain writes; install the same version")
        return found

    @classmethod
    def of_file(cls, data: bytes) -> SharedRecipe:
        """From the bytes that `as_file` gave. Raises InputError as `received` does."""
        try:
            command, _, text = data.decode().partition("\n")
        except UnicodeDecodeError as e:
            raise InputError("a recipe must be UTF-8 text") from e
        return cls.received(command, text)

    @property
    def as_file(self) -> bytes:
        """The command on the first line, then the text: the digest is the SHA-256 of such a file."""
        return f"{self.command}\n{self.text}".encode()

    @cached_property
    def digest(self) -> str:
        """SHA-256 in hexadecimal digits, by which a site approves the recipe."""
        return hashlib.sha256(self.as_file).hexdigest()

    @cached_property
    def tree(self) -> dict[str, Any]:
        """Keys and values. Raises InputError where the text has none."""
        try:
            found = parse_yaml(self.text, anchors=False)
        except ValueError as e:
            raise InputError(f"the recipe cannot be read as YAML: {str(e)[:200]}") from e
        if not isinstance(found, dict) or not all(isinstance(key, str) for key in found):
            raise InputError("a recipe must hold keys and values")
        return found

    @cached_property
    def class_paths(self) -> tuple[str, ...]:
        """Import paths in it, sorted: values that have the form of one."""
        return tuple(sorted({text for text in _texts(self.tree) if _CLASS.fullmatch(text)}))

    def build(self, own: Mapping[str, Any], trust: Sequence[str] = ()) -> dict[str, Any]:
        """The arguments of the stage, with a hospital's own values.

        Args:
            own: By full key, such as `data.manifest`; keys of `OF_SITE`, and `policy`.
            trust: Packages whose classes the hospital allows in addition to fedpretrain's and torch.optim.

        Raises:
            InputErrors: A key is unknown, a value is wrong, or a class is not installed or not allowed.
            InputError: A class does not accept its arguments, or a value of the hospital is missing.
        """
        tree = deepcopy(self.tree)
        for key, value in own.items():
            if key != "data.synthetic.manifest":
                _put(tree, key.split("."), value)
        if _value(tree, "data.synthetic") is not None:
            if not (manifest := own.get("data.synthetic.manifest")):
                raise InputError(
                    "the recipe mixes a synthetic set into the training images; set synthetic in site.yaml to the "
                    "manifest of the set at this site"
                )
            _put(tree, ["data", "synthetic", "manifest"], manifest)
        with trusting(*trust, how=ADVICE):
            return recipe_from(stage_of(self.command), self.command, tree, f"recipe {self.digest[:SHOWN]}").build()


def is_digest(text: str) -> bool:
    """Whether it has the form of a digest, so that it can be part of a file's name."""
    return bool(_DIGEST.fullmatch(text))


class _Writer(yaml.SafeDumper):
    """Repeats equal parts instead of naming them."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _written(tree: Mapping[str, Any]) -> str:
    """The one form of these keys and values."""
    return yaml.dump(dict(tree), Dumper=_Writer, sort_keys=True, allow_unicode=True, width=1000)


def _value(tree: Any, key: str) -> Any:
    """None where it is missing."""
    for part in key.split("."):
        tree = tree.get(part) if isinstance(tree, dict) else None
    return tree


def _has(tree: Any, key: str) -> bool:
    *above, last = key.split(".")
    inside = _value(tree, ".".join(above)) if above else tree
    return isinstance(inside, dict) and last in inside


def _remove(tree: Any, path: Sequence[str]) -> None:
    """Deletes a key, and groups that hold nothing after that."""
    head, *rest = path
    if not isinstance(tree, dict) or head not in tree:
        return
    if rest:
        _remove(tree[head], rest)
    if not rest or tree[head] == {}:
        del tree[head]


def _put(tree: dict[str, Any], path: Sequence[str], value: Any) -> None:
    for part in path[:-1]:
        tree = tree.setdefault(part, {})
    tree[path[-1]] = value


def _texts(tree: Any) -> Iterator[str]:
    if isinstance(tree, dict):
        for value in tree.values():
            yield from _texts(value)
    elif isinstance(tree, list):
        for value in tree:
            yield from _texts(value)
    elif isinstance(tree, str):
        yield tree
