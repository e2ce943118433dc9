from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from fedcore.errors import InputError
from fedcore.messages.message import Weights
from fedcore.messages.request import Counted
from fedcore.messages.tensors import Tensors
from fedcore.runs.checkpoint import Checkpoint, Recorded, _digest
from tests.fedcore.toys import same

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


def changed(folder: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    """The index says something else, and its digest fits that."""
    index = json.loads((folder / "state.json").read_text())
    change(index)
    (folder / "state.json").write_text(json.dumps(index | {"sha256": _digest(index)}))


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


def _truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-3])


def _flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(bytes(data))


@pytest.mark.parametrize(
    ("damage", "words"),
    [(_truncate, "corrupted or truncated"), (_flip, "corrupted or truncated"), (Path.unlink, "cannot be read")],
)
def test_a_damaged_file_is_named(tmp_path: Path, damage: Callable[[Path], None], words: str) -> None:
    committed(tmp_path)
    path = tmp_path / "00000" / "server.safetensors"
    damage(path)
    checkpoint = Checkpoint.open(tmp_path)
    with pytest.raises(InputError) as caught:
        checkpoint.restore(Weights({"w": torch.zeros(2)}))
    assert str(path) in str(caught.value)
    assert words in str(caught.value)
    assert "restore the file from a backup, or start the run again" in str(caught.value)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        '{"format": 3}',
        "null",
        '{"format": 3, "rounds": 1}',
        '{"format": 3, "rounds": "1", "server": {"file": "s", "crc32": ""}, "counted": {}}',
        '{"format": 3, "rounds": 1, "server": {"file": "s"}, "counted": {}}',
        '{"format": 3, "rounds": 1, "server": null, "counted": {}}',
    ],
)
def test_a_damaged_index_is_named(tmp_path: Path, text: str) -> None:
    committed(tmp_path)
    (tmp_path / "state.json").write_text(text)
    with pytest.raises(InputError, match=r"state\.json is damaged .*restore the file from a backup"):
        Checkpoint.open(tmp_path)


@pytest.mark.parametrize(
    "change",
    [
        lambda index: index.pop("counted"),
        lambda index: index.update(counted=None),
        lambda index: index["counted"].update(a=None),
        lambda index: index["counted"].update(a=1),
        lambda index: index["counted"].update(a=[0]),
        lambda index: index["counted"].update(a=["0", True]),
        lambda index: index["counted"].update(a=[True, True]),
        lambda index: index["counted"].update(a=[0, 1]),
        lambda index: index.update(rounds="1"),
        lambda index: index.update(recorded={"size": 1}),
    ],
)
def test_an_index_that_says_what_no_run_writes_is_damaged(tmp_path: Path, change: Callable[[Any], Any]) -> None:
    committed(tmp_path)
    changed(tmp_path, change)
    with pytest.raises(InputError, match=r"state\.json is damaged .*restore the file from a backup"):
        Checkpoint.open(tmp_path)


@pytest.mark.parametrize("other", [2, 4])
def test_another_format_says_what_to_do(tmp_path: Path, other: int) -> None:
    """Format 2 had the memories of the sites beside the server's state."""
    committed(tmp_path)
    index = json.loads((tmp_path / "state.json").read_text())
    (tmp_path / "state.json").write_text(json.dumps(index | {"format": other}))
    with pytest.raises(InputError, match=f"has format {other}, this version reads 3; resume it with the version that"):
        Checkpoint.open(tmp_path)


@pytest.mark.parametrize(
    ("like", "differing"),
    [({"w": torch.zeros(3)}, r"w: \(2,\) instead of \(3,\)"), ({"v": torch.zeros(2)}, "v: missing instead of")],
)
def test_another_architecture_is_named(tmp_path: Path, like: Tensors, differing: str) -> None:
    committed(tmp_path)
    with pytest.raises(InputError, match=rf"another architecture \(1 tensors differ, e\.g\. tensors/{differing}"):
        Checkpoint.open(tmp_path).restore(Weights(like))


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


def test_nothing_behind_a_link_and_nothing_of_others_is_removed(tmp_path: Path) -> None:
    checkpoint, outside = committed(tmp_path / "state"), tmp_path / "outside"
    outside.mkdir()
    (outside / "server.safetensors").write_text("precious")
    (tmp_path / "state" / "00007").symlink_to(outside)
    (tmp_path / "state" / "00004").mkdir()
    (tmp_path / "state" / "00004" / "server.safetensors").symlink_to(outside / "server.safetensors")
    (tmp_path / "state" / "00000" / "notes.txt").write_text("mine")
    (tmp_path / "state" / "00000" / "site-a.safetensors").write_text("of format 2")
    (tmp_path / "state" / "00000" / ".server.safetensors.part").write_text("half")
    (tmp_path / "state" / "other").mkdir()
    (tmp_path / "state" / "other" / "server.safetensors").write_text("mine")
    for index in (1, 2):
        checkpoint.commit(index, STATE)
    assert (outside / "server.safetensors").read_text() == "precious"
    assert files(tmp_path / "state") == {
        "state.json", "00002/server.safetensors", "00004/server.safetensors", "00000/site-a.safetensors",
        "00000/notes.txt", "other/server.safetensors",
    }  # fmt: skip
    assert (tmp_path / "state" / "00007").is_symlink()


@pytest.mark.parametrize("change", [{"rounds": 10**19}, {"rounds": 1}, {"counted": {}}, {"recorded": None}])
def test_an_index_that_was_changed_is_noticed(tmp_path: Path, change: dict[str, Any]) -> None:
    committed(tmp_path).commit(1, STATE, Recorded.of(b"{}"))
    index = json.loads((tmp_path / "state.json").read_text())
    (tmp_path / "state.json").write_text(json.dumps(index))  # as another program might lay it out
    assert Checkpoint.open(tmp_path).recorded == Recorded.of(b"{}")
    (tmp_path / "state.json").write_text(json.dumps(index | change))
    with pytest.raises(InputError, match=r"state\.json is damaged \(ValueError\)"):
        Checkpoint.open(tmp_path)


def test_an_index_leads_to_no_file_of_others(tmp_path: Path) -> None:
    committed(tmp_path)
    changed(tmp_path, lambda index: index["server"].update(file="../../elsewhere.safetensors"))
    with pytest.raises(InputError, match=r"state\.json is damaged"):
        Checkpoint.open(tmp_path)


def test_tied_weights_are_kept_as_if_they_were_two(tmp_path: Path) -> None:
    weight = torch.arange(6.0).reshape(2, 3)
    Checkpoint(tmp_path).commit(0, Weights({"in": weight, "out": weight, "turned": weight.T}))
    found = Checkpoint.open(tmp_path).restore(Weights({"in": weight, "out": weight, "turned": weight.T})).tensors
    assert same(found, {"in": weight, "out": weight, "turned": weight.T.contiguous()})


def test_a_record_that_grew_still_fits() -> None:
    recorded = Recorded.of(b"abc")
    assert [recorded.fits(data) for data in (b"abc", b"abcd", b"ab", b"axc", b"")] == [True, True, False, False, False]
