"""One process writes to a run, and nothing of it leads out of its folder."""

from __future__ import annotations

from pathlib import Path

import pytest

from fedcore.errors import InputError
from fedcore.files.lock import LOCK
from fedcore.runs.folder import RunFolder
from tests.fedcore.files.test_lock import held_elsewhere
from tests.fedcore.runs.test_folder import ABOUT, RECIPE, _tree, begun


def test_a_lock_that_a_killed_process_left_is_nothing(tmp_path: Path) -> None:
    (tmp_path / LOCK).touch()
    RunFolder(tmp_path, RECIPE).prepare()
    RunFolder(tmp_path, RECIPE).begin(ABOUT)


PARTS = ("state", "state/00007", "sites/a/memory", "sites/a", "sites", "encoder", "rounds.jsonl", "run.json", "logs")


@pytest.mark.parametrize("part", PARTS)
def test_what_leads_out_of_a_run_is_refused_and_nothing_is_changed_there(tmp_path: Path, part: str) -> None:
    run, outside = begun(tmp_path / "run", rounds=1).path, tmp_path / "outside"
    outside.mkdir()
    for name in ("server.safetensors", "audit.jsonl"):
        (outside / name).write_text("precious")
    there = run / part
    there.parent.mkdir(parents=True, exist_ok=True)
    if there.exists():
        there.rename(outside / "moved")
    there.symlink_to(outside / "moved" if (outside / "moved").exists() else outside)
    before = _tree(tmp_path)
    resumed = RunFolder(run, RECIPE, resume=True)
    for step in (resumed.prepare, lambda: resumed.begin(ABOUT), resumed.require_own):
        with pytest.raises(InputError, match=rf"{there} is a symbolic link; .* replace the link by its target"):
            step()
    assert _tree(tmp_path) == before


def test_the_folder_of_a_run_may_itself_be_a_link(tmp_path: Path) -> None:
    (tmp_path / "large_disk").mkdir()
    (tmp_path / "run").symlink_to(tmp_path / "large_disk")
    begun(tmp_path / "run", rounds=1)
    assert RunFolder(tmp_path / "run", RECIPE, resume=True).begin(ABOUT).rounds == 1


def test_a_run_that_goes_is_not_another_processs(tmp_path: Path) -> None:
    """The other process is refused, whether it starts or resumes, and the run's report does not mention it."""
    with held_elsewhere(tmp_path / "new"):
        run = RunFolder(tmp_path / "new", RECIPE)
        run.prepare()  # nothing is there yet
        with pytest.raises(InputError, match="is being written by process"), run:
            run.begin(ABOUT)
    begun(tmp_path / "old", rounds=1)._held.close()
    before = _tree(tmp_path / "old")
    with (
        held_elsewhere(tmp_path / "old"),
        pytest.raises(InputError, match="is being written by process"),
        RunFolder(tmp_path / "old", RECIPE, resume=True) as run,
    ):
        run.prepare()
    assert _tree(tmp_path / "old") == before


def test_a_run_made_meanwhile_is_not_overwritten(tmp_path: Path) -> None:
    """Two were started together, and the other has ended before this one begins."""
    late = RunFolder(tmp_path, RECIPE)
    late.prepare()
    begun(tmp_path, rounds=1).close("finished")
    before = _tree(tmp_path)
    with pytest.raises(InputError, match="already holds a run"):
        late.begin(ABOUT)
    assert _tree(tmp_path) == before


def test_a_run_is_let_go_when_it_has_ended(tmp_path: Path) -> None:
    run = begun(tmp_path)
    assert (tmp_path / LOCK).exists()
    run.close("trained")
    assert (tmp_path / LOCK).exists()
    run.close("finished")
    assert not (tmp_path / LOCK).exists()


def test_what_is_copied_of_another_run_is_not_its_record(tmp_path: Path) -> None:
    """A distilled classifier's run begins with what is known of its teachers'."""
    teacher = begun(tmp_path / "a", rounds=1)
    teacher.close("finished")
    RunFolder(tmp_path / "b", RECIPE).begin(teacher.about())
    assert RunFolder(tmp_path / "b").rounds() == []
