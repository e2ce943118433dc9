"""`fedpretrain doctor`: checks the installation and says how to fix it."""

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

Checks the installation: Python, packages, whether torch and torchvision fit together, hardware, recipes.
Exit code 2 if a check fails."""


@dataclass(frozen=True)
class CheckResult:
    name: str
    passed: bool
    detail: str


def command(arguments: Sequence[str]) -> int:
    """Prints the results; returns 2 if a check failed."""
    if arguments:
        if {"-h", "--help"} & {*arguments}:
            print(USAGE)
            return 0
        raise InputError(f"doctor takes no arguments, got {' '.join(arguments)}\n{USAGE}")
    results = [check() for check in CHECKS]
    for result in results:
        print(f"{'ok  ' if result.passed else 'FAIL'}  {result.name:<14}{result.detail}")
    return 0 if all(result.passed for result in results) else 2


def python() -> CheckResult:
    return CheckResult("python", sys.version_info >= (3, 11), f"{sys.version.split()[0]} (3.11 or later)")


def packages() -> CheckResult:
    versions = {name: version(name) for name in PACKAGES if name != "fedpretrain"}
    missing = [name for name, v in versions.items() if v is None]
    detail = (
        f"missing: {', '.join(missing)}; pip install fedpretrain"
        if missing
        else ", ".join(f"{n} {v}" for n, v in versions.items())
    )
    return CheckResult("packages", not missing, detail)


def torch_pair() -> CheckResult:
    """Imports torchvision in another process: with a torch of another build or version the import fails."""
    torch, vision = version("torch") or "missing", version("torchvision") or "missing"
    imported = subprocess.run([sys.executable, "-c", "import torchvision"], capture_output=True, text=True, check=False)
    error = (imported.stderr.strip().splitlines() or [""])[-1] if imported.returncode else ""
    reason = mismatch(torch, vision, metadata.requires("torchvision") or [], error)
    detail = f"torch {torch}, torchvision {vision}"
    return CheckResult("torch pair", not reason, f"{detail}: {reason}; {_FIX}" if reason else detail)


def mismatch(torch: str, vision: str, requires: Sequence[str], error: str = "") -> str:
    """Why a torch and a torchvision do not fit together; "" if they do.

    Args:
        torch: Version with its build, such as 2.15.0+cpu.
        vision: The same of torchvision.
        requires: Requirements in the metadata of torchvision.
        error: Last line of a failed `import torchvision`.
    """
    builds = [v.partition("+")[2] for v in (torch, vision)]
    if all(builds) and builds[0] != builds[1]:
        return f"they are of different builds ({builds[0]} and {builds[1]})"
    wanted = next((r for r in map(Requirement, requires) if r.name == "torch"), None)
    if wanted and not wanted.specifier.contains(torch.partition("+")[0], prereleases=True):
        return f"this torchvision needs torch{wanted.specifier}"
    if "operator torchvision::nms does not exist" in error:
        return "torchvision was built for another torch (operator torchvision::nms does not exist)"
    return error


_FIX = (
    "install both from one index, as a pair: pip install --force-reinstall torch==2.15.0 torchvision==0.29.2, "
    "or with -c constraints.txt of the source tree"
)


def hardware() -> CheckResult:
    from fedcore.runs.environment import device

    return CheckResult("hardware", True, f"{device()}, {os.cpu_count()} CPU cores{_advice()}")


def _advice() -> str:
    """Mentions bf16, which is off by default because it changes the last digits of results."""
    import torch

    if not torch.cuda.is_available() or not torch.cuda.is_bf16_supported(including_emulation=False):
        return ""
    return "; this GPU supports bf16: visit.precision bf16-mixed needs less time and memory than 32-true"


def recipes() -> CheckResult:
    from fedcore.config.recipe_files import shipped

    return CheckResult("recipes", bool(shipped()), f"{len(shipped())} found")


CHECKS: tuple[Callable[[], CheckResult], ...] = (python, packages, torch_pair, hardware, recipes)
