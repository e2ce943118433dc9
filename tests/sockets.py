"""Sites as processes, reached through a socket."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Client, Connection
from pathlib import Path
from typing import Any

PATIENCE = 60.0
"""Seconds for an answer; a site that was killed has come back by then."""


class Family:
    """Starts processes, kills them, and waits for them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1]), "OMP_NUM_THREADS": "1"}
        environment |= {"FEDPRETRAIN_CACHE": str(folder / "cache")}
        self.parent = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("apart.py"))], cwd=folder, env=environment, text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )  # fmt: skip

    def start(self, role: str, *words: str | Path) -> int:
        """The process's number; its output is in `<role>.log`."""
        return int(self._ask("start", role, *map(str, words)))

    def kill(self, process: int) -> None:
        """By SIGKILL, wherever it is; nothing is left of it when this returns."""
        self._ask("kill", str(process))

    def ended(self, process: int, within: float = PATIENCE) -> int | None:
        """Its exit code, negative where a signal ended it; None: it is running."""
        code: int | None = self._ask("wait", str(process), str(within))
        return code

    def log(self, role: str) -> str:
        return (self.folder / f"{role}.log").read_text()

    def close(self) -> None:
        """Ends all that are left."""
        self.parent.communicate()

    def _ask(self, *words: str) -> Any:
        assert self.parent.stdin is not None
        assert self.parent.stdout is not None
        self.parent.stdin.write(json.dumps(words) + "\n")
        self.parent.stdin.flush()
        return json.loads(self.parent.stdout.readline())


@dataclass
class Sockets:
    """The server's transport: a connection to each site, made anew where one broke, and the request sent again."""

    folders: dict[str, Path]
    open: dict[str, Connection] = field(default_factory=dict)

    def names(self) -> Sequence[str]:
        return list(self.folders)

    def ask(self, requests: Iterable[Any], deadline: float | None = None) -> Iterator[Any]:
        from fedcore.messages.wire import request_bytes

        sent = [(request.site, request_bytes(request)) for request in requests]
        until = time.monotonic() + (deadline or PATIENCE)
        for site, data in sent:  # all sites work at the same time
            with contextlib.suppress(OSError):
                self._connected(site).send_bytes(data)
        for site, data in sent:
            yield self._answer(site, data, until)

    def flush(self, names: Iterable[str]) -> None:
        """Sites have written what they remember before they answer."""

    def _answer(self, site: str, data: bytes, until: float) -> Any:
        from fedcore.messages.answer import Refusal
        from fedcore.messages.encoding import WireError, kinds_of_messages
        from fedcore.messages.wire import answer_of

        reason = "it gave no answer in time"
        while (left := until - time.monotonic()) > 0:
            try:
                if site not in self.open:
                    self._connected(site).send_bytes(data)
                if not self.open[site].poll(left):
                    break
                return answer_of(self.open[site].recv_bytes(), site, kinds_of_messages())
            except (OSError, EOFError):  # the site was killed
                self._drop(site)
                time.sleep(0.02)
            except WireError as e:
                reason = f"its answer cannot be read: {e}"
                break
        self._drop(site)  # what comes later is no answer to the next request
        return Refusal(site, reason)

    def _connected(self, site: str) -> Connection:
        if site not in self.open:
            try:
                port = int((self.folders[site] / "port").read_text())
            except FileNotFoundError as e:
                raise ConnectionError("the site has not started yet") from e
            self.open[site] = Client(("127.0.0.1", port))
        return self.open[site]

    def _drop(self, site: str) -> None:
        if site in self.open:
            self.open.pop(site).close()
