"""`--at DEPLOYMENT` and `--sites a,b`: options of all commands that reach hospitals on machines of their own."""

from __future__ import annotations

from collections.abc import Sequence

from fedcore.errors import InputError

AT, SITES = "--at", "--sites"


def split_at(words: Sequence[str]) -> tuple[list[str], str | None, list[str] | None]:
    """The other words, the deployment, and the names of its sites; None where they are not given.

    Raises:
        InputError: An option has no value, or sites are named without a deployment.
    """
    if AT not in words and not any(word.startswith(f"{AT}=") for word in words):
        return list(words), None, None  # another command may have an option --sites
    rest, found = list[str](), dict[str, str]()
    waiting = list(words)
    while waiting:
        word = waiting.pop(0)
        name, equals, value = word.partition("=")
        if name not in (AT, SITES):
            rest.append(word)
            continue
        if not equals and not waiting:
            raise InputError(f"{name} needs a value")
        found[name] = value if equals else waiting.pop(0)
    return rest, found[AT], found[SITES].split(",") if SITES in found else None
