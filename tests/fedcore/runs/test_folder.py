from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from fedcore.errors import InputError, InputErrors
from fedcore.files.lock import LOCK
from fedcore.messages.message import Weights
from fedcore.runs.communication import RoundRecord
from fedcore.runs.folder import RunFolder

RECIPE = "visit:\n  batch_size: 64\nrounds:\n  count: 3\nout: here\nresume: false\n"
ABOUT = {"command": "pretrain", "data": "abc"}


def begun(path: Path, rounds: int = 0) -> RunFolder:
    run = RunFolder(path, RECIPE)
    run.prepare()
    checkpoint = run.begin(ABOUT)
    for index in range(rounds):
        run.append(RoundRecord(index))
        checkpoint.commit(index, Weights({"w": torch.ones(1)}), run.recorded())
    return run


def test_preparing_makes_nothing(tmp_path: Path) -> None:
    RunFolder(tmp_path / "run", RECIPE).prepare()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("resume", [False, True])
def test_a_folder_that_holds_something_else(tmp_path: Path, resume: bool) -> None:
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(InputError, match="is not empty and holds no run; choose another folder with --out"):
        RunFolder(tmp_path, RECIPE, resume).prepare()
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_folder_that_holds_a_run(tmp_path: Path) -> None:
    begun(tmp_path)
    with pytest.raises(InputError, match="already holds a run; continue it with --resume true"):
        RunFolder(tmp_path, RECIPE).prepare()
    RunFolder(tmp_path, RECIPE, resume=True).prepare()


def test_resuming_where_there_is_nothing_begins(tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "run", RECIPE, resume=True)
    run.prepare()
    assert run.begin(ABOUT).rounds == 0


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="must be a folder"):
        RunFolder(tmp_path / "file" / "run", RECIPE).prepare()


def test_rounds_that_were_not_committed_are_taken_off_the_record(tmp_path: Path) -> None:
    """A process killed between the line and the checkpoint, and one killed within a line."""
    run = begun(tmp_path, rounds=2)
    run.append(RoundRecord(2))
    with (tmp_path / "rounds.jsonl").open("a") as file:
        file.write('{"round": 3, "sec')
    assert [r["round"] for r in run.rounds()] == [0, 1, 2]
    assert RunFolder(tmp_path, RECIPE, resume=True).begin(ABOUT).rounds == 2
    assert [r["round"] for r in run.rounds()] == [0, 1]
    assert len((tmp_path / "rounds.jsonl").read_text().splitlines()) == 2


@pytest.mark.parametrize(
    ("name", "text"),
    [("run.json", '{"comm'), ("run.json", "[3]"), ("recipe.yaml", "a: [1"), ("recipe.yaml", "- 3"),
     ("rounds.jsonl", "{rubbish}\n"), ("rounds.jsonl", "{}\n")],
)  # fmt: skip
def test_a_damaged_file_is_named_and_nothing_is_changed(tmp_path: Path, name: str, text: str) -> None:
    (begun(tmp_path, rounds=1).path / name).write_text(text)
    before = _tree(tmp_path)
    run = RunFolder(tmp_path, RECIPE, resume=True)

    def resume() -> None:
        run.prepare()
        run.begin(ABOUT)

    with pytest.raises(InputError, match=rf"{name} (is missing|was changed).*restore it from a backup"):
        resume()
    assert _tree(tmp_path) == before


def test_a_lost_state_does_not_start_again_over_the_record(tmp_path: Path) -> None:
    (begun(tmp_path, rounds=2).path / "state" / "state.json").unlink()
    before = _tree(tmp_path)
    with pytest.raises(InputError, match=r"records 2 rounds, but its state/ holds 0; restore state/ from a backup"):
        RunFolder(tmp_path, RECIPE, resume=True).begin(ABOUT)
    assert _tree(tmp_path) == before


def test_a_run_without_a_complete_round_may_start_again_with_a_corrected_recipe(tmp_path: Path) -> None:
    mended = RECIPE.replace("64", "32")
    begun(tmp_path / "a").close("failed")
    RunFolder(tmp_path / "a", mended).prepare()
    begun(tmp_path / "b", rounds=1).close("failed")
    with pytest.raises(InputError, match="already holds a run"):
        RunFolder(tmp_path / "b", mended).prepare()


def test_how_it_ended_is_noted_beside_what_it_was(tmp_path: Path) -> None:
    run = begun(tmp_path)
    about = ABOUT | {"name": run.name}
    assert run.about() == about | {"status": "running"}
    run.close("finished", seconds=1.5)
    recorded = {"size": 0, "sha256": hashlib.sha256().hexdigest()}
    assert run.about() == about | {"status": "finished", "seconds": 1.5, "recorded": recorded, "memories": {}}


def test_a_run_keeps_its_name_when_it_goes_on_and_no_two_have_the_same(tmp_path: Path) -> None:
    one, other = begun(tmp_path / "one", rounds=1), begun(tmp_path / "other")
    name = one.name
    assert name
    assert name != other.name
    one.close("failed")
    again = RunFolder(one.path, RECIPE, resume=True)
    again.begin(ABOUT)
    assert again.name == name


def test_a_full_disk_while_a_round_is_noted(tmp_path: Path, monkeypatch: Any) -> None:
    run = begun(tmp_path)

    def full(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "open", full)
    with pytest.raises(InputError, match=r"the disk is full: .*rounds\.jsonl"):
        run.append(RoundRecord(0))


def test_the_environment_names_no_one(tmp_path: Path) -> None:
    begun(tmp_path)
    held = (tmp_path / "environment.json").read_text()
    assert "torch" in json.loads(held)
    assert str(tmp_path) not in held


def test_a_sites_folder(tmp_path: Path) -> None:
    assert RunFolder(tmp_path).site("a") == tmp_path / "sites" / "a"


def _tree(folder: Path) -> dict[str, bytes]:
    return {str(p): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_what_was_asked_beside_the_recipe_has_to_be_the_same(tmp_path: Path) -> None:
    def asking(**beside: Any) -> RunFolder:
        return RunFolder(tmp_path, RECIPE, resume=True, options={"beside": beside})

    asking(seed=0, how={"lr": 0.1}).begin(ABOUT)
    assert asking().about()["beside"] == {"seed": 0, "how": {"lr": 0.1}}
    asking(seed=0, how={"lr": 0.1}).prepare()
    with pytest.raises(InputErrors) as caught:
        asking(seed=1, how={"lr": 0.2}).prepare()
    assert caught.value.errors == ("beside.how.lr was 0.1, is now 0.2", "beside.seed was 0, is now 1")


@pytest.mark.parametrize(
    ("error", "status", "said"),
    [
        (KeyboardInterrupt(), "stopped", "KeyboardInterrupt"),
        (InputError("no site is left"), "failed", "no site is left"),
        (ValueError("patient John"), "failed", "ValueError"),
    ],
)
def test_an_error_that_ends_a_run_is_told_without_what_it_may_quote(
    tmp_path: Path, error: BaseException, status: str, said: str
) -> None:
    begun(tmp_path).broke(error, seconds=3)
    about = RunFolder(tmp_path).about()
    assert (about["status"], about["error"], about["seconds"]) == (status, said, 3)


def _emptied(path: Path) -> None:
    path.write_bytes(b"")


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-5])


def _less(path: Path) -> None:
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[1:]))


def _changed(path: Path) -> None:
    path.write_bytes(path.read_bytes().replace(b'"round": 0', b'"round": 3'))


@pytest.mark.parametrize("damage", [_emptied, _cut, _less, _changed, Path.unlink])
@pytest.mark.parametrize("kept", ["state", "run.json"])
def test_rounds_that_were_lost_or_changed_are_noticed(tmp_path: Path, damage: Any, kept: str) -> None:
    """While it goes its state knows them; of a finished run run.json does too, so that state/ may be removed."""
    run = begun(tmp_path, rounds=2)
    if kept == "run.json":
        run.close("finished")
        shutil.rmtree(tmp_path / "state")
    assert len(RunFolder(tmp_path).rounds()) == 2
    damage(tmp_path / "rounds.jsonl")
    before = _tree(tmp_path)
    with pytest.raises(InputError, match=r"rounds\.jsonl was changed or lost lines after it was written; res"):
        RunFolder(tmp_path).rounds()
    with pytest.raises(InputError, match=r"rounds\.jsonl was changed or lost lines"):
        RunFolder(tmp_path, RECIPE, resume=True).begin(ABOUT)
    assert _tree(tmp_path) == before


@pytest.mark.parametrize(("status", "then"), [("running", "failed"), ("trained", "failed"), ("finished", "finished")])
def test_an_error_after_the_training_is_noted_too(tmp_path: Path, status: str, then: str) -> None:

    def fail() -> None:
        with begun(tmp_path) as run:
            run.close(status)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert RunFolder(tmp_path).about()["status"] == then
    assert not (tmp_path / LOCK).exists()
