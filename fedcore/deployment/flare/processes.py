"""FLARE's resident process of a server or of a site, in the foreground; it is started again when it ends by itself."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from types import FrameType

from fedcore.errors import InputError

LOG = "flare.log"
_AGAIN_SECONDS = 5.0
_STOPPING_SECONDS = 20.0


def server_command(kit: Path) -> list[str]:
    return _command("server.server_train", kit, "fed_server.json")


def site_command(kit: Path, name: str) -> list[str]:
    return _command("client.client_train", kit, "fed_client.json", f"uid={name}", f"org={name}")


def run_in_foreground(command: Sequence[str], kit: Path, say: Callable[[str], None] = print) -> None:
    """Runs until SIGTERM or Ctrl-C; output goes to `flare.log` next to the kit.

    Raises:
        InputError: It ended three times within seconds of its start.
    """
    stopped: list[int] = []
    log = kit.parent / LOG

    def stop(number: int, frame: FrameType | None) -> None:
        stopped.append(number)

    before = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGINT)}
    quick = 0
    try:
        while not stopped:
            begun = time.monotonic()
            _until_it_ends(command, kit, log, stopped)
            if stopped:
                break
            quick = quick + 1 if time.monotonic() - begun < 2 * _AGAIN_SECONDS else 0
            if quick == 3:
                raise InputError(f"FLARE ended three times right after its start; see {log}")
            say(f"FLARE ended; it is started again (log: {log})")
            time.sleep(_AGAIN_SECONDS)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _command(module: str, kit: Path, config: str, *settings: str) -> list[str]:
    main = [sys.executable, "-u", "-m", f"nvflare.private.fed.app.{module}", "-m", str(kit), "-s", config]
    return [*main, "--set", "secure_train=true", *settings, "config_folder="]


def _until_it_ends(command: Sequence[str], kit: Path, log: Path, stopped: Sequence[int]) -> None:
    with log.open("ab") as file:
        process = subprocess.Popen(
            command, stdout=file, stderr=file, stdin=subprocess.DEVNULL, cwd=kit, start_new_session=True
        )
        try:
            while process.poll() is None and not stopped:
                time.sleep(0.2)
        finally:
            _end(process)


def _end(process: subprocess.Popen[bytes]) -> None:
    """With all that it started itself. Whatever is killed continues from its last complete round."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGTERM)
    with suppress(subprocess.TimeoutExpired):
        process.wait(_STOPPING_SECONDS)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
