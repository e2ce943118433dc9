"""`fedpretrain generate`: train a generator together, or invert classifiers; draw sets of images, audit, release."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Sequence
from pathlib import Path

from fedcore.config.arguments import call, parse_arguments
from fedcore.data.synthetic.audit_record import AuditRecord
from fedcore.errors import InputError
from fedcore.runs.folder import RunFolder
from fedcore.suggest import nearest
from fedgen.auditing.run import inspect
from fedgen.auditing.table import show
from fedgen.oneshot import teacher_accuracy as recognition
from fedgen.oneshot.distil import distil
from fedgen.oneshot.invert import invert
from fedgen.releases.release import release
from fedgen.sampling import sample
from fedgen.synthetic.synthetic_set import RECOGNITION, read_settings

USAGE = """usage: fedpretrain generate train [RECIPE] [--KEY VALUE ...]        hospitals train a generator together
       fedpretrain generate sample RUN SET [--count 1000]           draws a set of images, with a manifest
       fedpretrain generate audit RUN SET [--encoder PRETRAIN_RUN]  each hospital looks for its patients in the set
       fedpretrain generate release SET FOLDER [--drop true]        writes a private set, with a datasheet
       fedpretrain generate invert FINETUNE_RUN SET [--count 200]   a set of what its classifiers have in mind
       fedpretrain generate distil FINETUNE_RUN RUN [--drawn SET]   its classifiers teach one, by such images"""

AUDIT = """usage: fedpretrain generate audit RUN SET [--encoder PRETRAIN_RUN] [--KEY VALUE ...]

Each hospital compares the set with its own images. Two verdicts follow: privacy (are images copies?) and, with
--encoder, use (does a classifier learn from them?). SET/audit.json keeps both.
  RUN        a finished run of generate train or finetune, which the set was made by
  SET        folder of the set
  --encoder  a finished pretraining run or an encoder's folder, whose features are compared
  --KEY VALUE overrides the run's recipe, such as --policy.audits 6

Exit code: 0 where the privacy check passed; 2 where it failed or could not be made, or where the words are wrong."""

CALLED: dict[str, Callable[..., Path]] = {"sample": sample, "release": release, "invert": invert, "distil": distil}


def command(arguments: Sequence[str]) -> int:
    match list(arguments):
        case ["sample" | "invert" as word, *rest]:
            manifest = call(sample if word == "sample" else invert, f"generate {word}", rest)
            print(manifest)
            if told := read_settings(manifest.parent).get(RECOGNITION):
                recognition.show(told)
            print("Not audited yet: copies of patients' images may be among them. Next: fedpretrain generate audit")
        case ["distil", *rest]:
            student = call(distil, "generate distil", rest)
            if told := RunFolder(student).about()["recognition"]:
                recognition.show(told)
            print(f"result: {student}")
        case ["audit", *rest] if {"-h", "--help"} & {*rest}:
            print(AUDIT)
        case ["audit", *rest]:
            found = _audit(rest)
            show(found)
            return 0 if found.safe.answer == "yes" else 2
        case ["release", *rest]:
            print(call(release, "generate release", rest))
        case ["-h" | "--help", *_] | []:
            print(USAGE)
        case _:
            raise _unknown(arguments)
    return 0


def check(arguments: Sequence[str]) -> None:
    """Raises InputError for words that `command` would not take, and does nothing else."""
    match list(arguments):
        case [word, *rest] if word in CALLED:
            parse_arguments(CALLED[word], f"generate {word}", rest)
        case ["audit", *rest]:
            _asked(rest)
        case _:
            raise _unknown(arguments)


def _unknown(arguments: Sequence[str]) -> InputError:
    word = next(iter(arguments), "")
    return InputError(f"generate has no command {word!r}{nearest(word, ['train', 'audit', *CALLED])}\n{USAGE}")


def _audit(words: Sequence[str]) -> AuditRecord:
    asked, overrides = _asked(words)
    return inspect(asked.run, asked.set, asked.encoder, overrides)


def _asked(words: Sequence[str]) -> tuple[Namespace, list[str]]:
    """RUN, SET and --encoder are the audit's own, whatever is left overrides the run's recipe."""
    parser = ArgumentParser(
        prog="fedpretrain generate audit", usage=AUDIT, add_help=False, allow_abbrev=False, exit_on_error=False
    )
    parser.add_argument("run", type=Path, nargs="?")
    parser.add_argument("set", type=Path, nargs="?")
    parser.add_argument("--encoder", type=Path)
    asked, overrides = parser.parse_known_args(list(words))
    if asked.set is None:
        raise InputError(f"generate audit takes a run and a set\n{AUDIT}")
    return asked, overrides
