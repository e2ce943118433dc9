"""systemd units, so that server and sites start with their machines."""

from __future__ import annotations

import getpass
import shlex
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path


def unit_text(description: str, words: Sequence[str], folder: Path) -> str:
    """A unit that runs a command of fedpretrain.

    Args:
        description: Of the service.
        words: Of the command, after `fedpretrain`.
        folder: The only folder that the service writes to, except caches.
    """
    program = shutil.which("fedpretrain", path=str(Path(sys.executable).parent)) or "fedpretrain"
    return f"""[Unit]
Description=fedpretrain, {description}
After=network-online.target
Wants=network-online.target

[Service]
User={getpass.getuser()}
WorkingDirectory={folder}
ExecStart={shlex.join([program, *words])}
Restart=always
RestartSec=5
KillMode=control-group
NoNewPrivileges=true
UMask=0077

[Install]
WantedBy=multi-user.target
"""
