"""A server and two hospitals as processes of their own end as one process with all images, whoever is killed."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
from torch import Tensor

from fedcore.data.phantom.phantoms import Phantoms
from tests.apart import NAMES
from tests.fedcore.federating import same
from tests.fedcore.site.test_own_data import split
from tests.sockets import Family

SERVER = "server"


@dataclass
class Hospitals:
    """Where the parties are."""

    family: Family
    manifests: dict[str, Path]
    expected: Path
    """The run of one process."""


@pytest.fixture(scope="module")
def apart(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hospitals]:
    folder = tmp_path_factory.mktemp("apart")
    family = Family(folder)
    manifest = Phantoms(sites=2, images_per_site=32).write(folder / "phantoms", 16)
    process = family.start("together", folder / "together", manifest)
    assert family.ended(process) == 0, family.log("together")
    yield Hospitals(family, split(manifest), folder / "together")
    family.close()


@dataclass
class Running:
    """A run of three processes."""

    hospitals: Hospitals
    folder: Path

    def __post_init__(self) -> None:
        self.processes = {name: self.start(name) for name in (*NAMES, SERVER)}

    def start(self, who: str) -> int:
        homes = [self.folder / name for name in NAMES]
        if who == SERVER:
            return self.hospitals.family.start("server", self.folder / "run", *homes)
        (self.folder / who).mkdir(parents=True, exist_ok=True)
        return self.hospitals.family.start("site", who, self.hospitals.manifests[who], self.folder / who)

    def kill(self, who: str) -> None:
        self.hospitals.family.kill(self.processes[who])
        self.processes[who] = self.start(who)

    def rounds(self) -> int:
        path = self.folder / "run" / "rounds.jsonl"
        return path.read_text().count("\n") if path.exists() else 0

    def reached(self, rounds: int) -> None:
        """Waits until so many rounds are on record."""
        until = time.monotonic() + 60
        while self.rounds() < rounds:
            assert time.monotonic() < until, self.logs()
            time.sleep(0.005)

    def finish(self) -> None:
        assert self.hospitals.family.ended(self.processes[SERVER]) == 0, self.logs()
        for name in NAMES:
            assert self.hospitals.family.ended(self.processes[name], within=0) is None, self.logs()  # still there
            self.hospitals.family.kill(self.processes[name])

    def logs(self) -> str:
        return "\n".join(self.hospitals.family.log(who) for who in (SERVER, *NAMES))


def tensors(folder: Path) -> dict[str, Tensor]:
    files = sorted(folder.rglob("*.safetensors"))
    return {f"{p.relative_to(folder)}/{k}": t for p in files for k, t in safetensors.torch.load_file(p).items()}


def told(run: Path) -> list[dict[str, Any]]:
    """The rounds on record, without what differs from run to run."""
    lines = [json.loads(line) for line in (run / "rounds.jsonl").read_text().splitlines()]
    return [
        line | {"seconds": 0, "sites": {name: site | {"seconds": 0} for name, site in line["sites"].items()}}
        for line in lines
    ]


def assert_equal(found: Running) -> None:
    run, expected = found.folder / "run", found.hospitals.expected
    assert same(tensors(run / "state"), tensors(expected / "state"))
    assert same(tensors(run / "encoder"), tensors(expected / "encoder"))
    assert told(run) == told(expected)
    assert not any(line["refused"] for line in told(run))
    for name in NAMES:
        memory = tensors(found.folder / name / "memory")
        kept = {key: t for key, t in memory.items() if key.startswith("00003.")}
        assert kept.keys() == {key for key in memory_of(expected, name) if key.startswith("00003.")}
        assert same(kept, {key: memory_of(expected, name)[key] for key in kept})
        assert any("bank" in key for key in kept)
        assert any("optimizer" in key for key in kept)
        assert not (found.folder / name / "errors.jsonl").exists()
        assert (found.folder / name / "augmented_views.npz").exists()
    said = json.loads((run / "run.json").read_text())
    assert (said["status"], said["sites"]) == ("finished", json.loads((expected / "run.json").read_text())["sites"])
    assert not (run / "sites").exists()  # the server has nothing of theirs


def memory_of(run: Path, site: str) -> dict[str, Tensor]:
    return tensors(run / "sites" / site / "memory")


def test_processes_apart_equal_one_to_the_bit(apart: Hospitals, tmp_path: Path) -> None:
    run = Running(apart, tmp_path)
    run.finish()
    assert_equal(run)


def test_server_and_sites_that_are_killed_and_started_again_end_as_if_nothing_had_been(
    apart: Hospitals, tmp_path: Path
) -> None:
    run = Running(apart, tmp_path)
    run.reached(1)
    run.kill(NAMES[0])
    run.reached(2)
    run.kill(SERVER)
    run.reached(3)
    run.kill(NAMES[1])
    run.kill(SERVER)
    run.finish()
    assert_equal(run)


def killed_at_random(apart: Hospitals, folder: Path, seed: int) -> None:
    """A run takes about a second, beginning and end included."""
    draw, run = random.Random(seed), Running(apart, folder)
    for _ in range(draw.choice((1, 2, 3))):
        time.sleep(draw.uniform(0.0, 0.9))
        if apart.family.ended(run.processes[SERVER], within=0) is not None:
            run.processes[SERVER] = run.start(SERVER)  # a run that has finished is asked for again
            break
        run.kill(draw.choice((SERVER, SERVER, *NAMES)))
    run.finish()
    assert_equal(run)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(2))
def test_whoever_is_killed_at_any_moment(apart: Hospitals, tmp_path: Path, seed: int) -> None:
    killed_at_random(apart, tmp_path, seed)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(2, 22))
def test_whoever_is_killed_at_any_of_many_moments(apart: Hospitals, tmp_path: Path, seed: int) -> None:
    killed_at_random(apart, tmp_path, seed)
