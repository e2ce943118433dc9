"""Errors that a user can mend, and failures that a site may speak of."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager


class InputError(Exception):
    """Something the user gave is wrong; the text says what must hold, what was found and what to do.

    The command line prints it without a traceback and exits with code 2.
    """


class InputErrors(InputError):
    """Several faults of one input (a manifest, a recipe), reported together."""

    def __init__(self, where: str, faults: Sequence[str], advice: str = "", shown: int = 50):
        self.faults = tuple(faults)
        lines = [f"{where}: {len(faults)} fault{'s' if len(faults) != 1 else ''}"]
        lines += [f"  {fault}" for fault in faults[:shown]]
        if len(faults) > shown:
            lines.append(f"  ... and {len(faults) - shown} more")
        super().__init__("\n".join(lines + ([advice] if advice else [])))


@contextmanager
def building(what: str) -> Iterator[None]:
    """What a constructor refuses of a recipe's values is the user's to mend: it becomes an InputError."""
    try:
        yield
    except (ValueError, TypeError, RuntimeError, NameError) as e:
        raise InputError(f"{what} cannot be built: {e}") from e


class Refused(Exception):
    """A visit whose result must not leave the site (a loss of NaN, a message over the policy).

    Its text may be told to the server, so it never holds pixels, paths or patient identifiers.
    """
