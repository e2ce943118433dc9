"""`fedpretrain demo`: a small pipeline (recipes/demo/demo.yaml) on simulated hospitals."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from fedcore.config.recipe_files import find
from fedcore.errors import InputError
from fedcore.pipelines.run import run_pipeline

USAGE = """usage: fedpretrain demo [--out checkpoints/demo]

Runs a small pipeline, recipes/demo/demo.yaml, on four simulated hospitals with different scanners."""
WELCOME = """Four simulated hospitals with different scanners, in these steps:
  - pretrain an encoder without labels: federated, and locally at each hospital
  - train classifiers with few labels, from each of these encoders
  - train a generator; generate, audit and release synthetic images; train with them
The generator is too small to be useful: the audit and the last scores show this.
Each line below is a command that you can run yourself; see recipes/demo/demo.yaml.
"""


def command(arguments: Sequence[str]) -> int:
    match list(arguments):
        case given if {"-h", "--help"} & {*given}:
            print(USAGE)
            return 0
        case []:
            folder = Path("checkpoints/demo")
        case ["--out", path]:
            folder = Path(path)
        case _:
            raise InputError(f"demo accepts --out only\n{USAGE}")
    print(WELCOME)
    return run_pipeline(find("demo"), folder)
