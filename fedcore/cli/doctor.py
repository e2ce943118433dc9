"""`fedpretrain doctor`: is this installation sound, and what to do if not."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import metadata

from packaging.requirements import Requirement

from fedcore.errors import InputError
from fedcore.runs.environment import PACKAGES, version

USAGE = """usage: fedpretrain doctor

Checks the installation: versions, the pair of torch and torchvision, hardware, recipes. Exit code 2 if one fails."""


@dataclass(frozen=True)
class Finding:
    name: str
    sound: bool
    told: str


def command(arguments: Sequence[str]) -> int:
    """Prints what was found; 2 if something must be mended."""
    if arguments:
        if {"-h", "--help"} & {*arguments}:
            print(USAGE)
            return 0
        raise InputError(f"doctor takes no arguments, got {' '.join(arguments)}\n{USAGE}")
    found = [check() for check in CHECKS]
    for finding in found:
        print(f"{'ok  ' if finding.sound else 'FAIL'}  {finding.name:<14}{finding.told}")
    return 0 if all(f.sound for f in found) else 2


def python() -> Finding:
    return Finding("python", sys.version_info >= (3, 11), f"{sys.version.split()[0]} (3.11 or later)")


def packages() -> Finding:
    versions = {name: version(name) for name in PACKAGES if name != "fedpretrain"}
    missing = [name for name, v in versions.items() if v is None]
    told = (
        f"missing: {', '.join(missing)}; pip install fedpretrain"
        if missing
        else ", ".join(f"{n} {v}" for n, v in versions.items())
    )
    return Finding("packages", not missing, told)


def torch_pair() -> Finding:
    """A CPU-only torch beside another index's torchvision fails at import, so it is tried, in a process of its own."""
    torch, vision = version("torch") or "missing", version("torchvision") or "missing"
    tried = subprocess.run([sys.executable, "-c", "import torchvision"], capture_output=True, text=True, check=False)
    said = (tried.stderr.strip().splitlines() or [""])[-1] if tried.returncode else ""
    reason = mismatch(torch, vision, metadata.requires("torchvision") or [], said)
    told = f"torch {torch}, torchvision {vision}"
    return Finding("torch pair", not reason, f"{told}: {reason}; {_MEND}" if reason else told)


def mismatch(torch: str, vision: str, requires: Sequence[str], said: str = "") -> str:
    """Why a torch and a torchvision do not fit together, or nothing.

    Args:
        torch: Version with its build, such as 2.15.0+cpu.
        vision: The same of torchvision.
        requires: What torchvision's metadata requires.
        said: Last line of a failed `import torchvision`.
    """
    builds = [v.partition("+")[2] for v in (torch, vision)]
    if all(builds) and builds[0] != builds[1]:
        return f"they are of different builds ({builds[0]} and {builds[1]})"
    wanted = next((r for r in map(Requirement, requires) if r.name == "torch"), None)
    if wanted and not wanted.specifier.contains(torch.partition("+")[0], prereleases=True):
        return f"this torchvision needs torch{wanted.specifier}"
    if "operator torchvision::nms does not exist" in said:
        return "torchvision was built for another torch (operator torchvision::nms does not exist)"
    return said


_MEND = (
    "install both from one index, as a pair: pip install --force-reinstall torch==2.15.0 torchvision==0.29.2, "
    "or with -c constraints.txt of the source tree"
)


def hardware() -> Finding:
    from fedcore.runs.environment import device

    return Finding("hardware", True, f"{device()}, {os.cpu_count()} CPU cores{_advice()}")


def _advice() -> str:
    """What a GPU can do that is off by default, since it changes the last digits."""
    import torch

    if not torch.cuda.is_available() or not torch.cuda.is_bf16_supported(including_emulation=False):
        return ""
    return "; this GPU computes in bf16: visit.precision bf16-mixed takes less time and memory than 32-true"


def recipes() -> Finding:
    from fedcore.config.recipe_files import shipped

    return Finding("recipes", bool(shipped()), f"{len(shipped())} found")


CHECKS: tuple[Callable[[], Finding], ...] = (python, packages, torch_pair, hardware, recipes)
