"""Errors that a user can fix, and failures that a site may report to the server."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager


class InputError(Exception):
    """An input of the user is wrong; the text says what must hold, what was found and what to do.

    The command line prints it without a traceback and exits with code 2.
    """


class InputErrors(InputError):
    """Several errors of one input (a manifest, a recipe), reported together."""

    def __init__(self, where: str, errors: Sequence[str], advice: str = "", shown: int = 50):
        self.errors = tuple(errors)
        lines = [f"{where}: {len(errors)} error{'s' if len(errors) != 1 else ''}"]
        lines += [f"  {error}" for error in errors[:shown]]
        if len(errors) > shown:
            lines.append(f"  ... and {len(errors) - shown} more")
        super().__init__("\n".join(lines + ([advice] if advice else [])))


@contextmanager
def building(what: str) -> Iterator[None]:
    """An error that a constructor raises for the values of a recipe becomes an InputError."""
    try:
        yield
    except (ValueError, TypeError, RuntimeError, NameError) as e:
        raise InputError(f"{what} cannot be built: {e}") from e


class Refused(Exception):
    """The result of a visit must not leave the site (a loss of NaN, a message above the level of the policy).

    Its text may be sent to the server, so it never contains pixels, paths or patient identifiers. `details` stay at the
    site, in `errors.jsonl`.
    """

    def __init__(self, text: str, *, details: str = ""):
        super().__init__(text)
        self.details = details
