"""The command `fedpretrain`: one word a stage, every value of a recipe overridable.

Commands are import paths, so nothing heavy is loaded before it is needed and fedcore knows of no
method or task. A stage is a function with a parameter `run`; its signature is its recipe's schema.
"""

from __future__ import annotations

import importlib
import os
import shlex
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fedcore.config.trust import trusting, users_word
from fedcore.errors import InputError

STAGES = {
    "pretrain": ("fedssl.pretraining:pretrain", "hospitals pretrain an encoder together on unlabeled images"),
    "finetune": (
        "fedtune.classification.finetuning:finetune",
        "hospitals train a classifier, from an encoder or from scratch",
    ),
    "segment": (
        "fedtune.segmentation.training:segment",
        "hospitals train a segmenter, from an encoder or from scratch",
    ),
    "generate train": ("fedgen.training:train", "hospitals train a generator of images together"),
}
NEXT = {
    "pretrain": ("report {out}", "finetune classify {data} --start {out}"),
    "finetune": ("report {out}", "predict {out} IMAGES FOLDER"),
    "segment": ("report {out}", "predict {out} IMAGES FOLDER"),
    "generate train": ("report {out}", "generate sample {out} SET --count 1000"),
}
"""What is usually done with a stage's result."""
COMMANDS = {
    "demo": ("fedcore.pipelines.demo:command", "the whole road on phantom hospitals, in a few minutes"),
    "run": ("fedcore.pipelines.run:command", "a road: the steps of a project in order, without those already done"),
    "probe": ("fedssl.evaluation.command:command", "kNN and linear probe of a pretrained encoder, per site"),
    "evaluate": ("fedtune.evaluation.command:command", "scores of a fine-tuned run, per site and pooled"),
    "predict": ("fedtune.prediction.predict:command", "what a fine-tuned model sees in images, as a table and masks"),
    "generate": ("fedgen.command:command", "hospitals train a generator of images; sets are drawn from it"),
    "report": ("fedcore.report:command", "a page about a run, or one that compares several"),
    "watch": ("fedcore.cli.watch:command", "a run in the terminal while it goes: rounds, sites, curves, time left"),
    "export": ("fedcore.export.command:command", "an encoder for plain MONAI, timm or torchvision models"),
    "data": ("fedcore.data.tools.command:command", "check or preview a manifest, write phantom hospitals"),
    "recipes": ("fedcore.config.recipe_files:command", "list the recipes that come with the kit, or copy one"),
    "doctor": ("fedcore.cli.doctor:command", "is this installation sound?"),
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs a command; exits with 0, or with 2 where the input has to be mended, or 130 when stopped."""
    try:
        words, packages = users_word(sys.argv[1:] if arguments is None else arguments)
        with trusting(*packages), _termination_as_ctrl_c():
            code = dispatch(words[0] if words else "--help", words[1:])
            sys.stdout.flush()
            sys.exit(code)
    except InputError as e:
        _complain(str(e))
        sys.exit(2)
    except BrokenPipeError:  # who reads the output, `| head` say, has seen enough
        for stream in (sys.stdout, sys.stderr):
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
        sys.exit(1)
    except KeyboardInterrupt as e:
        _complain(str(e) or "stopped; a training goes on from its last whole round with --resume true")
        sys.exit(130)


def dispatch(name: str, rest: list[str]) -> int:
    """Runs a command and returns its exit code; raises InputError where the input has to be mended."""
    if name in ("-h", "--help"):
        print(_help())
        return 0
    if name == "--version":
        from fedcore.runs.environment import version

        print(f"fedpretrain {version('fedpretrain')}")
        return 0
    if stage := stage_in([name, *rest]):
        return run_stage(stage, [name, *rest][len(stage.split()) :])
    code: int | None = _load(_place(name))(rest)
    return code or 0


def check_command(name: str, rest: list[str]) -> None:
    """Raises InputError for what is wrong with the words of a command that trains nothing, as far as it says so unrun.

    A command says so by a function `check` beside it.
    """
    module = importlib.import_module(_place(name).split(":")[0])
    getattr(module, "check", lambda _: None)(rest)


def run_stage(name: str, arguments: Sequence[str]) -> int:
    """Parses the recipe and what overrides it, and only then builds and runs."""
    from fedcore.config.recipe import read_recipe
    from fedcore.runs.folder import RunFolder
    from fedcore.runs.progress import within_a_step

    warnings.filterwarnings("ignore", category=UserWarning)
    warnings.filterwarnings("ignore", category=DeprecationWarning)
    stage = stage_of(name)
    recipe = read_recipe(stage, name, arguments)
    built = recipe.build()
    with RunFolder(recipe.out, recipe.text, recipe.resume) as run:
        stage(run=run, **built)
    print(f"result: {recipe.out}")
    print(_level(recipe.out))
    if not within_a_step():
        print("\n".join(_next(name, recipe.out, recipe.config.data)))
    return 0


def stage_in(words: Sequence[str]) -> str | None:
    """The stage that a command begins with, if it does."""
    return next((name for name in STAGES if list(words[: len(name.split())]) == name.split()), None)


def stage_of(name: str) -> Callable[..., Any]:
    """The function of a stage, whose signature its runs' recipes follow."""
    return _load(STAGES[name][0])


def _place(name: str) -> str:
    """Raises InputError where there is no such command."""
    if name in COMMANDS:
        return COMMANDS[name][0]
    from fedcore.suggest import nearest

    raise InputError(f"there is no command {name!r}{nearest(name, [*STAGES, *COMMANDS])}; see fedpretrain --help")


def _load(path: str) -> Callable[..., Any]:
    module, function = path.split(":")
    loaded: Callable[..., Any] = getattr(importlib.import_module(module), function)
    return loaded


def _level(run: Path) -> str:
    """What of a run's answers was most sensitive, in the words of its page and card."""
    from fedcore.report.read.digest import level_sentence
    from fedcore.runs.communication import answers, highest
    from fedcore.runs.folder import RunFolder

    return level_sentence(highest([*RunFolder(run).rounds(), *answers(run)]))


def _next(name: str, out: Path, data: Any) -> Iterator[str]:
    size = data.size if isinstance(data.size, int) else f"[{','.join(map(str, data.size))}]"
    manifest = "" if data.manifest == "phantom" else f"--data.manifest {shlex.quote(data.manifest)} "
    for at, text in enumerate(NEXT[name]):
        words = text.format(out=shlex.quote(str(out)), data=f"{manifest}--data.size {shlex.quote(str(size))}")
        yield f"{'next: ' if at == 0 else '      '}fedpretrain {words}"


def _help() -> str:
    listed = {name: text for name, (_, text) in {**STAGES, **COMMANDS}.items()}
    order = ["demo", "run", "pretrain", "watch", "probe", "generate", "finetune", "segment", "evaluate", "predict"]
    order += ["report", "export", "data", "recipes", "doctor"]
    lines = "\n".join(f"  {name:<10}{listed[name]}" for name in order)
    return f"""fedpretrain: federated pretraining for medical images that stay in their hospital

usage: fedpretrain COMMAND ...

{lines}

  fedpretrain demo                                          try it, no data needed
  fedpretrain pretrain RECIPE --data.manifest my.csv        any value of a recipe can be overridden
  fedpretrain COMMAND --help                                what a command takes
  fedpretrain COMMAND ... --trust my_package                recipes and run folders may name classes of that package
  fedpretrain pretrain RECIPE --print_config                a recipe with every value spelled out"""


@contextmanager
def _termination_as_ctrl_c() -> Iterator[None]:
    """SIGTERM, as a scheduler or a shutdown sends it, stops a command as Ctrl-C does."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, _stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _stop(*_: Any) -> None:
    raise KeyboardInterrupt


def _complain(text: str) -> None:
    print(f"fedpretrain: {text}", file=sys.stderr)


if __name__ == "__main__":
    main()
