"""The commands as Python functions, for notebooks and scripts: `from fedssl import pretrain`, and so on.

A function passes its arguments through the parser of its command, so that both check the same and give equal results.
It raises InputError where the command prints an error and exits with 2.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from numbers import Integral, Real
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedcore.cli.stages import run_stage
from fedcore.config.trust import split_trust, trusting
from fedcore.errors import InputError
from fedcore.files.reading import read_json

if TYPE_CHECKING:
    from fedcore.runs.record import RunRecord

_OF_COMMAND_LINE = ("config", "help", "print_config", "trust")


@dataclass(frozen=True)
class Run(os.PathLike[str]):
    """A run and its folder; it may be passed wherever a function takes the folder of a run."""

    path: Path
    trust: tuple[str, ...] = ()
    """Packages that the run's recipe may name, in addition to fedpretrain's own."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "path", Path(self.path))

    def __fspath__(self) -> str:
        return str(self.path)

    @property
    def rounds(self) -> list[dict[str, Any]]:
        """One dict a round: seconds, bytes and metrics of each site (the lines of rounds.jsonl).

        Raises:
            InputError: The run's record is damaged.
        """
        return self._record.rounds()

    @property
    def scores(self) -> dict[str, Any]:
        """What the run measured last.

        Of `finetune` and `segment`: the content of scores.json, with the test images of all sites. Of other stages: the
        metrics of each site in the last evaluation between rounds, such as kNN accuracy; empty without one.

        Raises:
            InputError: A file of the run is damaged.
        """
        path = self.path / "scores.json"
        if path.exists():
            return read_json(path, "restore it from a backup")
        evaluated = [record["evaluation"] for record in self.rounds if record.get("evaluation")]
        return dict(evaluated[-1]) if evaluated else {}

    def report(self, images: bool = True) -> Path:
        """Writes the page of the run, report.html in its folder, and returns its path.

        Args:
            images: False: no image and nothing about single images.
        """
        from fedcore.report import write_report

        return write_report(self.path, images)

    @property
    def _record(self) -> RunRecord:
        from fedcore.runs.record import RunRecord

        return RunRecord(self.path)


def train(
    stage: str,
    recipe: str | Path | None,
    out: str | Path | None,
    manifest: str | Path | None,
    resume: bool,
    trust: Sequence[str],
    overrides: Mapping[str, Any],
) -> tuple[Path, tuple[str, ...]]:
    """Runs a stage as its command does; returns the run's folder and the packages that were trusted for it."""
    given = {"out": out, "data.manifest": manifest, "resume": resume or None}
    words = [path_word(recipe)] if recipe is not None else []
    words += words_of({key: value for key, value in given.items() if value is not None})
    words, typed = split_trust([*words, *words_of(overrides)])
    packages = (*trust, *typed)
    with trusting(*packages):
        return run_stage(stage, words).out, packages


def call_command(function: Callable[..., Any], name: str, paths: Sequence[Any], options: Mapping[str, Any]) -> Any:
    """Calls the function of a command, as `fedpretrain <name> <paths> <options>` does."""
    from fedcore.config.arguments import call

    return call(function, name, [*map(path_word, paths), *words_of(options)])


def words_of(overrides: Mapping[str, Any]) -> list[str]:
    """Overrides as words of the command line, `--key=value`.

    A key may be dotted (`{"rounds.count": 5}`) or nested (`{"rounds": {"count": 5}}`). Of a class, `class_path` and
    `init_args` are given together, as in a recipe, or the class itself.

    Raises:
        InputError: A value cannot be written in a recipe, or a key belongs to the command line alone.
    """
    leaves = list(_leaves(overrides))
    if found := next((key for key, _ in leaves if key in _OF_COMMAND_LINE or key.endswith(".help")), None):
        raise InputError(f"{found!r} is an option of the command line, not of a recipe; remove it")
    return [f"--{key}={_text(value, key)}" for key, value in leaves]


def path_word(path: Any) -> str:
    """A recipe's name or a path as a word of the command line.

    Raises:
        InputError: The command line would read it as an option.
    """
    word = os.fspath(path)
    if word.startswith("-"):
        raise InputError(f"a name must not begin with '-', got {word!r}; write a path as './{word}'")
    return word


def _leaves(overrides: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in overrides.items():
        if isinstance(value, Mapping) and value and "class_path" not in value:
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _text(value: Any, key: str) -> str:
    plain = _plain(value, key)
    return plain if isinstance(plain, str) else json.dumps(plain, ensure_ascii=False)


def _plain(value: Any, key: str) -> Any:
    """The value in JSON's types; classes become import paths."""
    if value is None or isinstance(value, (bool, str)):
        return value
    if isinstance(value, Integral):
        return int(value)
    if isinstance(value, Real):
        return float(value)
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, type):
        return _import_path(value, key)
    if isinstance(value, Mapping):
        return {str(name): _plain(part, key) for name, part in value.items()}
    if isinstance(value, (list, tuple, range)):
        return [_plain(part, key) for part in value]
    raise InputError(
        f"{key} must be a value that a recipe can hold (text, number, list, dict, path, class), "
        f"got {type(value).__name__}"
    )


def _import_path(kind: type, key: str) -> str:
    if kind.__module__ == "__main__" or "<" in kind.__qualname__:
        raise InputError(
            f"{key}: {kind.__name__} is defined in a notebook or a function, so a run could not be continued with it; "
            "define it in a module and import it from there"
        )
    return f"{kind.__module__}.{kind.__qualname__}"
