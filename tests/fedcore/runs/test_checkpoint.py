from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest
import torch

from fedcore.errors import InputError
from fedcore.messages.message import Weights
from fedcore.messages.request import Counted
from fedcore.messages.tensors import Tensors
from fedcore.runs.checkpoint import Checkpoint, Recorded
from tests.fedcore.federating import same

EVERY_TYPE: Tensors = {
    "single": torch.tensor([0.1, -0.0, 3e38, 1e-45]),
    "double": torch.tensor([1 / 3], dtype=torch.float64),
    "half": torch.tensor([[1.0, 65504.0]], dtype=torch.float16),
    "brain": torch.tensor([1.0], dtype=torch.bfloat16),
    "long": torch.tensor(2**62 + 1),
    "byte": torch.tensor([-128, 127], dtype=torch.int8),
    "flag": torch.tensor([True, False]),
    "none": torch.zeros(0, 3),
    "turned": torch.arange(6.0).reshape(2, 3).T,
}
STATE = Weights(EVERY_TYPE)


def committed(folder: Path, rounds: int = 1) -> Checkpoint:
    """Two sites that remember each round; the numbers tell the round."""
    checkpoint = Checkpoint(folder)
    for index in range(rounds):
        checkpoint.commit(index, Weights({"w": torch.full((2,), float(index))}), counted=all_count(index))
    return checkpoint


def all_count(index: int) -> dict[str, Counted]:
    return {site: Counted(index, True) for site in "ab"}


def files(folder: Path) -> set[str]:
    return {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()}


def test_state_comes_back_to_the_bit(tmp_path: Path) -> None:
    Checkpoint(tmp_path).commit(0, STATE)
    again = Checkpoint.open(tmp_path)
    assert again.rounds == 1
    assert same(again.restore(STATE).tensors, EVERY_TYPE)
    assert torch.signbit(again.restore(STATE).tensors["single"][1])
    assert list(again.restore(STATE).tensors) == list(EVERY_TYPE)


def test_which_visits_count_comes_back(tmp_path: Path) -> None:
    """Of a site that was not in the last round too, and of one that keeps nothing any more."""
    counted = {"b": Counted(0, True), "a": Counted(1, True), "forgets": Counted(1, False)}
    committed(tmp_path).commit(1, STATE, counted=counted)
    again = Checkpoint.open(tmp_path)
    assert again.counted == counted
    assert list(again.counted) == list(counted)  # in the same order: the same index
    again.commit(2, STATE)
    assert Checkpoint.open(tmp_path).counted == counted


def test_a_new_folder_is_round_nought(tmp_path: Path) -> None:
    checkpoint = Checkpoint.open(tmp_path / "none")
    assert (checkpoint.rounds, checkpoint.server, checkpoint.counted) == (0, None, {})
    assert not (tmp_path / "none").exists()


def test_what_was_never_committed_does_not_count(tmp_path: Path) -> None:
    """A process killed after its sites were visited, before state.json was replaced."""
    committed(tmp_path, rounds=2)
    (tmp_path / "00002").mkdir()
    (tmp_path / "00002" / "server.safetensors").write_bytes(b"half a fi")
    (tmp_path / ".state.json.part").write_bytes(b'{"format": 3, "rou')
    again = Checkpoint.open(tmp_path)
    assert again.rounds == 2
    assert again.counted == all_count(1)
    assert again.restore(Weights({"w": torch.zeros(2)})).tensors["w"].tolist() == [1.0, 1.0]


def test_a_visit_counts_only_once_its_round_is_committed(tmp_path: Path) -> None:
    """The visits of a running run are recorded elsewhere until then."""
    checkpoint = committed(tmp_path)
    counted = checkpoint.counted | {"a": Counted(1, True)}
    assert checkpoint.counted == Checkpoint.open(tmp_path).counted == all_count(0)
    checkpoint.commit(1, STATE, counted=counted)
    counted["b"] = Counted(2, True)
    assert checkpoint.counted == Checkpoint.open(tmp_path).counted == all_count(0) | {"a": Counted(1, True)}


def test_only_what_counts_is_kept(tmp_path: Path) -> None:
    committed(tmp_path, rounds=3)
    assert files(tmp_path) == {"00002/server.safetensors", "state.json"}
    assert {p.name for p in tmp_path.iterdir() if p.is_dir()} == {"00002"}


def test_a_site_may_be_called_server(tmp_path: Path) -> None:
    Checkpoint(tmp_path).commit(0, STATE, counted={"server": Counted(0, True)})
    again = Checkpoint.open(tmp_path)
    assert same(again.restore(STATE).tensors, EVERY_TYPE)
    assert again.counted == {"server": Counted(0, True)}


@pytest.mark.parametrize("nth", [0, 1], ids=["server", "index"])
def test_a_full_disk_costs_nothing_that_was_committed(tmp_path: Path, monkeypatch: Any, nth: int) -> None:
    checkpoint = committed(tmp_path)
    before = files(tmp_path)
    opened, count = Path.open, iter(range(9))

    def full(path: Path, *args: Any, **kwargs: Any) -> Any:
        if path.name.endswith(".part") and next(count) == nth:
            raise OSError(errno.ENOSPC, "No space left on device")
        return opened(path, *args, **kwargs)

    monkeypatch.setattr(Path, "open", full)
    with pytest.raises(InputError, match=r"the disk is full: .* needs [^0].*(bytes|kB); free some"):
        checkpoint.commit(1, Weights({"w": torch.ones(2)}), counted=all_count(1))
    monkeypatch.undo()
    assert before <= files(tmp_path)
    assert not [name for name in files(tmp_path) if name.endswith(".part")]
    again = Checkpoint.open(tmp_path)
    assert (again.rounds, again.counted) == (1, all_count(0))
    assert (checkpoint.rounds, checkpoint.counted) == (1, all_count(0))
    assert again.restore(Weights({"w": torch.zeros(2)})).tensors["w"].tolist() == [0.0, 0.0]


def test_what_the_index_names_is_on_disk_before_it_and_older_states_go_after_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint = committed(tmp_path / "state")
    told: list[tuple[str, str]] = []
    fsync, replace, unlink = os.fsync, Path.replace, Path.unlink

    def name(path: Path) -> str:
        return path.relative_to(tmp_path).as_posix()

    def syncing(handle: int) -> None:
        told.append(("sync", name(Path(f"/proc/self/fd/{handle}").readlink())))
        fsync(handle)

    def replacing(path: Path, to: Path) -> Path:
        told.append(("replace", name(to)))
        return replace(path, to)

    def removing(path: Path, missing_ok: bool = False) -> None:
        if path.exists():
            told.append(("remove", name(path)))
        unlink(path, missing_ok)

    monkeypatch.setattr(os, "fsync", syncing)
    monkeypatch.setattr(Path, "replace", replacing)
    monkeypatch.setattr(Path, "unlink", removing)
    checkpoint.commit(1, STATE, counted=all_count(1))
    index = told.index(("replace", "state/state.json"))
    assert told.index(("replace", "state/00001/server.safetensors")) < index
    assert ("sync", "state/00001/.server.safetensors.part") in told[:index]
    assert ("sync", "state/.state.json.part") in told[:index]
    for folder in ("state/00001", "state", "."):
        assert ("sync", folder) in told[:index]
    durable = told.index(("sync", "state"), index)
    removed = [at for at, (what, _) in enumerate(told) if what == "remove"]
    assert {told[at][1] for at in removed} == {"state/00000/server.safetensors"}
    assert min(removed) > durable


def test_tied_weights_are_kept_as_if_they_were_two(tmp_path: Path) -> None:
    weight = torch.arange(6.0).reshape(2, 3)
    Checkpoint(tmp_path).commit(0, Weights({"in": weight, "out": weight, "turned": weight.T}))
    found = Checkpoint.open(tmp_path).restore(Weights({"in": weight, "out": weight, "turned": weight.T})).tensors
    assert same(found, {"in": weight, "out": weight, "turned": weight.T.contiguous()})


def test_a_record_that_grew_still_fits() -> None:
    recorded = Recorded.of(b"abc")
    assert [recorded.fits(data) for data in (b"abc", b"abcd", b"ab", b"axc", b"")] == [True, True, False, False, False]
