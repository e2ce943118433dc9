from __future__ import annotations

import subprocess
from typing import Any

import pytest
import torch

from fedcore.cli import doctor
from fedcore.cli.doctor import Finding, mismatch

NEEDS = ["numpy", "torch==2.15.0", "pillow!=8.3.*,>=5.3.0", "scipy; extra == 'scipy'"]


@pytest.mark.parametrize(
    ("torch", "vision", "requires"),
    [
        ("2.15.0", "0.29.2", NEEDS),
        ("2.15.0+cpu", "0.29.2+cpu", NEEDS),
        ("2.15.0+cpu", "0.29.2", NEEDS),  # a build is told by one alone: its versions fit
        ("2.15.0", "0.29.2", []),
    ],
)
def test_a_sound_pair(torch: str, vision: str, requires: list[str]) -> None:
    assert mismatch(torch, vision, requires) == ""


@pytest.mark.parametrize(
    ("torch", "vision", "said", "reason"),
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
def test_a_pair_that_does_not_fit(torch: str, vision: str, said: str, reason: str) -> None:
    assert mismatch(torch, vision, NEEDS, said) == reason


def test_a_broken_pair_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    said = "Traceback\nRuntimeError: operator torchvision::nms does not exist\n"
    failed = subprocess.CompletedProcess([], 1, "", said)
    monkeypatch.setattr(doctor.subprocess, "run", lambda *_, **__: failed)
    finding = doctor.torch_pair()
    assert not finding.sound
    assert "nms does not exist" in finding.told
    assert "install both from one index, as a pair: pip install" in finding.told


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "version", lambda name: None if name == "monai" else "1.0")
    finding = doctor.packages()
    assert not finding.sound
    assert finding.told.startswith("missing: monai; pip install")


@pytest.mark.parametrize(("sound", "code"), [(True, 0), (False, 2)])
def test_one_finding_that_fails_fails_the_whole(monkeypatch: Any, capsys: Any, sound: bool, code: int) -> None:
    checks = (lambda: Finding("python", True, "3.12"), lambda: Finding("recipes", sound, "some"))
    monkeypatch.setattr(doctor, "CHECKS", checks)
    assert doctor.command([]) == code
    first, second = capsys.readouterr().out.splitlines()
    assert first.startswith("ok    python")
    assert second.startswith("ok  " if sound else "FAIL")


def test_this_installation_is_sound(monkeypatch: pytest.MonkeyPatch) -> None:
    """But for the import of torchvision in a process of its own, which takes seconds."""
    worked = subprocess.CompletedProcess([], 0, "", "")
    monkeypatch.setattr(doctor.subprocess, "run", lambda *_, **__: worked)
    findings = [check() for check in doctor.CHECKS]
    assert all(finding.sound for finding in findings), findings
    assert {finding.name for finding in findings} == {"python", "packages", "torch pair", "hardware", "recipes"}


@pytest.mark.parametrize("able", [True, False])
def test_a_gpu_that_computes_in_bf16_is_told_with_what_to_set(monkeypatch: pytest.MonkeyPatch, able: bool) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: able)
    monkeypatch.setattr("fedcore.runs.environment.device", lambda: "a GPU")
    assert ("visit.precision bf16-mixed" in doctor.hardware().told) == able
