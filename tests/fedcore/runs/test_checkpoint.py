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
from fedcore.messages.message import Tensors, Weights
from fedcore.runs.checkpoint import Checkpoint, Recorded, _digest
from fedcore.site.site import Round
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


def turn(index: int) -> Round:
    return Round(index, 9, 0)


def committed(folder: Path, rounds: int = 1) -> Checkpoint:
    """Two sites; the numbers tell the round."""
    checkpoint = Checkpoint(folder)
    for index in range(rounds):
        for site in "ab":
            checkpoint.put(site, {"x": torch.tensor(float(index))}, turn(index))
        checkpoint.commit(index, Weights({"w": torch.full((2,), float(index))}))
    return checkpoint


def files(folder: Path) -> set[str]:
    return {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()}


def test_state_and_memories_come_back_to_the_bit(tmp_path: Path) -> None:
    checkpoint = Checkpoint(tmp_path)
    checkpoint.put("a", EVERY_TYPE, turn(0))
    checkpoint.commit(0, STATE)
    again = Checkpoint.open(tmp_path)
    assert again.rounds == 1
    assert same(again.restore(STATE).tensors, EVERY_TYPE)
    assert same(again.get("a"), EVERY_TYPE)
    assert torch.signbit(again.get("a")["single"][1])
    assert list(again.restore(STATE).tensors) == list(EVERY_TYPE)


def test_a_site_without_memory(tmp_path: Path) -> None:
    checkpoint = committed(tmp_path)
    checkpoint.put("a", {}, turn(1))  # it forgets
    checkpoint.put("new", {}, turn(1))  # it never had any
    checkpoint.commit(1, STATE)
    again = Checkpoint.open(tmp_path)
    assert (again.get("a"), again.get("new"), again.get("unknown")) == ({}, {}, {})
    assert "new" not in again.sites


def test_a_new_folder_is_round_nought(tmp_path: Path) -> None:
    checkpoint = Checkpoint.open(tmp_path / "none")
    assert (checkpoint.rounds, checkpoint.server, checkpoint.sites) == (0, None, {})
    assert not (tmp_path / "none").exists()


def test_what_was_never_committed_does_not_count(tmp_path: Path) -> None:
    """A process killed after its sites were visited, before state.json was replaced."""
    checkpoint = committed(tmp_path, rounds=2)
    checkpoint.put("a", {"x": torch.tensor(99.0)}, turn(2))
    (tmp_path / "00002" / "server.safetensors").write_bytes(b"half a fi")
    (tmp_path / ".state.json.part").write_bytes(b'{"format": 2, "rou')
    again = Checkpoint.open(tmp_path)
    assert again.rounds == 2
    assert again.get("a")["x"] == 1.0
    assert again.restore(Weights({"w": torch.zeros(2)})).tensors["w"].tolist() == [1.0, 1.0]


def test_a_memory_is_there_at_once_but_outlives_the_process_only_once_its_round_is_committed(tmp_path: Path) -> None:
    checkpoint = committed(tmp_path)
    checkpoint.put("a", {"x": torch.tensor(5.0)}, turn(1))
    assert checkpoint.get("a")["x"] == 5.0  # a survey of this round asks the site as it is now
    assert Checkpoint.open(tmp_path).get("a")["x"] == 0.0
    checkpoint.commit(1, STATE)
    assert checkpoint.get("a")["x"] == Checkpoint.open(tmp_path).get("a")["x"] == 5.0


def test_only_what_counts_is_kept(tmp_path: Path) -> None:
    checkpoint = committed(tmp_path, rounds=3)
    assert files(tmp_path) == {f"00002/{n}.safetensors" for n in ("server", "site-a", "site-b")} | {"state.json"}
    checkpoint.put("b", {"x": torch.tensor(3.0)}, turn(3))
    checkpoint.commit(3, STATE)
    kept = {"00002/site-a.safetensors", "00003/site-b.safetensors", "00003/server.safetensors", "state.json"}
    assert files(tmp_path) == kept
    assert {p.name for p in tmp_path.iterdir() if p.is_dir()} == {"00002", "00003"}
    assert Checkpoint.open(tmp_path).get("a")["x"] == 2.0


def test_a_site_may_be_called_server(tmp_path: Path) -> None:
    checkpoint = Checkpoint(tmp_path)
    checkpoint.put("server", {"x": torch.ones(1)}, turn(0))
    checkpoint.commit(0, STATE)
    again = Checkpoint.open(tmp_path)
    assert same(again.restore(STATE).tensors, EVERY_TYPE)
    assert same(again.get("server"), {"x": torch.ones(1)})


def _truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-3])


def _flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(bytes(data))


@pytest.mark.parametrize("name", ["server", "site-a"])
@pytest.mark.parametrize(
    ("damage", "words"),
    [(_truncate, "corrupted or truncated"), (_flip, "corrupted or truncated"), (Path.unlink, "cannot be read")],
)
def test_a_damaged_file_is_named(tmp_path: Path, name: str, damage: Callable[[Path], None], words: str) -> None:
    committed(tmp_path)
    path = tmp_path / "00000" / f"{name}.safetensors"
    damage(path)
    checkpoint = Checkpoint.open(tmp_path)
    like = Weights({"w": torch.zeros(2)})
    with pytest.raises(InputError) as caught:
        _ = checkpoint.restore(like) if name == "server" else checkpoint.get("a")
    assert str(path) in str(caught.value)
    assert words in str(caught.value)
    assert "restore the file from a backup, or start the run again" in str(caught.value)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        '{"format": 2}',
        "null",
        '{"format": 2, "rounds": 1}',
        '{"format": 2, "rounds": "1", "server": {"file": "s", "crc32": ""}, "sites": {}}',
        '{"format": 2, "rounds": 1, "server": {"file": "s"}, "sites": {}}',
        '{"format": 2, "rounds": 1, "server": null, "sites": {}}',
    ],
)
def test_a_damaged_index_is_named(tmp_path: Path, text: str) -> None:
    committed(tmp_path)
    (tmp_path / "state.json").write_text(text)
    with pytest.raises(InputError, match=r"state\.json is damaged .*restore the file from a backup"):
        Checkpoint.open(tmp_path)


def test_another_format_says_what_to_do(tmp_path: Path) -> None:
    committed(tmp_path)
    index = json.loads((tmp_path / "state.json").read_text())
    (tmp_path / "state.json").write_text(json.dumps(index | {"format": 3}))
    with pytest.raises(InputError, match="has format 3, this version reads 2; resume it with the version that"):
        Checkpoint.open(tmp_path)


@pytest.mark.parametrize(
    ("like", "differing"),
    [({"w": torch.zeros(3)}, r"w: \(2,\) instead of \(3,\)"), ({"v": torch.zeros(2)}, "v: missing instead of")],
)
def test_another_architecture_is_named(tmp_path: Path, like: Tensors, differing: str) -> None:
    committed(tmp_path)
    with pytest.raises(InputError, match=rf"another architecture \(1 tensors differ, e\.g\. tensors/{differing}"):
        Checkpoint.open(tmp_path).restore(Weights(like))


@pytest.mark.parametrize("nth", [0, 1, 2], ids=["memory", "server", "index"])
def test_a_full_disk_costs_nothing_that_was_committed(tmp_path: Path, monkeypatch: Any, nth: int) -> None:
    checkpoint = committed(tmp_path)
    before = files(tmp_path)
    opened, count = Path.open, iter(range(9))

    def full(path: Path, *args: Any, **kwargs: Any) -> Any:
        if path.name.endswith(".part") and next(count) == nth:
            raise OSError(errno.ENOSPC, "No space left on device")
        return opened(path, *args, **kwargs)

    def go_on() -> None:
        checkpoint.put("a", {"x": torch.tensor(9.0)}, turn(1))
        checkpoint.commit(1, Weights({"w": torch.ones(2)}))

    monkeypatch.setattr(Path, "open", full)
    with pytest.raises(InputError, match=r"the disk is full: .* needs [^0].*(bytes|kB); free some"):
        go_on()
    monkeypatch.undo()
    assert before <= files(tmp_path)
    assert not [name for name in files(tmp_path) if name.endswith(".part")]
    again = Checkpoint.open(tmp_path)
    assert (again.rounds, float(again.get("a")["x"])) == (1, 0.0)
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
    checkpoint.put("a", {"x": torch.tensor(1.0)}, turn(1))
    checkpoint.commit(1, STATE)
    index = told.index(("replace", "state/state.json"))
    for path in ("site-a.safetensors", "server.safetensors"):
        assert told.index(("replace", f"state/00001/{path}")) < index
    assert ("sync", "state/00001/site-a.safetensors") in told[:index]
    assert ("sync", "state/00001/.server.safetensors.part") in told[:index]
    assert ("sync", "state/.state.json.part") in told[:index]
    for folder in ("state/00001", "state", "."):
        assert ("sync", folder) in told[:index]
    durable = told.index(("sync", "state"), index)
    removed = [at for at, (what, _) in enumerate(told) if what == "remove"]
    assert {told[at][1] for at in removed} == {"state/00000/server.safetensors", "state/00000/site-a.safetensors"}
    assert min(removed) > durable


def test_nothing_behind_a_link_and_nothing_of_others_is_removed(tmp_path: Path) -> None:
    checkpoint, outside = committed(tmp_path / "state"), tmp_path / "outside"
    outside.mkdir()
    (outside / "server.safetensors").write_text("precious")
    (tmp_path / "state" / "00007").symlink_to(outside)
    (tmp_path / "state" / "00000" / "site-c.safetensors").symlink_to(outside / "server.safetensors")
    (tmp_path / "state" / "00000" / "notes.txt").write_text("mine")
    (tmp_path / "state" / "00000" / ".site-c.safetensors.part").write_text("half")
    (tmp_path / "state" / "other").mkdir()
    (tmp_path / "state" / "other" / "site-a.safetensors").write_text("mine")
    for index in (1, 2):
        checkpoint.put("a", {"x": torch.tensor(1.0)}, turn(index))
        checkpoint.commit(index, STATE)
    assert (outside / "server.safetensors").read_text() == "precious"
    assert files(tmp_path / "state") == {
        "state.json", "00002/server.safetensors", "00002/site-a.safetensors", "00000/site-b.safetensors",
        "00000/site-c.safetensors", "00000/notes.txt", "other/site-a.safetensors",
    }  # fmt: skip
    assert (tmp_path / "state" / "00007").is_symlink()


@pytest.mark.parametrize("change", [{"rounds": 10**19}, {"rounds": 1}, {"sites": {}}, {"recorded": None}])
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
    index = json.loads((tmp_path / "state.json").read_text())
    index["server"]["file"] = "../../elsewhere.safetensors"
    (tmp_path / "state.json").write_text(json.dumps(index | {"sha256": _digest(index)}))
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
