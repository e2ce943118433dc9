"""Commands that have commands of their own, `fedpretrain deploy` and `fedpretrain site`."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence

from fedcore.config.stages import load_function
from fedcore.errors import InputError
from fedcore.suggest import suggestion


def run(name: str, usage: str, commands: Mapping[str, str], arguments: Sequence[str]) -> int:
    """Runs the command that the first word names.

    Args:
        name: Of the group, such as `deploy`.
        usage: What its help prints.
        commands: By word, the import path of a function of the words that follow; it may return an exit code.
        arguments: Words of the command line.

    Raises:
        InputError: There is no such command, an argument is wrong, or FLARE is not installed.
    """
    match list(arguments):
        case ["-h" | "--help", *_] | []:
            print(usage)
            return 0
        case [word, *rest] if word in commands:
            require_flare()
            code: int | None = load_function(commands[word])(rest)
            return code or 0
        case [word, *_]:
            raise InputError(f"{name} has no command {word!r}{suggestion(word, list(commands))}\n{usage}")
    return 0


def require_flare() -> None:
    """Raises InputError where NVIDIA FLARE is not installed."""
    if importlib.util.find_spec("nvflare") is None:
        raise InputError('hospitals apart need NVIDIA FLARE; install it with: pip install "fedpretrain[flare]"')
