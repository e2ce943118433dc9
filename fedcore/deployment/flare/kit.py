"""Closes what FLARE's kits leave open.

By default a job may name 90 classes of FLARE, a lead may bring code and run shell commands, and logs with paths and
errors are streamed to the server.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fedcore.files.reading import read_json
from fedcore.files.writing import write_json

SITE_CLASS = "fedcore.deployment.flare.executor.SiteExecutor"
SERVER_CLASS = "fedcore.deployment.flare.controller.RoundsController"
SIGNAL_SECONDS = 60
"""Seconds without a sign until the server forgets a site."""
RIGHTS = {
    "submit_job": "any", "manage_job": "any", "view": "any", "clone_job": "none", "download_job": "none",
    "operate": "none", "shell_commands": "none", "byoc": "none", "server-predeployed-flwr": "none",
}  # fmt: skip
"""What the coordinator may do: start and stop jobs of the allowed class, and see their state."""
_NONE = dict.fromkeys(RIGHTS, "none")
_STREAMS = ("site_log_streamer", "log_receiver")
_TEMPORARY = "/tmp/nvflare/"


def tighten_site(kit: Path) -> None:
    """Of a hospital: one class, no code, no logs to the server, no rights to operate."""
    resources = _resources(kit, [SITE_CLASS])
    write_json(kit / "local" / "resources.json", resources)
    _write_rights(kit)


def tighten_server(kit: Path, storage: Path) -> None:
    """Of the server; FLARE keeps its jobs in `storage`, not in /tmp."""
    resources = _moved(_resources(kit, [SERVER_CLASS]), storage)
    for server in resources["servers"]:
        server["heart_beat_timeout"] = SIGNAL_SECONDS
        server.pop("download_job_url", None)
    write_json(kit / "local" / "resources.json", resources)
    _write_rights(kit)
    storage.mkdir(mode=0o700, exist_ok=True)


def _resources(kit: Path, allowed: Sequence[str]) -> dict[str, Any]:
    resources = read_json(kit / "local" / "resources.json.default", "make the kit again")
    resources |= {
        "class_allow_list": list(allowed), "class_list_enforcement_mode": "enforce", "allow_log_streaming": False,
    }  # fmt: skip
    resources["components"] = [part for part in resources["components"] if part["id"] not in _STREAMS]
    return resources


def _write_rights(kit: Path) -> None:
    permissions = {"lead": RIGHTS, "project_admin": _NONE, "org_admin": _NONE, "member": _NONE}
    write_json(kit / "local" / "authorization.json", {"format_version": "1.0", "permissions": permissions})


def _moved(tree: Any, storage: Path) -> Any:
    """The same with folders in `storage` for those in /tmp."""
    if isinstance(tree, dict):
        return {key: _moved(value, storage) for key, value in tree.items()}
    if isinstance(tree, list):
        return [_moved(value, storage) for value in tree]
    if isinstance(tree, str) and tree.startswith(_TEMPORARY):
        return str(storage / tree.removeprefix(_TEMPORARY))
    return tree
