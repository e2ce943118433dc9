"""The recipes that come with the kit: where they are, what they are for, copying one."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from fedcore.errors import InputError
from fedcore.files import write_atomically
from fedcore.nearest import nearest

USAGE = """usage: fedpretrain recipes ls
       fedpretrain recipes cp NAME [TO]      copies a recipe to edit it"""


def folder() -> Path:
    """Inside an installed copy, or at the top of the source tree."""
    here = Path(__file__).parent
    return next(p for p in (here / "recipes", here.parent / "recipes") if p.is_dir())


def shipped() -> dict[str, Path]:
    return {path.stem: path for path in sorted(folder().glob("*.yaml"))}


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


def command(arguments: Sequence[str]) -> int:
    match list(arguments):
        case ["ls"]:
            for name, path in shipped().items():
                print(f"{name:<28}{purpose(path)}")
        case ["cp", name, *to] if len(to) < 2:
            print(_copy(find(name), Path(to[0]) if to else Path()))
        case ["-h" | "--help"]:
            print(USAGE)
        case _:
            raise InputError(f"recipes takes ls or cp\n{USAGE}")
    return 0


def _copy(source: Path, to: Path) -> Path:
    target = to / source.name if to.is_dir() else to
    if target.exists():
        raise InputError(f"{target} exists; name another file")
    write_atomically(target, source.read_bytes())
    return target
