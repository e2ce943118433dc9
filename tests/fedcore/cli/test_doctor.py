from __future__ import annotations

import subprocess
from typing import Any

import pytest
import torch

from fedcore.cli import doctor
from fedcore.cli.doctor import CheckResult, mismatch

NEEDS = ["numpy", "torch==2.15.0", "pillow!=8.3.*,>=5.3.0", "scipy; extra == 'scipy'"]


@pytest.mark.parametrize(
    ("torch", "vision", "requires"),
    [
        ("2.15.0", "0.29.2", NEEDS),
        ("2.15.0+cpu", "0.29.2+cpu", NEEDS),
        ("2.15.0+cpu", "0.29.2", NEEDS),  # only one names its build, and the versions fit
        ("2.15.0", "0.29.2", []),
    ],
)
def test_a_pair_that_fits(torch: str, vision: str, requires: list[str]) -> None:
    assert mismatch(torch, vision, requires) == ""


@pytest.mark.parametrize(
    ("torch", "vision", "error", "reason"),
    [
        ("2.15.0+cpu", "0.29.2+cu132", "", "they are of different builds (cpu and cu132)"),
        ("2.14.1", "0.29.2", "", "this torchvision needs torch==2.15.0"),
        ("2.16.0.dev20261101+cpu", "0.29.2+cpu", "", "this torchvision needs torch==2.15.0"),
        (
            "2.15.0+cpu",
            "0.29.2",
            "RuntimeError: operator torchvision::nms does not exist",
            "torchvision was built for another torch (operator torchvision::nms does not exist)",
        ),
        ("2.15.0", "0.29.2", "ImportError: libjpeg.so.8", "ImportError: libjpeg.so.8"),
    ],
)
def test_a_pair_that_does_not_fit(torch: str, vision: str, error: str, reason: str) -> None:
    assert mismatch(torch, vision, NEEDS, error) == reason


def test_a_broken_pair_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    error = "Traceback\nRuntimeError: operator torchvision::nms does not exist\n"
    failed = subprocess.CompletedProcess([], 1, "", error)
    monkeypatch.setattr(doctor.subprocess, "run", lambda *_, **__: failed)
    result = doctor.torch_pair()
    assert not result.passed
    assert "nms does not exist" in result.detail
    assert "install both from one index, as a pair: pip install" in result.detail


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "version", lambda name: None if name == "monai" else "1.0")
    result = doctor.packages()
    assert not result.passed
    assert result.detail.startswith("missing: monai; pip install")


@pytest.mark.parametrize(("passed", "code"), [(True, 0), (False, 2)])
def test_one_failed_check_fails_the_command(monkeypatch: Any, capsys: Any, passed: bool, code: int) -> None:
    checks = (lambda: CheckResult("python", True, "3.12"), lambda: CheckResult("recipes", passed, "some"))
    monkeypatch.setattr(doctor, "CHECKS", checks)
    assert doctor.command([]) == code
    first, second = capsys.readouterr().out.splitlines()
    assert first.startswith("ok    python")
    assert second.startswith("ok  " if passed else "FAIL")


def test_this_installation_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the import of torchvision in another process, which takes seconds."""
    worked = subprocess.CompletedProcess([], 0, "", "")
    monkeypatch.setattr(doctor.subprocess, "run", lambda *_, **__: worked)
    results = [check() for check in doctor.CHECKS]
    assert all(result.passed for result in results), results
    assert {result.name for result in results} == {"python", "packages", "torch pair", "hardware", "recipes"}


@pytest.mark.parametrize("able", [True, False])
def test_a_gpu_that_supports_bf16_is_reported_with_the_option(monkeypatch: pytest.MonkeyPatch, able: bool) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: able)
    monkeypatch.setattr("fedcore.runs.environment.device", lambda: "a GPU")
    assert ("visit.precision bf16-mixed" in doctor.hardware().detail) == able
