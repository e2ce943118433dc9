"""Jobs of FLARE: how one is written, submitted, watched and ended."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout, suppress
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any, TypeVar

from nvflare.fuel.flare_api.api_spec import (
    AuthenticationError,
    AuthorizationError,
    InternalError,
    JobNotFound,
    JobNotRunning,
    NoConnection,
    SessionClosed,
)
from nvflare.fuel.flare_api.flare_api import Session, new_secure_session

from fedcore.deployment.centre.job_folder import JobFolder
from fedcore.deployment.flare.kit import SERVER_CLASS, SITE_CLASS
from fedcore.errors import InputError
from fedcore.files.writing import write_json

_POLL_SECONDS = 0.1
"""Between a site's questions for work; FLARE's own 2 s would be added to every request."""
_RESTART_SECONDS = 3600.0
Result = TypeVar("Result")


def write_job(path: Path, name: str, sites: Sequence[str]) -> Path:
    """What is submitted: names of two classes that the kits allow, and no code."""
    configs: dict[str, dict[str, Any]] = {
        "server": {
            "workflows": [{"id": "rounds", "path": SERVER_CLASS, "args": {"job": name}}],
            "server": {"task_request_interval": _POLL_SECONDS},
        },
        "client": {"executors": [{"tasks": ["handle"], "executor": {"path": SITE_CLASS}}]},
    }
    for side, config in configs.items():
        folder = path / side / "config"
        folder.mkdir(parents=True)
        write_json(folder / f"config_fed_{side}.json", {"format_version": 2, **config})
    deploy = {"server": ["server"], "client": list(sites)}
    write_json(path / "meta.json", {"name": name, "resource_spec": {}, "min_clients": 1, "deploy_map": deploy})
    return path


@dataclass(frozen=True)
class Contact:
    """A site that is logged in."""

    login: str
    """Another one after the site was restarted; then it does not run the job that it ran before."""
    silent: float
    """Seconds since it was last heard."""


class FlareJobs:
    """A connection of the coordinator to the server; it is made anew when it breaks."""

    def __init__(self, user: str, admin_kit: Path, patience: float = 15.0):
        """
        Args:
            user: Name in the admin's certificate.
            admin_kit: Folder of the admin's kit.
            patience: Seconds to wait for the server at first; once it has answered, it is given an hour to come back.
        """
        self._user, self._kit, self._patience = user, admin_kit, patience
        self._session: Session | None = None
        self._begun = 0.0

    def submit(self, folder: JobFolder) -> str:
        """Starts the job that a folder describes; returns FLARE's name of it."""
        job = write_job(folder.path / "job", folder.path.name, folder.sites)
        self._begun = self._server_start()
        return str(self._do(lambda session: session.submit_job(str(job))))

    def ended(self, job: str) -> bool:
        """Whether the job runs no more. A server that was restarted reports the jobs that it ran before as running."""
        status = self._do(lambda session: session.get_job_meta(job)).get("status", "")
        return str(status).startswith("FINISHED") or self._server_start() != self._begun

    def abort(self, job: str) -> None:
        with suppress(InternalError, JobNotFound, JobNotRunning):  # it has ended, or the server was restarted
            self._do(lambda session: session.abort_job(job))

    def seen(self) -> dict[str, Contact]:
        """Sites that are logged in."""
        reply = self._do(lambda session: session.do_command("check_status server"))
        rows = [row for part in reply["data"] if part["type"] == "table" for row in part["rows"]]
        heads = [row for row in rows if row[0] == "CLIENT"]
        places = {name.lower(): at for at, name in enumerate(heads[0])} if heads else {}
        clients = [row for row in rows if heads and len(row) == len(heads[0]) and row != heads[0]]
        now = time.time()
        return {
            row[0]: Contact(row[places["token"]], now - time.mktime(time.strptime(row[places["last connect time"]])))
            for row in clients
        }

    def refuse(self, site: str) -> None:
        """The server lets a site connect no more."""
        self._do(lambda session: session.disable_client(site))

    def _server_start(self) -> float:
        return float(self._do(lambda session: session.get_system_info()).server_info.start_time)

    def close(self) -> None:
        if self._session is not None:
            with suppress(Exception):
                self._session.close()
            self._session = None

    def _do(self, what: Callable[[Session], Result]) -> Result:
        """Raises InputError where the server cannot be reached for so long."""
        until = time.monotonic() + self._patience
        while True:
            try:
                if self._session is None:
                    with redirect_stdout(StringIO()):
                        self._session = new_secure_session(self._user, str(self._kit), timeout=5.0)
                result = what(self._session)
                self._patience = _RESTART_SECONDS
                return result
            except (AuthenticationError, AuthorizationError) as e:
                raise InputError(
                    f"the server does not accept the coordinator's certificate in {self._kit} ({e}); use the folder "
                    "that fedpretrain deploy init made together with the server"
                ) from e
            except (NoConnection, SessionClosed, ConnectionError, TimeoutError) as e:
                self.close()
                if time.monotonic() > until:
                    raise InputError(
                        f"the server does not answer ({type(e).__name__}); start it with: fedpretrain deploy serve"
                    ) from e
                time.sleep(0.5)


@contextmanager
def connected(user: str, admin_kit: Path, patience: float = 15.0) -> Iterator[FlareJobs]:
    logging.getLogger().setLevel(logging.CRITICAL)  # FLARE logs each message that it cannot send
    jobs = FlareJobs(user, admin_kit, patience)
    try:
        yield jobs
    finally:
        jobs.close()
