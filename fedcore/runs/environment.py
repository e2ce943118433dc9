"""What a run ran on, and whether this machine is fit to run."""

from __future__ import annotations

import os
import platform
import subprocess
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

PACKAGES = (
    "fedpretrain",
    "torch",
    "torchvision",
    "pytorch-lightning",
    "torchmetrics",
    "monai",
    "lightly",
    "numpy",
)


def environment() -> dict[str, Any]:
    """Versions, hardware and commit; no host name, no user, no path."""
    return {
        **{name.replace("-", "_"): version(name) for name in PACKAGES},
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
        "cpu_cores": os.cpu_count(),
        "device": device(),
        "git_commit": commit(),
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def versions() -> tuple[str, ...]:
    """Of the packages that decide how a module is built and trained, as sites and server compare them."""
    import torch

    return f"fedpretrain {version('fedpretrain')}", f"torch {torch.__version__}"


def version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def device() -> str:
    import torch

    return torch.cuda.get_device_name(0) if torch.cuda.is_available() else "CPU"


def commit() -> str | None:
    """The commit of the source tree, or None in an installed copy."""
    root = Path(__file__).parents[2]
    if not (root / ".git").exists():
        return None
    asked = subprocess.run(
        ["git", "-C", root, "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False
    )
    return asked.stdout.strip() or None
