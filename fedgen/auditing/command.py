"""`fedpretrain generate audit`, in a simulation and at the sites of a deployment."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from pathlib import Path

from fedcore.errors import InputError
from fedcore.transport.base import Transport
from fedgen.auditing.run import audit
from fedgen.auditing.table import print_audit

USAGE = """usage: fedpretrain generate audit RUN SET [--encoder PRETRAIN_RUN] [--KEY VALUE ...]

Each hospital compares the set with its own images. There are two verdicts: privacy (are images copies?) and, with
--encoder, fitness for use (does a classifier learn from them?). Both are written to SET/audit.json.
  RUN        the finished run of generate train or finetune that the set comes from
  SET        folder of the set
  --encoder  a finished pretraining run or an encoder's folder, for features
  --at NAME  a deployment, where the sites of RUN are on machines of their own; only for generate train
  --KEY VALUE overrides the run's recipe, such as --policy.audits 6

Exit code: 0 if the privacy check passed; 2 if it failed or could not be made, or if the arguments are wrong."""


def command(arguments: Sequence[str]) -> int:
    if {"-h", "--help"} & {*arguments}:
        print(USAGE)
        return 0
    return _audit(arguments, None)


def audit_at(transport: Transport, words: Sequence[str]) -> int:
    """As `command`, of a run whose sites are reached by `transport`.

    Returns:
        The exit code: 0 if the privacy check passed, 2 if not.
    """
    return _audit(words, transport)


def parse(arguments: Sequence[str]) -> tuple[Namespace, list[str]]:
    """RUN, SET and --encoder are arguments of the audit; all others override the run's recipe.

    Raises:
        InputError: RUN or SET is missing.
    """
    parser = ArgumentParser(
        prog="fedpretrain generate audit", usage=USAGE, add_help=False, allow_abbrev=False, exit_on_error=False
    )
    parser.add_argument("run", type=Path, nargs="?")
    parser.add_argument("set", type=Path, nargs="?")
    parser.add_argument("--encoder", type=Path)
    parsed, overrides = parser.parse_known_args(list(arguments))
    if parsed.set is None:
        raise InputError(f"generate audit takes a run and a set\n{USAGE}")
    return parsed, overrides


def _audit(arguments: Sequence[str], transport: Transport | None) -> int:
    parsed, overrides = parse(arguments)
    record = audit(parsed.run, parsed.set, parsed.encoder, overrides, transport=transport)
    print_audit(record)
    return 0 if record.safe.answer == "yes" else 2
