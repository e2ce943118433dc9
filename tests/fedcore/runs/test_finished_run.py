"""Checksums of a finished run, and what changes they find."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch

from fedcore.errors import InputError
from fedcore.files.checksums import SUMS
from fedcore.files.writing import write_json
from fedcore.messages.message import Weights
from fedcore.messages.request import Counted
from fedcore.messages.tensors import Tensors
from fedcore.runs.communication import RoundRecord
from fedcore.runs.folder import RunFolder
from fedcore.runs.record import KEPT
from fedcore.site.memory import FOLDER, MemoryOnDisk
from tests.fedcore.federating import same
from tests.fedcore.runs.test_folder import ABOUT, RECIPE, _cut, _tree, begun


def sealed(path: Path, memories: bool = True) -> RunFolder:
    """A finished run of two rounds, whose sites a and b keep something to themselves."""
    run = RunFolder(path, RECIPE)
    checkpoint = run.begin(ABOUT)
    for index in range(2):
        run.append(RoundRecord(index))
        for site in ("a", "b"):
            memory = MemoryOnDisk(run.site(site) / FOLDER)
            memory.put(kept(index) if memories else {}, index, checkpoint.counted.get(site))
        counted = {site: Counted(index, memories) for site in ("a", "b")}
        checkpoint.commit(index, Weights({"w": torch.ones(1)}), run.recorded(), counted)
    write_json(path / "scores.json", {"accuracy": 0.5})
    run.close("finished")
    return run


def kept(index: int) -> Tensors:
    return {"module/w": torch.full((2,), float(index))}


def test_the_sums_of_a_finished_run_are_those_of_sha256sum(tmp_path: Path) -> None:
    assert sealed(tmp_path).finished() == json.loads((tmp_path / "run.json").read_text())
    done = subprocess.run(["sha256sum", "--check", "--strict", SUMS], cwd=tmp_path, capture_output=True, check=False)
    assert done.returncode == 0
    assert {line.split(":")[0] for line in done.stdout.decode().splitlines()} == {"run.json", *KEPT}


@pytest.mark.parametrize("name", ["run.json", *KEPT, SUMS])
def test_a_finished_run_that_was_changed_is_refused(tmp_path: Path, name: str) -> None:
    """By every bit of it; and where it is gone, unless that is state/, which nothing needs any more."""
    run, file = sealed(tmp_path), tmp_path / name
    whole = file.read_bytes()
    for at in range(0, len(whole), 7):
        file.write_bytes(whole[:at] + bytes([whole[at] ^ 1 << at % 8]) + whole[at + 1 :])
        with pytest.raises(InputError):
            run.finished()
    file.unlink()
    if name != "state/state.json":
        with pytest.raises(InputError):
            run.memories()
        file.write_bytes(whole)
    run.memories()


@pytest.mark.parametrize("memories", [True, False])
def test_the_state_of_a_finished_run_may_go(tmp_path: Path, memories: bool) -> None:
    """What sites keep to themselves lies with them, and run.json says which visit counts."""
    run = sealed(tmp_path, memories)
    shutil.rmtree(tmp_path / "state")
    found = run.memories()
    assert found.counted == run.counted() == ({site: Counted(1, True) for site in ("a", "b")} if memories else {})
    for site in ("a", "b"):
        assert same(found.get(site), kept(1) if memories else {})


def _flipped(path: Path) -> None:
    data = path.read_bytes()
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))


@pytest.mark.parametrize(
    ("damage", "words"),
    [(_flipped, "memory of round 1 is damaged"), (_cut, "memory of round 1 is damaged"),
     (Path.unlink, "has no record of its visit of round 1")],
)  # fmt: skip
def test_a_memory_of_a_finished_run_that_was_lost_or_changed_is_named(tmp_path: Path, damage: Any, words: str) -> None:
    run = sealed(tmp_path)
    (file,) = (run.site("b") / FOLDER).glob("00001.*")
    damage(file)
    assert same(run.memories().get("a"), kept(1))
    with pytest.raises(InputError, match=f"{tmp_path}: the tensors that stay at b are missing: .*{words}.*copy the"):
        run.memories().get("b")


@pytest.mark.parametrize("rounds", [1, 2])
def test_a_finished_run_whose_state_is_missing_does_not_start_again(tmp_path: Path, rounds: int) -> None:
    begun(tmp_path, rounds).close("finished")
    shutil.rmtree(tmp_path / "state")
    before = _tree(tmp_path)
    with pytest.raises(InputError, match=rf"records {rounds} rounds, but its state/ holds 0"):
        RunFolder(tmp_path, RECIPE, resume=True).begin(ABOUT)
    assert _tree(tmp_path) == before


def test_a_state_that_comes_from_elsewhere_is_refused(tmp_path: Path) -> None:
    run, other = sealed(tmp_path / "a", memories=False), sealed(tmp_path / "b")
    shutil.rmtree(run.path / "state")
    shutil.copytree(other.path / "state", run.path / "state")
    with pytest.raises(InputError, match=r"state\.json is corrupted, truncated or not what was written"):
        run.memories()


def test_a_run_that_goes_on_has_no_sums(tmp_path: Path) -> None:
    sealed(tmp_path)
    run = RunFolder(tmp_path, RECIPE, resume=True)
    run.begin(ABOUT)
    assert not (tmp_path / SUMS).exists()
    with pytest.raises(InputError, match="holds a run that is running; resume it until it has finished"):
        run.finished()
    run.close("finished")
    run.finished()
