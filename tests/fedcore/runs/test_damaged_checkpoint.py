"""A state that is damaged, of another run, or behind a link."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from fedcore.errors import InputError
from fedcore.messages.message import Weights
from fedcore.messages.tensors import Tensors
from fedcore.runs.checkpoint import Checkpoint, Recorded, _digest
from tests.fedcore.runs.test_checkpoint import STATE, committed, files


def changed(folder: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    """The index says something else, and its digest fits that."""
    index = json.loads((folder / "state.json").read_text())
    change(index)
    (folder / "state.json").write_text(json.dumps(index | {"sha256": _digest(index)}))


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
