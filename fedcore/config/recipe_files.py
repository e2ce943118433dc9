"""The included recipes: their files, purposes and commands; listing and copying them."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from shutil import get_terminal_size
from textwrap import fill

from fedcore.errors import InputError
from fedcore.files.writing import write_atomically
from fedcore.suggest import suggestion

USAGE = """usage: fedpretrain recipes ls                 lists the recipes by group
       fedpretrain recipes cp NAME [TO]      copies a recipe, to edit it"""
GROUPS = {
    "pretrain": "pretraining without labels",
    "generate": "generators of synthetic images",
    "classify": "classification",
    "segment": "segmentation",
    "pipelines": "pipelines of several commands",
    "demo": "the demo and its steps",
}
"""Folders of recipes/ with what they hold."""
_COMMAND = re.compile(r"^# +fedpretrain (pretrain|finetune|segment|generate train|run) ", re.MULTILINE)


def folder() -> Path:
    """In an installed package, or at the top of the source tree."""
    here = Path(__file__).parents[1]
    return next(p for p in (here / "recipes", here.parent / "recipes") if p.is_dir())


def shipped() -> dict[str, Path]:
    """Recipe files by name."""
    return {path.stem: path for path in sorted(folder().rglob("*.yaml"), key=lambda path: path.stem)}


def find(name: str) -> Path:
    """The file of that path, else the included recipe of that name.

    Raises:
        InputError: Neither exists.
    """
    path = Path(name)
    if path.is_file():
        return path
    if (found := shipped().get(path.stem)) and len(path.parts) == 1:
        return found
    meant = suggestion(path.stem, shipped()) if len(path.parts) == 1 else ""
    raise InputError(f"there is no recipe {name!r}{meant}; see fedpretrain recipes ls")


def purpose(path: Path) -> str:
    """The first line of a recipe's header."""
    first = path.read_text(encoding="utf-8").split("\n", 1)[0]
    return first.removeprefix("#").strip()


def command_of(path: Path) -> str | None:
    """The command in a recipe's header, such as `generate train`; None without one."""
    found = _COMMAND.search(path.read_text(encoding="utf-8"))
    return found[1] if found else None


def command(arguments: Sequence[str]) -> int:
    match list(arguments):
        case given if {"-h", "--help"} & {*given}:
            print(USAGE)
        case ["ls"]:
            print("\n".join(_listed()))
        case ["cp", name, *to] if len(to) < 2:
            print(_copy(find(name), Path(to[0]) if to else Path()))
        case _:
            raise InputError(f"recipes needs ls or cp\n{USAGE}")
    return 0


def _listed() -> Iterator[str]:
    """Names, commands and purposes by group; in a terminal wrapped to its width."""
    width = max(get_terminal_size().columns, 60) if sys.stdout.isatty() else 1000
    names, commands = shipped(), {path: command_of(path) or "" for path in shipped().values()}
    columns = [2 + max(map(len, names)), 2 + max(map(len, commands.values()))]
    indent = " " * (2 + sum(columns))
    for at, (group, content) in enumerate(GROUPS.items()):
        yield f"{chr(10) * (at > 0)}{group}: {content}"
        for name, path in names.items():
            if path.parent.name != group:
                continue
            first = f"  {name:<{columns[0]}}{commands[path]:<{columns[1]}}"
            yield fill(purpose(path), width, initial_indent=first, subsequent_indent=indent)
    yield "\nRun one with: fedpretrain COMMAND NAME"


def _copy(source: Path, to: Path) -> Path:
    target = to / source.name if to.is_dir() else to
    if target.exists():
        raise InputError(f"{target} exists; name another file")
    write_atomically(target, source.read_bytes())
    return target
