"""Sees a run through at the coordinator.

The engine's job ends when a site's process dies, and a site that comes back gets no part in a running job. In both
cases the job is started again, and continues from the last committed round.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

from fedcore.deployment.centre.job_folder import JobFolder
from fedcore.errors import InputError

SILENT = 60.0
"""Seconds without a sign of a site until it counts as lost; it signals every few seconds."""
FEWEST_PROGRESS = 5
"""Starts of the job without a new round until the run is given up."""
PATIENT = 2
"""Times that a round is repeated because a site comes back; then the round ends without it."""
_ENDING_SECONDS = 120.0


@runtime_checkable
class Contact(Protocol):
    """A site that is logged in."""

    @property
    def login(self) -> str:
        """Another one after the site was restarted."""

    @property
    def silent(self) -> float:
        """Seconds since it was last heard."""


@runtime_checkable
class Engine(Protocol):
    """What is used of an engine's administration."""

    def submit(self, folder: JobFolder) -> str: ...
    def ended(self, job: str) -> bool: ...
    def abort(self, job: str) -> None: ...
    def seen(self) -> Mapping[str, Contact]: ...


@dataclass
class Supervisor:
    """Starts jobs until the run has ended."""

    engine: Engine
    new_folder: Callable[[], JobFolder]
    """A new job folder with the same content."""
    sites: Sequence[str]
    rounds: Callable[[], int]
    """Number of rounds on record."""
    show: Callable[[], None]
    """Prints what is new of the run."""
    say: Callable[[str], None] = print
    least: int = 1
    """Sites that a continued run needs."""
    poll: float = 1.0
    sleep: Callable[[float], None] = time.sleep
    clock: Callable[[], float] = time.monotonic
    _contacts: Mapping[str, Contact] = field(default_factory=dict)
    _starts: int = 0
    """Starts since the last new round."""
    _before: int = 0
    """Rounds when the job was started."""
    _noted: tuple[dict[str, str], list[str]] = field(default_factory=lambda: ({}, []))

    def run(self) -> dict[str, Any]:
        """What the server's process noted at its end.

        Raises:
            InputError: A site of a new run is not connected, or the run ended with an error, or makes no progress.
            KeyboardInterrupt: Of the coordinator; the job was ended.
        """
        self._require_all()
        self._starts = 0
        while True:
            before = self._before = self.rounds()
            result = self._one_job()
            match result.get("ended"):
                case "done":
                    return result
                case "failed":
                    raise InputError(result["error"])
                case "restart":
                    self.say("a site is back; the run continues with it")
                case _:
                    self.say("the engine ended the job; the run continues from its last complete round")
            self._starts = 0 if self.rounds() > before else self._starts + 1
            if self._starts == FEWEST_PROGRESS:
                raise InputError(
                    f"the run was started {self._starts} times and completed no further round; see the logs of server "
                    "and sites, then continue it with --resume true"
                )
            self._wait_for_enough()

    def _require_all(self) -> None:
        """A run begins with all of its sites; later some may be away."""
        seen = self.engine.seen()
        if missing := [site for site in self.sites if site not in seen or seen[site].silent > SILENT]:
            if self.rounds() and len(self.sites) - len(missing) >= self.least:
                return
            raise InputError(
                f"{', '.join(missing)} {'is' if len(missing) == 1 else 'are'} not connected; at the site run: "
                "fedpretrain site start. To run without it, name the others with --sites"
            )

    def _wait_for_enough(self) -> None:
        """Waits for all sites for a while, and then for as many as the run needs."""
        said, patient_until = False, self.clock() + SILENT
        while True:
            seen = self.engine.seen()
            connected = sum(site in seen and seen[site].silent <= SILENT for site in self.sites)
            if connected == len(self.sites) or (connected >= self.least and self.clock() > patient_until):
                return
            if not said and self.clock() > patient_until:
                self.say(f"waiting until {self.least} of {', '.join(self.sites)} are connected")
                said = True
            self.sleep(self.poll)

    def _one_job(self) -> dict[str, Any]:
        """Starts a job and watches it until it has ended; the result is empty where the engine ended it."""
        folder = self.new_folder()
        self._contacts, self._noted = self.engine.seen(), ({}, [])
        job = self.engine.submit(folder)
        try:
            while (result := folder.result()) is None:
                self.show()
                if self.engine.ended(job):
                    self.sleep(self.poll)
                    result = folder.result() or {}
                    break
                self._note_sites(folder)
                self.sleep(self.poll)
        except BaseException:
            self.engine.abort(job)
            raise
        self.show()
        if result.get("ended") != "done":
            self._end(job)
        return result

    def _end(self, job: str) -> None:
        """The next job begins once this one holds no folder and no GPU any more."""
        self.engine.abort(job)
        until = self.clock() + _ENDING_SECONDS
        while not self.engine.ended(job) and self.clock() < until:
            self.sleep(self.poll)

    def _note_sites(self, folder: JobFolder) -> None:
        seen = self.engine.seen()
        lost = {}
        for site in self.sites:
            contact, first = seen.get(site), self._contacts.get(site)
            if contact is None or contact.silent > SILENT:
                lost[site] = "it is not connected"
            elif first is None or contact.login != first.login:
                lost[site] = "it was restarted"
        # A site that is restarted again and again does not hold up the others: then a round is completed without it.
        waits = self._starts >= PATIENT and self.rounds() == self._before
        returned = [site for site, reason in lost.items() if reason == "it was restarted" and not waits]
        if (lost, returned) != self._noted:
            folder.note_sites(lost, returned)
            self._noted = (lost, returned)
