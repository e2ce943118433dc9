"""A run is seen through, whatever ends its jobs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from fedcore.deployment.centre.job_folder import JobFolder
from fedcore.deployment.centre.supervise import FEWEST_PROGRESS, SILENT, Supervisor
from fedcore.errors import InputError
from fedcore.transport.remote import Restart

SITES = ("a", "b")
Step = Callable[["Script"], None]


@dataclass(frozen=True)
class Seen:
    login: str
    silent: float = 1.0


@dataclass
class Script:
    """An engine whose jobs do a step each time that the supervisor looks."""

    jobs: Iterator[list[Step]]
    contacts: dict[str, Seen] = field(default_factory=lambda: {site: Seen(f"{site}-1") for site in SITES})
    rounds: int = 0
    submitted: list[JobFolder] = field(default_factory=list)
    aborted: list[str] = field(default_factory=list)
    over: bool = False
    steps: list[Step] = field(default_factory=list)
    said: list[str] = field(default_factory=list)
    naps: int = 0

    @property
    def folder(self) -> JobFolder:
        return self.submitted[-1]

    def submit(self, folder: JobFolder) -> str:
        self.submitted.append(folder)
        self.steps, self.over = next(self.jobs), False
        return f"job {len(self.submitted)}"

    def ended(self, job: str) -> bool:
        return self.over

    def abort(self, job: str) -> None:
        self.aborted.append(job)
        self.over = True

    def seen(self) -> Mapping[str, Seen]:
        return dict(self.contacts)

    def sleep(self, seconds: float) -> None:
        self.naps += 1
        assert self.naps < 500
        if self.steps:
            self.steps.pop(0)(self)


def supervisor(tmp_path: Path, *jobs: list[Step], least: int = 2, **changes: Any) -> tuple[Supervisor, Script]:
    script, numbers = Script(iter(jobs), **changes), count()
    new = Supervisor(
        script, lambda: JobFolder.create(tmp_path / f"{next(numbers)}", "pretrain", SITES, {"seed": 1}), SITES,
        lambda: script.rounds, lambda: None, script.said.append, least, sleep=script.sleep,
        clock=lambda: float(script.naps),
    )  # fmt: skip
    return new, script


def a_round(script: Script) -> None:
    script.rounds += 1


def nothing(script: Script) -> None:
    """Time passes."""


def done(script: Script) -> None:
    script.folder.finish(ended="done", text="scores")
    script.over = True


def crash(script: Script) -> None:
    """A site's process died, and the engine ends the job."""
    script.over = True


def stopped(script: Script) -> None:
    """The same where the server's process still notes its end."""
    script.folder.finish(ended="stopped")
    script.over = True


def ended(**result: str) -> Step:
    return lambda script: script.folder.finish(**result)


def back(script: Script) -> None:
    script.contacts["b"] = Seen("b-2")


def away(script: Script) -> None:
    script.contacts["b"] = Seen("b-1", SILENT + 1)


def server_looks(script: Script) -> None:
    """As the server's process does before each round."""
    try:
        script.folder.lost()
    except Restart:
        script.folder.finish(ended="restart")


def test_a_run_that_ends_gives_what_the_server_noted(tmp_path: Path) -> None:
    run, script = supervisor(tmp_path, [a_round, nothing, a_round, done])
    assert run.run() == {"ended": "done", "text": "scores"}
    assert len(script.submitted) == 1
    assert not script.aborted


def test_a_job_that_the_engine_ended_is_started_again(tmp_path: Path) -> None:
    run, script = supervisor(tmp_path, [a_round, crash], [nothing, stopped], [a_round, done])
    assert run.run()["ended"] == "done"
    assert [folder.job for folder in script.submitted] == 3 * [script.folder.job]
    assert len({folder.path for folder in script.submitted}) == 3


def test_a_run_without_progress_is_given_up(tmp_path: Path) -> None:
    run, script = supervisor(tmp_path, [a_round, crash], *([crash] for _ in range(FEWEST_PROGRESS + 1)))
    with pytest.raises(InputError, match="started 5 times and completed no further round"):
        run.run()
    assert len(script.submitted) == FEWEST_PROGRESS + 1


def test_an_error_of_the_server_ends_the_run(tmp_path: Path) -> None:
    run, script = supervisor(tmp_path, [ended(ended="failed", error="round 3: no site answered")])
    with pytest.raises(InputError, match="round 3: no site answered"):
        run.run()
    assert script.aborted == ["job 1"]


def test_a_site_that_comes_back_takes_part_again(tmp_path: Path) -> None:
    run, script = supervisor(tmp_path, [a_round, away, nothing, a_round, back, nothing, server_looks], [a_round, done])
    assert run.run()["ended"] == "done"
    assert script.submitted[0].path != script.submitted[1].path
    assert script.said == ["a site is back; the run continues with it"]
    assert not script.submitted[1].lost()


def test_a_site_that_restarts_again_and_again_does_not_hold_up_the_others(tmp_path: Path) -> None:
    logins = count(2)

    def restarted(script: Script) -> None:
        script.contacts["b"] = Seen(f"b-{next(logins)}")

    job: list[Step] = [restarted, nothing, server_looks]
    run, script = supervisor(tmp_path, [*job], [*job], [*job, a_round, nothing, server_looks], [a_round, done])
    assert run.run()["ended"] == "done"
    assert script.rounds == 2
    assert script.submitted[2].result() == {"ended": "restart"}


def test_the_server_is_told_who_is_lost(tmp_path: Path) -> None:
    found: list[dict[str, str]] = []
    look: Step = lambda script: found.append(script.folder.lost())  # noqa: E731
    run, _ = supervisor(tmp_path, [nothing, look, away, nothing, look, done])
    run.run()
    assert found == [{}, {"b": "it is not connected"}]


def test_a_new_run_needs_all_of_its_sites(tmp_path: Path) -> None:
    run, script = supervisor(tmp_path, [done], least=1)
    away(script)
    with pytest.raises(InputError, match="b is not connected; at the site run: fedpretrain site start"):
        run.run()
    assert not script.submitted


def test_a_run_that_continues_needs_its_quorum(tmp_path: Path) -> None:
    run, script = supervisor(tmp_path, [done], least=1, rounds=2)
    del script.contacts["b"]
    assert run.run()["ended"] == "done"


def test_it_waits_for_its_sites_before_the_next_start(tmp_path: Path) -> None:
    run, script = supervisor(tmp_path, [a_round, away, crash, *5 * [nothing], back], [done], least=1)
    assert run.run()["ended"] == "done"
    assert script.contacts["b"].login == "b-2"
    assert script.naps < SILENT


def test_it_goes_on_with_a_quorum_after_a_while_and_waits_for_one(tmp_path: Path) -> None:
    run, script = supervisor(tmp_path, [a_round, away, crash], [done], least=1)
    assert run.run()["ended"] == "done"
    assert script.naps > SILENT
    run, script = supervisor(tmp_path / "2", [a_round, away, crash, *200 * [nothing], back], [done], least=2)
    assert run.run()["ended"] == "done"
    assert "waiting until 2 of a, b are connected" in script.said


def test_ctrl_c_ends_the_job(tmp_path: Path) -> None:
    def interrupt(script: Script) -> None:
        raise KeyboardInterrupt

    run, script = supervisor(tmp_path, [a_round, interrupt])
    with pytest.raises(KeyboardInterrupt):
        run.run()
    assert script.aborted == ["job 1"]
