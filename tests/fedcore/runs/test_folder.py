from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch

from fedcore.errors import InputError, InputErrors
from fedcore.files.checksums import SUMS
from fedcore.files.lock import LOCK
from fedcore.files.writing import write_json
from fedcore.messages.message import Weights
from fedcore.messages.request import Counted
from fedcore.messages.tensors import Tensors
from fedcore.runs.communication import RoundRecord
from fedcore.runs.folder import RunFolder, essence
from fedcore.runs.record import KEPT
from fedcore.site.memory import FOLDER, MemoryOnDisk
from tests.fedcore.files.test_lock import held_elsewhere
from tests.fedcore.toys import same

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


def test_a_lock_that_a_killed_process_left_is_nothing(tmp_path: Path) -> None:
    (tmp_path / LOCK).touch()
    RunFolder(tmp_path, RECIPE).prepare()
    RunFolder(tmp_path, RECIPE).begin(ABOUT)


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


def test_another_recipe_is_told_key_by_key(tmp_path: Path) -> None:
    before = _tree(begun(tmp_path).path)
    other = RECIPE.replace("64", "32").replace("count: 3", "per_round: 2")
    with pytest.raises(InputErrors) as caught:
        RunFolder(tmp_path, other, resume=True).prepare()
    assert caught.value.errors == (
        "rounds.count was 3, is now absent",
        "rounds.per_round was absent, is now 2",
        "visit.batch_size was 64, is now 32",
    )
    assert _tree(tmp_path) == before


def test_what_has_no_influence_may_differ(tmp_path: Path) -> None:
    begun(tmp_path)
    RunFolder(tmp_path, RECIPE.replace("here", "there").replace("false", "true"), resume=True).prepare()


def test_a_key_that_begins_like_a_free_one_is_not_free() -> None:
    assert essence("out: a\nouter: 1\nworkers: 2\ndata: {cache: x, cached: y}\nconfig: z\nresume: true") == {
        "outer": 1, "data.cached": "y",
    }  # fmt: skip


def test_the_number_of_rounds_may_change_down_to_those_that_are_done(tmp_path: Path) -> None:
    begun(tmp_path, rounds=2).close("stopped")
    for count in (2, 6):
        RunFolder(tmp_path, RECIPE.replace("count: 3", f"count: {count}"), resume=True).prepare()
    before = _tree(tmp_path)
    for other in (RECIPE.replace("count: 3", "count: 1"), RECIPE.replace("count: 3", "count: 6").replace("64", "32")):
        with pytest.raises(InputErrors, match=r"only rounds\.count may change, to 2 or more"):
            RunFolder(tmp_path, other, resume=True).prepare()
    assert _tree(tmp_path) == before


def test_other_images_are_refused_and_nothing_is_changed(tmp_path: Path) -> None:
    before = _tree(begun(tmp_path, rounds=1).path)
    with pytest.raises(InputError, match=r"the images have changed since .* was started"):
        RunFolder(tmp_path, RECIPE, resume=True).begin(ABOUT | {"data": "xyz"})
    assert _tree(tmp_path) == before


def test_other_images_do_not_matter_before_the_first_round_is_done(tmp_path: Path) -> None:
    begun(tmp_path)
    assert RunFolder(tmp_path, RECIPE, resume=True).begin(ABOUT | {"data": "xyz"}).rounds == 0


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
        return RunFolder(tmp_path, RECIPE, resume=True, asked={"beside": beside})

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


def test_what_is_copied_of_another_run_is_not_its_record(tmp_path: Path) -> None:
    """A distilled classifier's run begins with what is known of its teachers'."""
    teacher = begun(tmp_path / "a", rounds=1)
    teacher.close("finished")
    RunFolder(tmp_path / "b", RECIPE).begin(teacher.about())
    assert RunFolder(tmp_path / "b").rounds() == []
