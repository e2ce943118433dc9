"""The recipes that come with the kit: where they are, what they are for, copying one."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from shutil import get_terminal_size
from textwrap import fill

from fedcore.errors import InputError
from fedcore.files.writing import write_atomically
from fedcore.suggest import nearest

USAGE = """usage: fedpretrain recipes ls                 recipes, by the command they are for
       fedpretrain recipes cp NAME [TO]      copies a recipe to edit it"""
_COMMAND = re.compile(r"^# +fedpretrain (pretrain|finetune|segment|generate train|run) ", re.MULTILINE)


def folder() -> Path:
    """Inside an installed copy, or at the top of the source tree."""
    here = Path(__file__).parents[1]
    return next(p for p in (here / "recipes", here.parent / "recipes") if p.is_dir())


def shipped() -> dict[str, Path]:
    return {path.stem: path for path in sorted(folder().rglob("*.yaml"), key=lambda path: path.stem)}


def find(name: str) -> Path:
    """A file of that path, else a shipped recipe of that name.

    Raises:
        InputError: There is neither.
    """
    path = Path(name)
    if path.is_file():
        return path
    if (found := shipped().get(path.stem)) and len(path.parts) == 1:
        return found
    meant = nearest(path.stem, shipped()) if len(path.parts) == 1 else ""
    raise InputError(f"there is no recipe {name!r}{meant}; see fedpretrain recipes ls")


def purpose(path: Path) -> str:
    """The first line of a recipe's header."""
    first = path.read_text(encoding="utf-8").split("\n", 1)[0]
    return first.removeprefix("#").strip()


def command_of(path: Path) -> str | None:
    """The command that a recipe's header shows it with, such as `generate train`; None where it shows none."""
    found = _COMMAND.search(path.read_text(encoding="utf-8"))
    return found[1] if found else None


def command(arguments: Sequence[str]) -> int:
    match list(arguments):
        case words if {"-h", "--help"} & {*words}:
            print(USAGE)
        case ["ls"]:
            print("\n".join(_listed()))
        case ["cp", name, *to] if len(to) < 2:
            print(_copy(find(name), Path(to[0]) if to else Path()))
        case _:
            raise InputError(f"recipes takes ls or cp\n{USAGE}")
    return 0


def _listed() -> Iterator[str]:
    """Names and purposes under their commands, in a terminal within its width."""
    width = get_terminal_size().columns if sys.stdout.isatty() else 1000
    by_command: dict[str, list[tuple[str, Path]]] = {}
    for name, path in shipped().items():
        by_command.setdefault(command_of(path) or "", []).append((name, path))
    indent = 4 + max(map(len, shipped()))
    for at, (name_of_command, recipes) in enumerate(by_command.items()):
        yield f"{chr(10) * (at > 0)}fedpretrain {name_of_command} RECIPE"
        for name, path in recipes:
            first = f"  {name}".ljust(indent)
            yield fill(purpose(path), max(width, 60), initial_indent=first, subsequent_indent=" " * indent)


def _copy(source: Path, to: Path) -> Path:
    target = to / source.name if to.is_dir() else to
    if target.exists():
        raise InputError(f"{target} exists; name another file")
    write_atomically(target, source.read_bytes())
    return target
