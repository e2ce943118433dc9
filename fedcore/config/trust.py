"""Whose code a file may name: the kit's own, and that of packages the user trusts by name.

A class path in a recipe is imported, and importing runs code, before anybody can look at what it is. Recipes, run
folders and pipelines are handed on. So a path may name the kit's packages and what shipped recipes name of others;
anything else takes the user's word on the command line: `--trust my_package`, or the class path itself. No file can
give it. jsonargparse asks before each import (`import_path_denylist`), however a value names it, and again of where
what it found was defined.
"""

from __future__ import annotations

import re
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import yaml

from fedcore.errors import InputError
from fedcore.files.reading import require_modest_yaml

KIT = ("fedcore", "fedgen", "fedssl", "fedtune")
LIBRARIES = ("torch.optim",)
"""What shipped recipes name besides the kit."""
OPTION = "--trust"
_PACKAGE = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*")
_CLASS_PATH = re.compile(r"(?<![\w./~-])[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)+(?![\w./-])")
_REFUSED = re.compile(r"Importing '([\w.]+)' is not allowed")
_trusted: ContextVar[frozenset[str]] = ContextVar("trusted", default=frozenset())
_once_trusted: frozenset[str] = frozenset()
"""jsonargparse keeps what it was told to allow, so it is told too when that is over."""


def guard() -> None:
    """Whatever jsonargparse reads and builds from now on names only what is allowed, and stays within the limits.

    To be called before each use of it: it is imported here, so that `--help` need not wait for it.
    """
    from jsonargparse import set_loader, set_parsing_settings

    global _once_trusted
    packages = _trusted.get()
    no_more = _once_trusted - {*packages, *KIT, *LIBRARIES}
    _once_trusted |= packages
    set_parsing_settings(
        import_path_denylist=["*", *no_more],
        import_path_allowlist=[*KIT, *LIBRARIES, *packages],
        instantiate_subclass_spec_in_any=False,
    )
    _yaml()
    set_loader("yaml", _load, (yaml.YAMLError,))


@contextmanager
def trusting(*packages: str) -> Iterator[None]:
    """Inside, files may name classes of these packages too.

    One that is not installed is looked for in the current folder, which comes last: a file there hides nothing.

    Raises:
        InputError: A name is not that of a package.
    """
    for name in packages:
        if not _PACKAGE.fullmatch(name) or name.partition(".")[0] == "jsonargparse":
            raise InputError(f"{OPTION} takes the name of a Python package, such as my_package, got {name!r}")
    here = [str(Path.cwd())] if any(_is_here(name) for name in packages) else []
    token = _trusted.set(_trusted.get() | {*packages})
    sys.path += here
    try:
        yield
    finally:
        _trusted.reset(token)
        for folder in here:
            sys.path.remove(folder)


def users_word(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """What the user typed without `--trust`, and the packages it trusts: so named, or those of class paths typed.

    A dotted name that an option is given counts as a class path unless it is a file, a folder, or part of a path.

    Raises:
        InputError: `--trust` is the last word.
    """
    left: list[str] = []
    packages: list[str] = []
    rest = iter(words)
    for word in rest:
        key, equals, value = word.partition("=")
        if key == OPTION:
            named = value if equals else next(rest, "")
            if not named:
                raise InputError(f"{OPTION} takes the name of a package: {OPTION} my_package")
            packages += named.split(",")
            continue
        left.append(word)
    for key, word in zip(["", *left], left, strict=False):
        key, _, value = word.partition("=") if word.startswith("--") else (key, "", word)
        if key.startswith("--") and key != "--out" and not _is_there(value):
            packages += [path.partition(".")[0] for path in _CLASS_PATH.findall(value) if not _ours(path)]
    return left, packages


@contextmanager
def running_trusted() -> Iterator[None]:
    """What goes wrong in code of a trusted package while it is imported becomes an InputError that names the line."""
    try:
        yield
    except InputError:
        raise
    except Exception as e:
        for error in (e, e.__cause__, e.__context__):
            if error and (place := _place(error)):
                raise InputError(f"{place}: {type(error).__name__}: {error}") from e
        raise


def _place(error: BaseException) -> str:
    """The last line of a trusted package that an error went through; nothing where it went through none."""
    frames = [(f.filename, f.lineno) for f in traceback.extract_tb(error.__traceback__)]
    frames += [(error.filename or "", error.lineno)] if isinstance(error, SyntaxError) else []
    tops = {name.partition(".")[0] for name in _trusted.get()} - {*KIT}
    ours = [(Path(file), line) for file, line in frames if tops & {*Path(file).with_suffix("").parts}]
    return f"{ours[-1][0].name}, line {ours[-1][1]}" if ours else ""


def _is_here(name: str) -> bool:
    """Whether the current folder has a package of that name and nothing installed has."""
    top = name.partition(".")[0]
    there = any((Path.cwd() / found).is_file() for found in (f"{top}.py", f"{top}/__init__.py"))
    return there and top not in sys.modules and find_spec(top) is None


def _ours(path: str) -> bool:
    return f"{path}.".startswith(tuple(f"{prefix}." for prefix in (*KIT, *LIBRARIES)))


def _is_there(name: str) -> bool:
    try:
        return Path(name).exists()
    except OSError:  # longer than a name may be
        return False


def refusal(text: str) -> str | None:
    """What to tell where jsonargparse was kept from an import, if that is what it says."""
    if not (found := _REFUSED.search(text)):
        return None
    package = found[1].partition(".")[0]
    # find_spec of a name without dots imports nothing.
    if package not in sys.modules and find_spec(package) is None and not _is_here(package):
        return no_module(package)
    return (
        f"{found[1]} is code of the package {package!r}, not of fedpretrain, and was not run; "
        f"{OPTION} {package} runs it, if you trust that package"
    )


def no_module(name: str) -> str:
    return (
        f"there is no module {name!r}, installed or in the current folder; a class is named by its import path, such "
        "as fedssl.methods.moco.MoCo"
    )


def _load(text: str) -> object:
    """As jsonargparse does by itself, once the text is known to be modest."""
    try:
        require_modest_yaml(text)
        return _yaml()(text)
    except (ValueError, RecursionError) as e:
        raise yaml.YAMLError(str(e)) from e


@cache
def _yaml() -> Callable[[str], object]:
    """jsonargparse's own loader, asked for before it is replaced."""
    from jsonargparse import get_loader

    return get_loader("yaml")
