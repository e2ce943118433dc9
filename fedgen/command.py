"""`fedpretrain generate`: train a generator, generate synthetic sets or invert classifiers, audit and release sets."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from fedcore.config.arguments import call, parse_arguments
from fedcore.errors import InputError
from fedcore.runs.folder import RunFolder
from fedcore.suggest import suggestion
from fedgen.auditing import command as auditing
from fedgen.oneshot.distil import distil
from fedgen.oneshot.invert import invert
from fedgen.oneshot.teacher_accuracy import print_accuracy
from fedgen.releases.release import release
from fedgen.sampling import sample
from fedgen.synthetic.synthetic_set import TEACHER_ACCURACY, read_settings

USAGE = """usage: fedpretrain generate train [RECIPE] [--KEY VALUE ...]          trains a generator at several hospitals
       fedpretrain generate sample RUN SET [--count 1000]             generates a synthetic set, with a manifest
       fedpretrain generate audit RUN SET [--encoder PRETRAIN_RUN]    each hospital searches the set for copies
       fedpretrain generate release SET FOLDER [--drop true]          writes an audited set, with a datasheet
       fedpretrain generate invert FINETUNE_RUN SET [--count 200]     synthetic images by inverting its classifiers
       fedpretrain generate distil FINETUNE_RUN RUN [--synthetic SET] distils its classifiers into one model"""

COMMANDS: dict[str, Callable[..., Path]] = {"sample": sample, "release": release, "invert": invert, "distil": distil}


def command(arguments: Sequence[str]) -> int:
    match list(arguments):
        case ["sample" | "invert" as word, *rest]:
            manifest = call(sample if word == "sample" else invert, f"generate {word}", rest)
            print(manifest)
            if accuracy := read_settings(manifest.parent).get(TEACHER_ACCURACY):
                print_accuracy(accuracy)
            print("Not audited yet: may contain copies of patient images. Next: fedpretrain generate audit")
        case ["distil", *rest]:
            student = call(distil, "generate distil", rest)
            if accuracy := RunFolder(student).about()[TEACHER_ACCURACY]:
                print_accuracy(accuracy)
            print(f"result: {student}")
        case ["audit", *rest]:
            return auditing.command(rest)
        case ["release", *rest]:
            print(call(release, "generate release", rest))
        case ["-h" | "--help", *_] | []:
            print(USAGE)
        case _:
            raise _unknown(arguments)
    return 0


def check(arguments: Sequence[str]) -> None:
    """Raises InputError for arguments that `command` does not take, and does nothing else."""
    match list(arguments):
        case [word, *rest] if word in COMMANDS:
            parse_arguments(COMMANDS[word], f"generate {word}", rest)
        case ["audit", *rest]:
            auditing.parse(rest)
        case _:
            raise _unknown(arguments)


def _unknown(arguments: Sequence[str]) -> InputError:
    word = next(iter(arguments), "")
    return InputError(f"generate has no command {word!r}{suggestion(word, ['train', 'audit', *COMMANDS])}\n{USAGE}")
