"""Workers that die, are stopped, or cannot start; a failing site leaves the others as they are."""

from __future__ import annotations

import json
import multiprocessing
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

from fedcore.algorithms.fedavg import FedAvg
from fedcore.cli import main as cli
from fedcore.errors import InputError, Refused
from fedcore.messages.answer import Contribution, Refusal
from fedcore.messages.message import Weights
from fedcore.messages.request import TRAIN
from fedcore.transport.in_process import InProcess
from fedcore.transport.workers import Workers
from tests.fedcore.privacy.test_audit_log import RICH
from tests.fedcore.toy_exchanges import Sender
from tests.fedcore.toys import Hospitals, Toy, hospitals, local
from tests.fedcore.transport.by_workers import (
    HEAVY,
    PATIENCE,
    TURN,
    ByWorkers,
    Fatal,
    Rendezvous,
    ask,
    until,
)


@pytest.mark.parametrize("error", [Refused("too loud"), ValueError("patient John"), MemoryError()], ids=repr)
def test_a_site_that_fails_keeps_its_memory_and_its_neighbours_go_on(workers: ByWorkers, error: Exception) -> None:
    workers.memories.put("b", {"module/seen": torch.tensor(7.0)}, TURN)
    a, b, c = ask(workers, Sender({"a": HEAVY, "b": error, "c": HEAVY}))
    assert isinstance(a, Contribution)
    assert isinstance(c, Contribution)
    assert isinstance(b, Refusal)
    assert b.cause is None
    assert b.reason == "too loud" or b.reason.startswith(f"{type(error).__name__} during train")
    assert workers.memories.get("b") == {"module/seen": torch.tensor(7.0)}
    assert workers.memories.get("c").keys() == {"noted"}
    folder = workers.folder
    assert folder is not None
    holders = [p.relative_to(folder).as_posix() for p in folder.glob("*/*") if "John" in p.read_text()]
    assert holders == (["b/errors.jsonl"] if isinstance(error, ValueError) else [])


def test_the_policy_refuses_in_the_worker(workers: ByWorkers) -> None:
    refused, answered = ask(workers, Sender({"a": RICH, "b": HEAVY}), "ab")
    assert isinstance(refused, Refusal)
    assert "reveals FEATURES (rows)" in refused.reason
    assert isinstance(answered, Contribution)
    assert workers.folder is not None
    lines = (workers.folder / "a" / "audit.jsonl").read_text().splitlines()
    assert [json.loads(line)["what"] for line in lines] == ["refusal"]  # the sentence, and nothing else
    assert (workers.folder / "b" / "audit.jsonl").exists()


def test_a_worker_that_dies_is_replaced(workers: ByWorkers) -> None:
    names = list("abcd")
    a, b, c, d = ask(workers, Fatal(at="b"), names)
    assert isinstance(b, Refusal)
    assert b.reason == "the worker process of the visit ended unexpectedly (exit code -9)"
    assert [x.site for x in (a, c, d) if isinstance(x, Contribution)] == ["a", "c", "d"]
    assert workers.memories.held.keys() == {"a", "c", "d"}
    assert len(multiprocessing.active_children()) == 2
    assert all(isinstance(x, Contribution) for x in ask(workers, Fatal(at="nobody"), names))


def test_answers_that_nobody_takes_end_the_visits(workers: ByWorkers, tmp_path: Path) -> None:
    """Else the next round would be given the answers of this one."""
    answers = workers.ask(Rendezvous(tmp_path, {"b": "never"}), ((n, Weights({})) for n in "abc"), TURN)
    assert next(answers).site == "a"
    answers.close()  # type: ignore[attr-defined]
    assert multiprocessing.active_children() == []


def test_what_cannot_be_sent_is_told_before_anything_starts(tmp_path: Path) -> None:
    class Hidden(Toy):
        """Defined in a function, so no other process can import it."""

    hidden = ByWorkers(hospitals("ab"), local(module=Hidden()), folder=tmp_path)
    with pytest.raises(InputError, match=r"cannot be given all it needs .*Hidden.* or set workers to 1"):
        ask(hidden, FedAvg(), "ab")
    assert multiprocessing.active_children() == []


@pytest.mark.slow
def test_stopping_within_a_visit_is_stopping(workers: ByWorkers) -> None:
    with pytest.raises(KeyboardInterrupt):
        ask(workers, Fatal(at="b", how="stop"), "abc")
    assert multiprocessing.active_children() == []


@pytest.mark.slow
def test_what_a_worker_cannot_import_is_told_once(capfd: pytest.CaptureFixture[str]) -> None:
    class Here(FedAvg):
        pass

    Here.__module__, Here.__qualname__ = "only_here", "Here"
    sys.modules["only_here"] = module = ModuleType("only_here")
    module.Here = Here  # type: ignore[attr-defined]
    sites = Hospitals(hospitals("abc"), local()).sites(**{TRAIN: Here()})
    assert isinstance(sites.transport, InProcess)
    sites.transport = Workers(sites.transport, 2)
    try:
        with pytest.raises(InputError, match=r"cannot use what it was given \(ModuleNotFoundError: No module named"):
            list(sites.ask(TRAIN, [("a", Weights({}))], TURN))
    finally:
        del sys.modules["only_here"]
    assert capfd.readouterr() == ("", "")
    assert multiprocessing.active_children() == []


RECIPE = """
encoder: {class_path: fedcore.models.resnet.ResNet, init_args: {depth: 10, stem: 8}}
method:
  class_path: fedssl.methods.moco.MoCo
  init_args: {bank_size: 64, remote_bank_size: 64, hidden_dim: 16, projection_dim: 16}
data: {size: 32, phantom: {images_per_site: 24, sites: 3}}
exchange: {class_path: fedssl.bank.statistics.ShareStatistics, init_args: {remote_features: 24, min_patients: 2}}
visit: {batch_size: 8, keep_optimizer: true, accelerator: cpu}
rounds: {count: 40}
"""


def command(folder: Path, *words: str) -> subprocess.Popen[str]:
    """A training in a process group of its own, to which Ctrl-C goes as it would from a terminal."""
    (folder / "mine.yaml").write_text(RECIPE)
    return subprocess.Popen(
        [sys.executable, "-m", "fedcore.cli.main", "pretrain", str(folder / "mine.yaml"), *words],
        cwd=Path(cli.__file__).parents[1], env=os.environ | {"OMP_NUM_THREADS": "1"}, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True,
    )  # fmt: skip


def lives(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("moment", ["while they start", "amid a round"])
def test_ctrl_c_ends_all_processes_quietly(tmp_path: Path, moment: str) -> None:
    run = tmp_path / "run"
    with command(tmp_path, "--out", str(run), "--workers", "2") as parent:
        until((run / ("run.json" if moment == "while they start" else "state/state.json")).exists)
        os.killpg(parent.pid, signal.SIGINT)
        out, error = parent.communicate(timeout=PATIENCE)
    assert parent.returncode == 130
    assert out == ""
    *progress, last = error.splitlines()
    assert all(re.match(r"\d+ of 40 rounds: ", line) for line in progress), error
    assert last == "fedpretrain: stopped; to continue a training from its last complete round, add --resume true"
    assert '"stopped"' in (run / "run.json").read_text()
    until(lambda: not lives(parent.pid))


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_killed_training_leaves_no_process_and_resumes_with_other_workers(tmp_path: Path) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    words = ("--rounds.count", "6", "--out")
    with command(tmp_path, *words, str(parts), "--workers", "2") as parent:
        until((parts / "state" / "state.json").exists)
        parent.kill()
        parent.wait()
        until(lambda: not lives(parent.pid))
    for folder, *more in ((whole, "--workers", "1"), (parts, "--workers", "3", "--resume", "true")):
        with command(tmp_path, *words, str(folder), *more) as again:
            out, error = again.communicate(timeout=4 * PATIENCE)
        assert (again.returncode, f"result: {folder}\n" in out) == (0, True), error
    patterns = ("state/*/*.safetensors", "sites/*/memory/*.*", "encoder/*.safetensors")
    files = [p.relative_to(whole) for pattern in patterns for p in whole.glob(pattern)]
    assert len(files) == 1 + 2 * 3 + 1  # the server's, the last two memories of each site, the encoder
    assert all((parts / file).read_bytes() == (whole / file).read_bytes() for file in files)
