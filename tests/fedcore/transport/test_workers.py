"""One pool of two processes serves most of this file, since a process takes seconds to import torch."""

from __future__ import annotations

import json
import multiprocessing
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from fedcore.algorithms.base import Algorithm
from fedcore.algorithms.fedavg import FedAvg
from fedcore.algorithms.fednova import FedNova
from fedcore.algorithms.fedopt import FedOpt
from fedcore.algorithms.scaffold import Scaffold
from fedcore.cli import main as cli
from fedcore.errors import InputError, Refused
from fedcore.exchanges.base import WithExchange
from fedcore.messages.answer import Answer, Contribution, Refusal
from fedcore.messages.message import Empty, Message, Weights, flatten
from fedcore.messages.request import EVALUATE, TRAIN
from fedcore.messages.round import Round
from fedcore.runs.communication import RoundRecord
from fedcore.server.rounds import Rounds
from fedcore.server.sites import Sites
from fedcore.site.site import Site
from fedcore.training.local_trainer import LocalTrainer
from fedcore.training.visit import Visit
from fedcore.transport.in_process import InProcess
from fedcore.transport.pickling import pack, unpack
from fedcore.transport.simulation import by_workers
from fedcore.transport.worker import gpu_of, rebuilt
from fedcore.transport.workers import Workers
from tests.fedcore.privacy.test_audit_log import RICH
from tests.fedcore.toys import (
    Hospitals,
    Remembered,
    Sender,
    ShareTotals,
    Toy,
    broken,
    federate,
    hospitals,
    local,
    same,
)

TURN = Round(4, 9, 0)
HEAVY = Weights({"w": torch.zeros(3)})
NAMES = "abcdefghij"
PATIENCE = 60.0


@dataclass(frozen=True)
class Deputy:
    """What workers are given at their start, to do whatever a test will ask for: it has it read from a file."""

    metric_names = ("mean", "threads")

    file: Path

    def visit(self, site: Site, down: Message, local: LocalTrainer, turn: Round) -> Contribution[Any]:
        answer: Contribution[Any] = unpack(self.file.read_bytes()).visit(site, down, local, turn)
        return answer


@dataclass
class ByWorkers(Hospitals):
    """Hospitals that are visited by two processes, the same ones for whatever they are asked."""

    pool: Workers = field(default_factory=lambda: Workers(InProcess({}), 2))

    def sites(self, **words: Any) -> Sites:
        assert self.folder is not None
        files = {word: self.folder / f"{word}.pickle" for word in (TRAIN, EVALUATE, "query")}
        for word, visitor in words.items():
            files[word].write_bytes(pack(visitor))
        found = super().sites(**{word: Deputy(file) for word, file in files.items()})
        assert isinstance(found.transport, InProcess)
        self.pool.sites, found.transport = found.transport, self.pool
        return found


def alone(folder: Path) -> Hospitals:
    """Ten hospitals, and one whose loss is NaN."""
    trainer = local(Visit(batch_size=4, accelerator="cpu", keep_optimizer=True))
    return Hospitals(hospitals(NAMES) | {"nan": broken("nan")}, trainer, folder=folder)


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ByWorkers]:
    one = alone(tmp_path_factory.mktemp("workers"))
    many = ByWorkers(one.train, one.local, folder=one.folder)
    with many.pool:
        yield many
    assert multiprocessing.active_children() == []


@pytest.fixture
def workers(pool: ByWorkers) -> ByWorkers:
    """With new memories, and sites whose folders hold nothing."""
    for file in (pool.folder or Path()).glob("*/*.jsonl"):
        file.unlink()
    return replace(pool, memories=Remembered(), on_visit=None)


def ask(transport: Hospitals, visitor: object, names: str | list[str] = "abc") -> list[Answer]:
    return list(transport.ask(visitor, ((name, Weights({})) for name in names), TURN))


@dataclass(frozen=True)
class Look:
    """An evaluation: measures, and would leave a trace if it could."""

    metric_names = ("mean", "threads")

    def visit(self, site: Site, down: Weights, local: LocalTrainer, turn: Round) -> Contribution[Empty]:
        local.load(down.tensors)
        site.memory = {"trace": torch.ones(1)}
        with local.measuring():
            mean = float(local.module.layer(site.images.batch([0]).flatten(1).nan_to_num()).mean())
        return Contribution(site.name, Empty(), site.size, {"mean": mean, "threads": float(torch.get_num_threads())})


@dataclass(frozen=True)
class Rendezvous:
    """Each site tells that it is there; those that wait for another end only once that one was there."""

    folder: Path
    waits: dict[str, str]

    def visit(self, site: Site, down: Weights, local: LocalTrainer, turn: Round) -> Contribution[Empty]:
        (self.folder / site.name).touch()
        until = time.monotonic() + PATIENCE
        while site.name in self.waits and not (self.folder / self.waits[site.name]).exists():
            if time.monotonic() > until:
                raise Refused("nobody came")
            time.sleep(0.01)
        return Contribution(site.name, Empty(), site.size)


@dataclass(frozen=True)
class Fatal(FedAvg):
    """At this site the process is killed, as by a machine without memory; or the visit stops the run."""

    at: str = ""
    how: str = "kill"

    def visit(self, site: Site, down: Weights, local: LocalTrainer, turn: Round) -> Contribution[Weights]:
        if site.name == self.at and self.how == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if site.name == self.at:
            raise SystemExit(1)  # as Lightning answers Ctrl-C
        site.memory = {"noted": torch.tensor(turn.index)}
        return Contribution(site.name, HEAVY, site.size)


def trained(sites: Hospitals, algorithm: Algorithm, rounds: Rounds) -> list[Any]:
    """All that a run leaves: state, memories, records and what the sites' own files say; without times."""
    records: list[RoundRecord] = []
    state = federate(
        algorithm, sites, algorithm.start(sites.local), rounds, 3, evaluator=Look(), every=2,
        finished=lambda record, state: records.append(record),
    )  # fmt: skip
    for record in records:
        record.seconds = 0.0
        for site in record.sites.values():
            site.seconds = 0.0
    assert sites.folder is not None
    files = {p.relative_to(sites.folder).as_posix(): p.read_text() for p in sorted(sites.folder.glob("*/*.jsonl"))}
    told = {name: re.sub(r'"seconds": [\d.e-]+|"time": "[^"]+"', "", text) for name, text in files.items()}
    return [flatten(state), sites.memories.held, [r.as_dict() for r in records], told]


@pytest.mark.parametrize(
    ("algorithm", "rounds"),
    [
        (FedAvg(), Rounds(2)),
        (FedAvg(), Rounds(3, per_round=3)),
        (WithExchange(FedAvg(), exchange=ShareTotals()), Rounds(2)),
        (FedOpt(Scaffold(sites=11)), Rounds(2)),
        (FedNova(), Rounds(2)),
    ],
    ids=["all", "some", "exchange", "controls", "lengths"],
)
def test_a_run_by_workers_equals_one_in_one_process_to_the_bit(
    workers: ByWorkers, tmp_path: Path, algorithm: Algorithm, rounds: Rounds
) -> None:
    state, memories, records, told = trained(alone(tmp_path), algorithm, rounds)
    found_state, found_memories, found_records, found_told = trained(workers, algorithm, rounds)
    assert same(found_state, state)
    assert list(found_memories) == list(memories)  # in the same order: the same index of a checkpoint
    assert all(same(found_memories[site], memories[site]) for site in memories)
    assert any(name.startswith("optimizer/") for name in memories["a"])
    assert "trace" not in memories["a"]
    assert found_records == records
    assert any("nan" in record["refused"] for record in records)
    assert found_told == told
    assert "a/audit.jsonl" in told


def test_workers_take_the_gpus_in_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    assert gpu_of(1) is None
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    assert [gpu_of(place) for place in range(4)] == ["0", "1", "2", "0"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5,GPU-b,2")
    assert [gpu_of(place) for place in range(4)] == ["5", "GPU-b", "2", "5"]


def test_sites_are_visited_at_the_same_time_and_answer_in_order(workers: ByWorkers, tmp_path: Path) -> None:
    """The first site ends only after the third has begun, which another worker visits."""
    workers.on_visit = (visited := []).append
    answers = ask(workers, Rendezvous(tmp_path, {"a": "c"}), "abcd")
    assert [a.site for a in answers] == visited == list("abcd")
    assert all(isinstance(a, Contribution) for a in answers)


def test_few_answers_wait_behind_a_slow_site(workers: ByWorkers, tmp_path: Path) -> None:
    workers.on_visit = (visited := []).append
    answers = workers.ask(Rendezvous(tmp_path, {"a": "h"}), ((n, Weights({})) for n in NAMES), TURN)
    assert visited == []
    assert isinstance(next(answers), Contribution)
    assert visited == list("abcdefgh")
    assert [a.site for a in answers] == list(NAMES[1:])


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


def test_the_threads_are_shared_out(workers: ByWorkers) -> None:
    (answer,) = ask(workers, Look(), "a")
    assert isinstance(answer, Contribution)
    assert answer.metrics["threads"] == 1 == torch.get_num_threads()


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="counts descriptors as Linux lists them")
def test_many_visits_leave_no_descriptor_open(workers: ByWorkers) -> None:
    def descriptors() -> list[int]:
        places = [Path(f"/proc/{child.pid}/fd") for child in multiprocessing.active_children()]
        return [len(list(place.iterdir())) for place in (Path("/proc/self/fd"), *places)]

    many = Weights({f"w{i}": torch.ones(10) for i in range(60)})
    visitor = Sender(dict.fromkeys("ab", many))
    ask(workers, visitor, "ab")
    before = descriptors()
    assert len(before) == 3
    for answer in workers.ask(visitor, ((name, many) for name in "ab" * 100), TURN):
        assert isinstance(answer, Contribution)
    assert descriptors() == before


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


def test_what_was_compiled_is_compiled_again() -> None:
    trainer = local(Visit(batch_size=4, accelerator="cpu", compile=True))
    arrived = rebuilt(unpack(pack(trainer)))
    assert all(part._compiled_call_impl is not None for part in (arrived.module.layer, arrived.module.norm))
    assert same(arrived.module.state_dict(), trainer.module.state_dict())


def test_a_worker_begins_with_the_module_as_it_was_made() -> None:
    trainer = local()
    trainer.load({"seen": torch.tensor(7.0)})
    assert float(rebuilt(unpack(pack(trainer))).module.seen) == 0.0


def test_the_number_of_workers() -> None:
    with pytest.raises(InputError, match="workers must be at least 1, got 0"):
        by_workers(0)


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


def until(what: Callable[[], bool]) -> None:
    begun = time.monotonic()
    while not what():
        assert time.monotonic() - begun < 4 * PATIENCE
        time.sleep(0.05)


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
    assert error == "fedpretrain: stopped; to continue a training from its last complete round, add --resume true\n"
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
            assert again.communicate(timeout=4 * PATIENCE) == (f"result: {folder}\n", "")
    patterns = ("state/**/*.*", "sites/*/memory/*.*", "encoder/*.safetensors")
    files = [p.relative_to(whole) for pattern in patterns for p in whole.glob(pattern)]
    assert len(files) == 2 + 2 * 3 + 1  # the server's, the last two memories of each site, the encoder
    assert all((parts / file).read_bytes() == (whole / file).read_bytes() for file in files)
