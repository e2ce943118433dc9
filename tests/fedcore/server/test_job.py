from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch

from fedcore.algorithms.base import Algorithm
from fedcore.algorithms.fedavg import FedAvg
from fedcore.algorithms.local_only import LocalOnly
from fedcore.algorithms.properties import share_of
from fedcore.algorithms.quantised import Quantised
from fedcore.algorithms.scaffold import Scaffold
from fedcore.data.dataset import Images
from fedcore.errors import InputError
from fedcore.exchanges.base import WithExchange
from fedcore.messages.message import flatten
from fedcore.messages.request import EVALUATE, TRAIN
from fedcore.messages.round import Round
from fedcore.messages.tensors import Tensors
from fedcore.privacy.policy import Policy
from fedcore.runs.checkpoint import Checkpoint
from fedcore.runs.folder import RunFolder
from fedcore.server.job import Job
from fedcore.server.rounds import PeriodicEvaluation, Rounds
from fedcore.site.memory import FOLDER, MemoryOnDisk
from fedcore.training.local_trainer import LocalTrainer
from fedcore.training.lr_schedule import Cosine
from fedcore.training.visit import Visit
from fedcore.transport.simulation import by_workers, simulate
from tests.fedcore.federating import same
from tests.fedcore.toy_exchanges import ShareTotals
from tests.fedcore.toys import Hospitals, Toy, hospitals

ABOUT = {"command": "test", "data": "abc"}


class Stopping(Toy):
    """Ctrl-C while this site trains in this round, with its neighbours' visits done."""

    at: tuple[str, int] | None = None

    def on_visit_start(self, site: str, turn: Round) -> None:
        if (site, turn.index) == self.at:
            raise KeyboardInterrupt


@dataclass(frozen=True)
class Setup:
    """A job and the sites that it is for."""

    train: Mapping[str, Images] = field(default_factory=lambda: hospitals("abc"))
    algorithm: Algorithm = field(default_factory=FedAvg)
    visit: Visit = Visit(batch_size=4, accelerator="cpu", keep_optimizer=True)
    rounds: Rounds = Rounds(3)
    policy: Policy = Policy()
    evaluator: Any = None
    seed: int = 0
    workers: int = 1

    @property
    def words(self) -> dict[str, Any]:
        return {TRAIN: self.algorithm} | ({EVALUATE: self.evaluator} if self.evaluator else {})

    def simulation(self, folder: Path, module: Toy) -> tuple[LocalTrainer, Hospitals]:
        local = LocalTrainer(module, share_of(self.algorithm, module), self.visit)
        return local, simulate(self.train, local, self.words, policy=self.policy, folder=folder / "sites")


def job(algorithm: Algorithm | None = None, **changes: Any) -> Setup:
    return Setup(algorithm=algorithm or FedAvg(), **changes)


def start(folder: Path, task: Setup, module: Toy | None = None, resume: bool = False) -> Tensors:
    """Runs it and returns the server's committed state."""
    run = RunFolder(folder, "seed: 0\n", resume)
    run.prepare()
    local, simulation = task.simulation(folder, module or Toy())
    evaluation = PeriodicEvaluation() if task.evaluator else None
    it = Job(task.algorithm, task.rounds, evaluation, seed=task.seed)
    it.train_in(run, local, simulation, dict(ABOUT), by_workers(task.workers))
    return flatten(Checkpoint.open(folder / "state").restore(task.algorithm.start(local)))


def memories(folder: Path) -> dict[str, Tensors]:
    counted = Checkpoint.open(folder / "state").counted
    return {site: MemoryOnDisk(folder / "sites" / site / FOLDER).get(of) for site, of in counted.items() if of.keeps}


def told(folder: Path) -> list[Any]:
    """rounds.jsonl without its clocks."""

    def timeless(tree: Any) -> Any:
        return {k: timeless(v) for k, v in tree.items() if k != "seconds"} if isinstance(tree, dict) else tree

    return [timeless(json.loads(line)) for line in (folder / "rounds.jsonl").read_text().splitlines()]


def test_what_sites_remember_of_a_round_is_on_the_disk_before_the_round_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[tuple[str, str]] = []
    fsync, replace = os.fsync, Path.replace

    def name(path: Path) -> str:
        return path.relative_to(tmp_path).as_posix()

    def syncing(handle: int) -> None:
        told.append(("sync", name(Path(f"/proc/self/fd/{handle}").readlink())))
        fsync(handle)

    def replacing(path: Path, to: Path) -> Path:
        told.append(("replace", name(to)))
        return replace(path, to)

    monkeypatch.setattr(os, "fsync", syncing)
    monkeypatch.setattr(Path, "replace", replacing)
    start(tmp_path, job(rounds=Rounds(1)))
    index = told.index(("replace", "state/state.json"))
    for site in "abc":
        (file,) = (tmp_path / "sites" / site / FOLDER).iterdir()
        written = told.index(("replace", name(file)))
        for part in (file, *file.parents[:4]):  # the file, memory/, the site's folder, sites/, the run's folder
            assert ("sync", name(part)) in told[written:index]


@pytest.mark.parametrize(
    ("algorithm", "rounds"),
    [
        (FedAvg(), Rounds(3)),
        (FedAvg(), Rounds(3, per_round=2)),
        (WithExchange(FedAvg(), exchange=ShareTotals()), Rounds(3)),
        (LocalOnly(), Rounds(3)),
    ],
    ids=["fedavg", "two of three", "exchange", "local"],
)
@pytest.mark.parametrize("index", [0, 1])
def test_a_run_stopped_amid_a_round_and_resumed_equals_an_uninterrupted_one(
    tmp_path: Path, algorithm: Algorithm, rounds: Rounds, index: int
) -> None:
    task = job(algorithm, rounds=rounds)
    expected = start(tmp_path / "whole", task)
    module = Stopping()
    module.at = (rounds.draw(list(task.train), Round(index, 3, 0))[-1], index)
    with pytest.raises(KeyboardInterrupt):
        start(tmp_path / "parts", task, module)
    assert RunFolder(tmp_path / "parts").about()["status"] == "stopped"
    assert Checkpoint.open(tmp_path / "parts" / "state").rounds == index
    assert list((tmp_path / "parts" / "sites").glob(f"*/memory/{index:05d}.*"))  # visits that must not count

    found = start(tmp_path / "parts", task, resume=True)
    assert same(found, expected)
    whole, parts = memories(tmp_path / "whole"), memories(tmp_path / "parts")
    assert whole.keys() == parts.keys() == set(task.train)
    assert all(same(parts[site], whole[site]) for site in whole)
    assert any(name.startswith("optimizer/") for name in parts["a"])
    assert told(tmp_path / "parts") == told(tmp_path / "whole")


def test_a_run_that_is_done_has_nothing_left_to_do(tmp_path: Path) -> None:
    first = start(tmp_path, job())
    lines = (tmp_path / "rounds.jsonl").read_bytes()
    assert same(start(tmp_path, job(), resume=True), first)
    assert (tmp_path / "rounds.jsonl").read_bytes() == lines


@pytest.mark.parametrize(
    "algorithm", [FedAvg(), WithExchange(FedAvg(), exchange=ShareTotals()), Scaffold(), Quantised(FedAvg())]
)
def test_a_run_that_gets_more_rounds_is_the_longer_run(algorithm: Algorithm, tmp_path: Path) -> None:
    start(tmp_path / "part", job(algorithm, rounds=Rounds(1)))
    longer = start(tmp_path / "part", job(algorithm), resume=True)
    assert same(longer, start(tmp_path / "whole", job(algorithm)))
    assert told(tmp_path / "part") == told(tmp_path / "whole")


@pytest.mark.parametrize(
    "wrap", [lambda inner: inner, lambda inner: Quantised(WithExchange(inner, exchange=ShareTotals()))]
)
def test_what_depends_on_the_number_of_rounds_gets_no_others(wrap: Callable[[Any], Any], tmp_path: Path) -> None:
    falling = {"algorithm": wrap(FedAvg()), "visit": Visit(batch_size=4, accelerator="cpu", callbacks=(Cosine(),))}
    start(tmp_path, job(**falling, rounds=Rounds(2)))
    before = (tmp_path / "run.json").read_bytes()
    with pytest.raises(InputError, match=r"started with rounds\.count 2, and Cosine depends on that number"):
        start(tmp_path, job(**falling), resume=True)
    assert (tmp_path / "run.json").read_bytes() == before
    start(tmp_path, job(**falling, rounds=Rounds(2)), resume=True)


def test_the_module_ends_with_the_servers_weights(tmp_path: Path) -> None:
    module = Toy()
    state = start(tmp_path, job(), module)
    assert all(torch.equal(module.state_dict()[k.removeprefix("tensors/")], t) for k, t in state.items())
    about = RunFolder(tmp_path).about()
    assert (about["status"], about["rounds"], about["parameters"]) == ("trained", 3, 64 * 3 + 3 + 2 * 3)


def test_two_runs_of_one_seed_are_one_run(tmp_path: Path) -> None:
    one, two, other = (start(tmp_path / n, job(seed=s)) for n, s in (("one", 0), ("two", 0), ("other", 1)))
    assert same(one, two)
    assert not same(one, other)
