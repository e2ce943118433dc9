from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from fedcore.errors import InputError, Refused
from fedcore.messages.request import Counted
from fedcore.messages.tensors import Tensors
from fedcore.site.memory import Memory, MemoryInRam, MemoryOnDisk
from tests.fedcore.federating import same
from tests.fedcore.runs.test_checkpoint import EVERY_TYPE

Make = Callable[[], Memory]


@pytest.fixture(params=["RAM", "disk", "durable"])
def make(request: pytest.FixtureRequest, tmp_path: Path) -> Make:
    if request.param == "RAM":
        return MemoryInRam
    return lambda: MemoryOnDisk(tmp_path / "memory", durable=request.param == "durable")


def of(turn: int) -> Tensors:
    return {"module/z": torch.full((2, 2), float(turn)), "personal/a": torch.tensor(turn)}


def files(memory: MemoryOnDisk) -> list[str]:
    return sorted(path.name.partition(".")[0] for path in memory.folder.iterdir())


def test_a_site_whose_visits_never_counted_remembers_nothing(make: Make) -> None:
    memory = make()
    assert memory.get(None) == {}
    memory.put(of(0), 0, None)
    assert memory.get(None) == {}


def test_a_site_goes_on_from_the_visit_that_counts(make: Make) -> None:
    memory = make()
    memory.put(of(0), 0, None)
    memory.put(of(1), 1, Counted(0, True))
    assert same(memory.get(Counted(0, True)), of(0))  # round 1 did not count
    assert same(memory.get(Counted(1, True)), of(1))


def test_the_last_two_are_kept_and_older_ones_are_forgotten(make: Make) -> None:
    memory = make()
    for turn in range(5):
        memory.put(of(turn), turn, Counted(turn - 1, True) if turn else None)
    assert same(memory.get(Counted(3, True)), of(3))
    assert same(memory.get(Counted(4, True)), of(4))
    for turn in (0, 1, 2):
        with pytest.raises(Refused, match=f"has no record of its visit of round {turn}, which the server counted"):
            memory.get(Counted(turn, True))
    if isinstance(memory, MemoryOnDisk):
        assert files(memory) == ["00003", "00004"]


def test_a_round_without_quorum_leaves_what_counted_before(make: Make) -> None:
    """Rounds 1 to 3 never count; the site begins each of them from what it remembered of round 0."""
    memory = make()
    memory.put(of(0), 0, None)
    for turn in (1, 2, 3):
        assert same(memory.get(Counted(0, True)), of(0))
        memory.put(of(turn), turn, Counted(0, True))
    assert same(memory.get(Counted(0, True)), of(0))
    if isinstance(memory, MemoryOnDisk):
        assert files(memory) == ["00000", "00003"]


def test_a_round_that_is_visited_again_replaces_its_visit(make: Make) -> None:
    memory = make()
    memory.put(of(0), 0, None)
    memory.put(of(7), 1, Counted(0, True))
    memory.put(of(1), 1, Counted(0, True))
    assert same(memory.get(Counted(1, True)), of(1))
    assert same(memory.get(Counted(0, True)), of(0))
    if isinstance(memory, MemoryOnDisk):
        assert files(memory) == ["00000", "00001"]


def test_a_visit_that_is_made_again_with_equal_bits_is_one_file(make: Make) -> None:
    memory = make()
    for _ in range(2):
        memory.put(of(1), 1, Counted(0, False))
    assert same(memory.get(Counted(1, True)), of(1))


def test_a_visit_after_which_nothing_is_kept_is_no_loss(make: Make) -> None:
    memory = make()
    memory.put(of(0), 0, None)
    memory.put({}, 1, Counted(0, True))
    assert same(memory.get(Counted(0, True)), of(0))
    assert memory.get(Counted(1, False)) == {}
    memory.put({}, 2, Counted(1, False))
    with pytest.raises(Refused, match="has no record of its visit of round 0"):
        memory.get(Counted(0, True))


def test_a_visit_that_keeps_nothing_when_made_again_is_forgotten(make: Make) -> None:
    memory = make()
    memory.put(of(1), 1, None)
    memory.put({}, 1, None)
    with pytest.raises(Refused, match="has no record of"):
        memory.get(Counted(1, True))


def test_a_memory_is_on_disk_for_another_process(tmp_path: Path) -> None:
    tied = torch.arange(4.0)
    MemoryOnDisk(tmp_path, durable=True).put({"one": tied, "two": tied, "row": tied[1:]}, 3, None)
    found = MemoryOnDisk(tmp_path).get(Counted(3, True))
    assert same(found, {"one": tied, "two": tied, "row": tied[1:]})


def test_every_type_comes_back_to_the_bit(tmp_path: Path) -> None:
    MemoryOnDisk(tmp_path).put(EVERY_TYPE, 0, None)
    found = MemoryOnDisk(tmp_path).get(Counted(0, True))
    assert same(found, EVERY_TYPE)
    assert torch.signbit(found["single"][1])


@pytest.mark.parametrize("again", [False, True], ids=["next", "again"])
def test_a_full_disk_costs_nothing_that_counts(tmp_path: Path, monkeypatch: Any, again: bool) -> None:
    memory = MemoryOnDisk(tmp_path)
    memory.put(of(0), 0, None)
    if again:
        memory.put(of(1), 1, Counted(0, True))
    before = sorted(tmp_path.iterdir())

    def full(*_: Any, **__: Any) -> Any:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "open", full)
    with pytest.raises(InputError, match=r"the disk is full: .* needs [^0].*(bytes|kB); free some"):
        memory.put(of(9), 1, Counted(0, True))
    monkeypatch.undo()
    assert sorted(tmp_path.iterdir()) == before
    assert same(MemoryOnDisk(tmp_path).get(Counted(0, True)), of(0))


def test_a_durable_memory_is_on_the_disk_before_an_older_one_goes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory = MemoryOnDisk(tmp_path, durable=True)
    for turn in (0, 1):
        memory.put(of(turn), turn, Counted(turn - 1, True) if turn else None)
    told: list[str] = []
    fsync, replace, unlink = os.fsync, Path.replace, Path.unlink

    def syncing(handle: int) -> None:
        told.append(f"sync {_round(Path(f'/proc/self/fd/{handle}').readlink())}")
        fsync(handle)

    def replacing(path: Path, to: Path) -> Path:
        told.append(f"replace {_round(to)}")
        return replace(path, to)

    def removing(path: Path, missing_ok: bool = False) -> None:
        if path.exists():
            told.append(f"remove {_round(path)}")
        unlink(path, missing_ok)

    def _round(path: Path) -> str:
        return "folder" if path == tmp_path else path.name.strip(".").partition(".")[0]

    monkeypatch.setattr(os, "fsync", syncing)
    monkeypatch.setattr(Path, "replace", replacing)
    monkeypatch.setattr(Path, "unlink", removing)
    memory.put(of(2), 2, Counted(1, True))
    assert (
        told.index("sync 00002") < told.index("replace 00002") < told.index("sync folder") < told.index("remove 00000")
    )
    assert [what for what in told if what.startswith("remove")] == ["remove 00000"]


@pytest.mark.parametrize("part", [0.0, 0.5, 0.99])
def test_a_file_cut_short_is_damaged(tmp_path: Path, part: float) -> None:
    MemoryOnDisk(tmp_path).put(of(0), 0, None)
    (file,) = tmp_path.iterdir()
    file.write_bytes(file.read_bytes()[: int(part * file.stat().st_size)])
    with pytest.raises(Refused, match="memory of round 0 is damaged; restore the site's folder from a backup"):
        MemoryOnDisk(tmp_path).get(Counted(0, True))


def test_a_flipped_bit_is_damaged(tmp_path: Path) -> None:
    MemoryOnDisk(tmp_path).put(of(0), 0, None)
    (file,) = tmp_path.iterdir()
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    with pytest.raises(Refused, match="damaged"):
        MemoryOnDisk(tmp_path).get(Counted(0, True))


def test_a_file_that_is_no_safetensors_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "00004.d3d99e8b.safetensors").write_bytes(b"text")
    MemoryOnDisk(tmp_path)
    with pytest.raises(Refused, match="memory of round 4 is"):
        MemoryOnDisk(tmp_path).get(Counted(4, True))


def test_of_two_files_of_a_round_the_later_counts(tmp_path: Path) -> None:
    """A site may be killed between writing the second and removing the first."""
    MemoryOnDisk(tmp_path / "other").put(of(9), 1, None)
    MemoryOnDisk(tmp_path / "memory").put(of(1), 1, None)
    (early,), (late,) = ((tmp_path / name).iterdir() for name in ("other", "memory"))
    os.utime(early, (1, 1))
    early.rename(late.parent / early.name)
    assert same(MemoryOnDisk(late.parent).get(Counted(1, True)), of(1))
    MemoryOnDisk(late.parent).put(of(2), 2, Counted(1, True))
    assert same(MemoryOnDisk(late.parent).get(Counted(1, True)), of(1))


def test_what_is_no_memory_is_neither_read_nor_removed(tmp_path: Path) -> None:
    folder, elsewhere = tmp_path / "memory", tmp_path / "elsewhere"
    MemoryOnDisk(elsewhere).put(of(0), 0, None)
    (file,) = elsewhere.iterdir()
    folder.mkdir()
    (folder / file.name).symlink_to(file)
    (folder / "notes.txt").write_text("mine")
    with pytest.raises(Refused, match="has no record of"):
        MemoryOnDisk(folder).get(Counted(0, True))
    MemoryOnDisk(folder).put(of(5), 5, None)
    assert file.exists()
    assert {path.name for path in folder.iterdir()} >= {file.name, "notes.txt"}


def test_a_durable_memory_is_synced_before_put_returns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[Path] = []
    monkeypatch.setattr("fedcore.site.memory.sync", synced.append)
    folder = tmp_path / "sites" / "a" / "memory"
    memory = MemoryOnDisk(folder)
    memory.put(of(0), 0, None)
    assert synced == []
    memory.sync()
    assert {*synced} == {*folder.iterdir(), folder, folder.parent, folder.parent.parent}
    synced.clear()
    monkeypatch.setattr("fedcore.files.writing.sync", synced.append)
    MemoryOnDisk(tmp_path / "b" / "memory", durable=True).put(of(0), 0, None)
    assert synced == [tmp_path / "b" / "memory", tmp_path / "b"]


def test_there_is_nothing_to_sync_where_nothing_was_kept(tmp_path: Path) -> None:
    MemoryOnDisk(tmp_path / "absent").sync()
    assert not (tmp_path / "absent").exists()
