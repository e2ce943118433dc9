"""Resolves the path in a cell, and suggests a path if the file does not exist."""

from __future__ import annotations

import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from urllib.parse import unquote

_URL = re.compile(r"file:/{0,2}(?=/)", re.IGNORECASE)


def resolve_path(folder: Path, cell: str) -> Path:
    """The absolute path; if no such file exists, the same name in the other Unicode form (NFC or NFD, which look the
    same) if that exists."""
    path = folder / cell
    if cell.isascii() or path.exists():
        return path
    others = (folder / unicodedata.normalize(form, cell) for form in ("NFC", "NFD"))
    return next((other for other in others if other.exists()), path)


def file_error(path: Path, folder: Path, cell: str) -> str:
    """Why nothing can be read at `path`, which `resolve_path` returned, and a suggestion; '' if it is readable."""
    name = path.relative_to(folder) if path.is_relative_to(folder) else path
    try:
        empty = not any(path.iterdir()) if path.is_dir() else path.stat().st_size == 0
    except PermissionError:
        return f"{name} cannot be read: permission denied; change its permissions"
    except (OSError, ValueError):
        return f"{name} is missing{_suggestion(folder, cell)}"
    return f"{name} is empty (zero bytes or files)" if empty else ""


def _suggestion(folder: Path, cell: str) -> str:
    for reason, guess in _guesses(cell):
        if guess and guess != cell and _exists(folder / guess):
            return f"; {reason}did you mean {guess}, which exists?"
    plain = cell.replace("\\", "/")
    if near := _with_other_case(folder, plain) or _with_other_suffix(folder, plain):
        return f"; did you mean {near}, which exists?"
    return ""


def _guesses(cell: str) -> Iterator[tuple[str, str]]:
    """(the problem, a path without it)."""
    bare = cell.strip("\"'` ")
    yield "", bare
    if _URL.match(bare):
        yield "a URL: ", unquote(_URL.sub("", bare))
    if bare.startswith("~"):
        yield "~ is not expanded: ", str(Path(bare).expanduser())
    slashes = bare.replace("\\", "/")
    yield "backslashes: ", slashes
    yield "", unquote(slashes)
    parts = [part for part in re.split(r"/|^[A-Za-z]:", slashes) if part not in ("", ".", "..")]
    for at in range(1, len(parts)):  # a path of another machine, or from another folder
        yield "", "/".join(parts[at:])
    yield "", slashes.lstrip("/")


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except (OSError, ValueError):
        return False


def _with_other_case(folder: Path, cell: str) -> str:
    """The path of a file that differs only in case, blanks or Unicode form; '' if there is none."""
    here, parts = Path(folder.anchor) if cell.startswith("/") else folder, []
    for part in cell.strip("/").split("/"):
        names = _listing(here).plain.get(_plain(part), [])
        if len(names) != 1:
            return ""
        parts.append(names[0])
        here = here / names[0]
    return ("/" if cell.startswith("/") else "") + "/".join(parts)


def _with_other_suffix(folder: Path, cell: str) -> str:
    """The only file of this name with another suffix; '' if there is none or several."""
    parent, _, name = cell.rpartition("/")
    near = _listing(folder / parent).stems.get(name.partition(".")[0], [])
    return cell.removesuffix(name) + near[0] if len(near) == 1 else ""


def _plain(name: str) -> str:
    return unicodedata.normalize("NFC", name).casefold().strip()


@dataclass(frozen=True)
class _Listing:
    """The names in one folder: by their form without case, blanks and Unicode form, and by the part before a dot."""

    plain: Mapping[str, list[str]]
    stems: Mapping[str, list[str]]


def _listing(folder: Path) -> _Listing:
    try:
        return _listed(folder, folder.stat().st_mtime_ns)
    except (OSError, ValueError):
        return _Listing({}, {})


@lru_cache(maxsize=64)
def _listed(folder: Path, mtime_ns: int) -> _Listing:
    """Cached while the folder is unchanged: every row of a manifest may use the same one."""
    plain, stems = defaultdict[str, list[str]](list), defaultdict[str, list[str]](list)
    for name in sorted(path.name for path in folder.iterdir()):
        plain[_plain(name)].append(name)
        stems[name.partition(".")[0]].append(name)
    return _Listing(plain, stems)
