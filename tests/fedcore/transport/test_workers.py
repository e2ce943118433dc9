"""One pool of two processes serves most of this file, since a process takes seconds to import torch."""

from __future__ import annotations

import multiprocessing
import re
from pathlib import Path
from typing import Any

import pytest
import torch

from fedcore.algorithms.base import Algorithm
from fedcore.algorithms.fedavg import FedAvg
from fedcore.algorithms.fednova import FedNova
from fedcore.algorithms.fedopt import FedOpt
from fedcore.algorithms.scaffold import Scaffold
from fedcore.errors import InputError
from fedcore.exchanges.base import WithExchange
from fedcore.messages.answer import Contribution
from fedcore.messages.message import Weights, flatten
from fedcore.runs.communication import RoundRecord
from fedcore.server.rounds import Rounds
from fedcore.training.visit import Visit
from fedcore.transport.pickling import pack, unpack
from fedcore.transport.simulation import by_workers
from fedcore.transport.worker import gpu_of, rebuilt
from tests.fedcore.federating import federate, same
from tests.fedcore.toy_exchanges import Sender, ShareTotals
from tests.fedcore.toys import Hospitals, local
from tests.fedcore.transport.by_workers import (
    NAMES,
    TURN,
    ByWorkers,
    Look,
    Rendezvous,
    alone,
    ask,
)


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
