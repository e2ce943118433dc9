"""What passes between a coordinator's command and the server's process, in a folder on the same machine."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from fedcore.files.reading import read_json
from fedcore.files.writing import write_atomically, write_json
from fedcore.transport.remote import Restart

_ADVICE = "start the command again"


@dataclass(frozen=True)
class JobFolder:
    """`job.json`: what to do. `lost.json`: sites that the command has found unreachable, or back. `result.json`: how it
    ended."""

    path: Path

    @classmethod
    def create(cls, path: Path, command: str, sites: Sequence[str], arguments: Mapping[str, Any]) -> JobFolder:
        """
        Args:
            path: A new folder.
            command: Stage or query.
            sites: Names, in order.
            arguments: Of the command, plain values.
        """
        path.mkdir(parents=True, mode=0o700)
        write_json(path / "job.json", {"command": command, "sites": list(sites), "arguments": dict(arguments)})
        return cls(path)

    @cached_property
    def job(self) -> dict[str, Any]:
        return read_json(self.path / "job.json", _ADVICE)

    @property
    def command(self) -> str:
        return str(self.job["command"])

    @property
    def sites(self) -> list[str]:
        return list(self.job["sites"])

    @property
    def arguments(self) -> dict[str, Any]:
        return dict(self.job["arguments"])

    def note_sites(self, lost: Mapping[str, str], returned: Sequence[str]) -> None:
        """Called by the command, which sees who is connected."""
        write_json(self.path / "lost.json", {"lost": dict(lost), "returned": list(returned)})

    def lost(self) -> dict[str, str]:
        """Called by the server's process.

        Raises:
            Restart: A site has come back; FLARE does not give it the job that runs.
        """
        path = self.path / "lost.json"
        if not path.exists():
            return {}
        noted = read_json(path, _ADVICE)
        if noted["returned"]:
            raise Restart
        return dict(noted["lost"])

    def finish(self, **result: Any) -> None:
        """`ended`: done, restart, stopped or failed;
        `error` or `text`: what the command prints."""
        write_atomically(self.path / "result.json", json.dumps(result).encode(), durable=True)

    def result(self) -> dict[str, Any] | None:
        path = self.path / "result.json"
        return read_json(path, _ADVICE) if path.exists() else None
