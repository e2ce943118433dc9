"""Finished finetune runs for inversion and distillation."""

from __future__ import annotations

from pathlib import Path

import pytest

from fedcore.cli.main import main

SMALL = ["--data.size", "16", "--data.phantom.sites", "2", "--data.phantom.images_per_site", "16"]


def finetuned(folder: Path, *words: str, algorithm: str = "fedcore.algorithms.local_only.LocalOnly") -> Path:
    """A finished finetune run."""
    words = (*SMALL, "--rounds.count", "1", "--visit.batch_size", "8", "--visit.accelerator", "cpu", *words)
    encoder = [
        "--encoder",
        "fedcore.models.resnet.ResNet",
        "--encoder.init_args.depth",
        "10",
        "--encoder.init_args.stem",
        "2",
    ]
    with pytest.raises(SystemExit) as ended:
        main(
            ["finetune", "--out", str(folder), "--algorithm", algorithm, *encoder, "--policy.min_patients", "1", *words]
        )
    assert ended.value.code == 0
    return folder
