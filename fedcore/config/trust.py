"""Which packages the class paths of a file may name: fedpretrain's own, and those that the user trusts.

A class path in a recipe is imported, and importing runs code. Recipes, run folders and pipelines are passed on between
people, so a class path may name fedpretrain's packages and LIBRARIES only. For any other package the user says so on
the command line: `--trust my_package`, or by typing the class path there. A file cannot do it. jsonargparse checks
before each import (`import_path_denylist`), however a value names the class, and then where the class was defined.
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
from fedcore.files.reading import require_yaml_limits

KIT = ("fedcore", "fedgen", "fedssl", "fedtune")
LIBRARIES = ("torch.optim",)
"""Other packages that included recipes name."""
OPTION = "--trust"
_PACKAGE = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*")
_CLASS_PATH = re.compile(r"(?<![\w./~-])[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)+(?![\w./-])")
_DENIED = re.compile(r"Importing '([\w.]+)' is not allowed")
_trusted: ContextVar[frozenset[str]] = ContextVar("trusted", default=frozenset())
_how: ContextVar[str] = ContextVar("how", default=f"add {OPTION} {{}}")
"""How a package is trusted, for error messages."""
_once_trusted: frozenset[str] = frozenset()
"""jsonargparse keeps its allow list, so packages that are no longer trusted are denied explicitly."""


def guard() -> None:
    """From now on jsonargparse imports only allowed packages and reads only YAML within the limits.

    Call it before each use of jsonargparse, which is imported here so that `--help` is quick.
    """
    from jsonargparse import set_loader, set_parsing_settings

    global _once_trusted
    packages = _trusted.get()
    denied = _once_trusted - {*packages, *KIT, *LIBRARIES}
    _once_trusted |= packages
    set_parsing_settings(
        import_path_denylist=["*", *denied],
        import_path_allowlist=[*KIT, *LIBRARIES, *packages],
        instantiate_subclass_spec_in_any=False,
    )
    _yaml()
    set_loader("yaml", _load, (yaml.YAMLError,))


@contextmanager
def trusting(*packages: str, how: str | None = None) -> Iterator[None]:
    """In this context, files may also name classes of these packages.

    A package that is not installed is imported from the current folder, which is last on the path, so that it shadows
    nothing.

    Args:
        packages: Names of packages.
        how: What an error message advises for another package, `{}` for its name; None: the option.

    Raises:
        InputError: A name is not a package name.
    """
    for name in packages:
        if not _PACKAGE.fullmatch(name) or name.partition(".")[0] == "jsonargparse":
            raise InputError(f"{OPTION} needs the name of a Python package, such as my_package, got {name!r}")
    here = [str(Path.cwd())] if any(_in_current_folder(name) for name in packages) else []
    token = _trusted.set(_trusted.get() | {*packages})
    advice = _how.set(how or _how.get())
    sys.path += here
    try:
        yield
    finally:
        _trusted.reset(token)
        _how.reset(advice)
        for folder in here:
            sys.path.remove(folder)


def trusted_packages() -> tuple[str, ...]:
    """The packages of this context."""
    return tuple(sorted(_trusted.get()))


def split_trust(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """The arguments without `--trust`, and the packages that they trust: by `--trust`, or by class paths in them.

    A dotted value of an option counts as a class path unless it is a file, a folder, or part of a path.

    Raises:
        InputError: `--trust` has no value.
    """
    others: list[str] = []
    packages: list[str] = []
    rest = iter(arguments)
    for word in rest:
        key, equals, value = word.partition("=")
        if key == OPTION:
            named = value if equals else next(rest, "")
            if not named:
                raise InputError(f"{OPTION} needs the name of a package: {OPTION} my_package")
            packages += named.split(",")
            continue
        others.append(word)
    for key, word in zip(["", *others], others, strict=False):
        key, _, value = word.partition("=") if word.startswith("--") else (key, "", word)
        if key.startswith("--") and key != "--out" and not _exists(value):
            packages += [path.partition(".")[0] for path in _CLASS_PATH.findall(value) if not _allowed(path)]
    return others, packages


@contextmanager
def running_trusted() -> Iterator[None]:
    """Turns an error in code of a trusted package into an InputError that names the line."""
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
    """The last line of a trusted package in the traceback; "" without one."""
    frames = [(f.filename, f.lineno) for f in traceback.extract_tb(error.__traceback__)]
    frames += [(error.filename or "", error.lineno)] if isinstance(error, SyntaxError) else []
    tops = {name.partition(".")[0] for name in _trusted.get()} - {*KIT}
    ours = [(Path(file), line) for file, line in frames if tops & {*Path(file).with_suffix("").parts}]
    return f"{ours[-1][0].name}, line {ours[-1][1]}" if ours else ""


def _in_current_folder(name: str) -> bool:
    """Whether the current folder has a package of that name, and none is installed."""
    top = name.partition(".")[0]
    found = any((Path.cwd() / name).is_file() for name in (f"{top}.py", f"{top}/__init__.py"))
    return found and top not in sys.modules and find_spec(top) is None


def _allowed(path: str) -> bool:
    return f"{path}.".startswith(tuple(f"{prefix}." for prefix in (*KIT, *LIBRARIES)))


def _exists(name: str) -> bool:
    try:
        return Path(name).exists()
    except OSError:  # the name is too long
        return False


def denied_import(text: str) -> str | None:
    """The error message if jsonargparse denied an import, by the text of its error."""
    if not (found := _DENIED.search(text)):
        return None
    package = found[1].partition(".")[0]
    # find_spec of a name without dots imports nothing.
    if package not in sys.modules and find_spec(package) is None and not _in_current_folder(package):
        return module_not_found(package)
    return (
        f"{found[1]} is code of the package {package!r}, not of fedpretrain, and was not run; "
        f"if you trust that package, {_how.get().format(package)}"
    )


def module_not_found(name: str) -> str:
    return (
        f"there is no module {name!r}, installed or in the current folder; give the import path of a class, such as "
        "fedssl.methods.moco.MoCo"
    )


def _load(text: str) -> object:
    """As jsonargparse does, after a check of the limits."""
    try:
        require_yaml_limits(text)
        return _yaml()(text)
    except (ValueError, RecursionError) as e:
        raise yaml.YAMLError(str(e)) from e


@cache
def _yaml() -> Callable[[str], object]:
    """jsonargparse's own loader, read before it is replaced."""
    from jsonargparse import get_loader

    return get_loader("yaml")
