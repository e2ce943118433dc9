"""`fedpretrain demo`: the road in small (recipes/demo/demo.yaml), on phantom hospitals."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from fedcore.config.recipe_files import find
from fedcore.errors import InputError
from fedcore.pipelines.run import travel

USAGE = """usage: fedpretrain demo [--out checkpoints/demo]

Does the road in small, recipes/demo/demo.yaml, on four phantom hospitals whose scanners differ."""
WELCOME = """Four phantom hospitals, four scanners. They pretrain an encoder without labels, together and each
alone; train classifiers from it with few labels; and train a generator, whose images they audit, release and train
with. A generator this small is not useful: its audit says so, and the last scores show it. Every line is a command
you could type; the road is recipes/demo/demo.yaml.
"""


def command(arguments: Sequence[str]) -> int:
    match list(arguments):
        case words if {"-h", "--help"} & {*words}:
            print(USAGE)
            return 0
        case []:
            folder = Path("checkpoints/demo")
        case ["--out", path]:
            folder = Path(path)
        case _:
            raise InputError(f"demo takes --out and nothing else\n{USAGE}")
    print(WELCOME)
    return travel(find("demo"), folder)
