"""The command `fedpretrain`: dispatches to stages (training from a recipe) and to all other commands.

Commands are import paths, as stages are (`fedcore.config.stages`): nothing heavy is imported before it is needed.
"""

from __future__ import annotations

import importlib
import os
import shlex
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fedcore.cli.at import split_at
from fedcore.cli.stages import run_stage
from fedcore.config.stages import STAGES, load_function, stage_in
from fedcore.config.trust import split_trust, trusting
from fedcore.errors import InputError

NEXT_COMMANDS = {
    "pretrain": ("report {out}", "finetune classify {data} --pretrained {out}"),
    "finetune": ("report {out}", "predict {out} IMAGES FOLDER"),
    "segment": ("report {out}", "predict {out} IMAGES FOLDER"),
    "generate train": ("report {out}", "generate sample {out} SET --count 1000"),
}
"""Commands that usually follow a stage."""
COMMANDS = {
    "demo": ("fedcore.pipelines.demo:command", "the full pipeline on simulated hospitals, in a few minutes"),
    "run": ("fedcore.pipelines.run:command", "run a pipeline: several commands in order; finished steps are skipped"),
    "probe": ("fedssl.evaluation.command:command", "kNN and linear probe of a pretrained encoder, per site"),
    "evaluate": ("fedtune.evaluation.command:command", "scores of a fine-tuned run, per site and pooled"),
    "predict": (
        "fedtune.prediction.predict:command",
        "predictions of a fine-tuned model for new images, as a table and masks",
    ),
    "generate": ("fedgen.command:command", "train a generator; generate, audit and release synthetic images"),
    "report": ("fedcore.report:command", "an HTML page about a run, or one that compares several"),
    "watch": ("fedcore.cli.watch:command", "progress of a run in the terminal: rounds, sites, curves, time left"),
    "export": ("fedcore.export.command:command", "export an encoder for MONAI, timm or torchvision, a model as ONNX"),
    "data": ("fedcore.data.tools.command:command", "check or preview a manifest, write images of simulated hospitals"),
    "deploy": (
        "fedcore.deployment.centre.command:command",
        "hospitals on machines of their own: the coordinator's commands",
    ),
    "site": ("fedcore.deployment.hospital.command:command", "a hospital on a machine of its own: its commands"),
    "recipes": ("fedcore.config.recipe_files:command", "list the included recipes, or copy one"),
    "doctor": ("fedcore.cli.doctor:command", "check the installation"),
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs a command; exits with 0, with 2 after an input error, or with 130 when it was stopped."""
    try:
        words, packages = split_trust(sys.argv[1:] if arguments is None else arguments)
        with trusting(*packages), _termination_as_ctrl_c():
            code = dispatch(words[0] if words else "--help", words[1:])
            sys.stdout.flush()
            sys.exit(code)
    except InputError as e:
        _print_error(str(e))
        sys.exit(2)
    except BrokenPipeError:  # the reader of the output, for example `| head`, has closed it
        for stream in (sys.stdout, sys.stderr):
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
        sys.exit(1)
    except KeyboardInterrupt as e:
        _print_error(str(e) or "stopped; to continue a training from its last complete round, add --resume true")
        sys.exit(130)


def dispatch(name: str, rest: list[str]) -> int:
    """Runs a command and returns its exit code.

    Raises:
        InputError: Something in the input must be corrected.
    """
    if name in ("-h", "--help"):
        print(_help_text())
        return 0
    if name == "--version":
        from fedcore.runs.environment import version

        print(f"fedpretrain {version('fedpretrain')}")
        return 0
    words, deployment, sites = split_at([name, *rest])
    if stage := stage_in(words):
        _train(stage, words[len(stage.split()) :], deployment, sites)
        return 0
    if deployment is not None and name != "run":
        from fedcore.deployment.centre.remote_command import query_at

        return query_at(words, deployment, sites)
    code: int | None = load_function(_import_path(name))(rest)
    return code or 0


def check_command(name: str, rest: list[str]) -> None:
    """Checks the arguments of a command that is not a stage, without running it.

    The module of a command may define a function `check` for this.

    Raises:
        InputError: An argument is wrong.
    """
    module = importlib.import_module(_import_path(name).split(":")[0])
    getattr(module, "check", lambda _: None)(rest)


def _train(name: str, arguments: Sequence[str], deployment: str | None, sites: Sequence[str] | None) -> None:
    """Runs a stage, then prints where its result lies, what left the sites, and what usually follows."""
    from fedcore.runs.progress import within_a_step

    if deployment is None:
        recipe = run_stage(name, arguments)
    else:
        from fedcore.deployment.centre.remote_command import train_at

        recipe = train_at(name, arguments, deployment, sites)
    print(f"result: {recipe.out}")
    print(_level_sentence(recipe.out))
    if not within_a_step():
        print("\n".join(_next_commands(name, recipe.out, recipe.config.data)))


def _import_path(name: str) -> str:
    """Of a command.

    Raises:
        InputError: There is no such command.
    """
    if name in COMMANDS:
        return COMMANDS[name][0]
    from fedcore.suggest import suggestion

    raise InputError(f"there is no command {name!r}{suggestion(name, [*STAGES, *COMMANDS])}; see fedpretrain --help")


def _level_sentence(run: Path) -> str:
    """The most sensitive data that a run sent, in the words of its page and card."""
    from fedcore.report.read.levels import level_sentence
    from fedcore.runs.communication import answers, highest
    from fedcore.runs.folder import RunFolder

    return level_sentence(highest([*RunFolder(run).rounds(), *answers(run)]))


def _next_commands(name: str, out: Path, data: Any) -> Iterator[str]:
    size = data.size if isinstance(data.size, int) else f"[{','.join(map(str, data.size))}]"
    manifest = "" if data.manifest == "phantom" else f"--data.manifest {shlex.quote(data.manifest)} "
    for at, text in enumerate(NEXT_COMMANDS[name]):
        words = text.format(out=shlex.quote(str(out)), data=f"{manifest}--data.size {shlex.quote(str(size))}")
        yield f"{'next: ' if at == 0 else '      '}fedpretrain {words}"


def _help_text() -> str:
    purposes = {name: text for name, (_, text) in {**STAGES, **COMMANDS}.items()}
    order = ["demo", "run", "pretrain", "watch", "probe", "generate", "finetune", "segment", "evaluate", "predict"]
    order += ["report", "export", "data", "deploy", "site", "recipes", "doctor"]
    lines = "\n".join(f"  {name:<10}{purposes[name]}" for name in order)
    return f"""fedpretrain: federated pretraining of models on medical images that stay in their hospitals

usage: fedpretrain COMMAND ...

{lines}

  fedpretrain demo                                      try it, no data needed
  fedpretrain COMMAND --help                            arguments of a command
  fedpretrain pretrain RECIPE --data.manifest my.csv    override any value of a recipe
  fedpretrain pretrain RECIPE --print_config            print the recipe with all values
  fedpretrain COMMAND ... --trust my_package            allow classes of that package in recipes and run folders"""


@contextmanager
def _termination_as_ctrl_c() -> Iterator[None]:
    """SIGTERM, which schedulers and shutdowns send, stops a command as Ctrl-C does."""
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


def _print_error(text: str) -> None:
    print(f"fedpretrain: {text}", file=sys.stderr)


if __name__ == "__main__":
    main()
