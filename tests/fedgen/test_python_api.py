from __future__ import annotations

from pathlib import Path

import pytest
import torch

from fedcore.errors import InputError
from fedgen import GeneratorRun, SyntheticImages, audit, release, sample, train_generator
from fedgen.diffusion.sampler import Sampler
from tests.runs import code_of


def test_sample_audit_and_release(one_run: Path, tmp_path: Path) -> None:
    drawn = sample(GeneratorRun(one_run), tmp_path / "set", count=8, steps=2, seed=3)
    words = ["generate", "sample", one_run, tmp_path / "command", "--count", 8, "--steps", 2, "--seed", 3]
    assert code_of([str(word) for word in words]) == 0
    assert drawn.manifest.read_bytes() == (tmp_path / "command" / "manifest.csv").read_bytes()
    images = sorted((tmp_path / "command").glob("**/*.png"))
    assert len(images) == 8
    for image in images:
        assert image.read_bytes() == (drawn.path / image.relative_to(tmp_path / "command")).read_bytes()
    assert drawn.scores == {}
    record = audit(one_run, drawn)
    assert record == drawn.audit_record()
    assert drawn.scores["safe"]["answer"] == record.safe.answer
    released = release(drawn, tmp_path / "release", force=record.safe.answer != "yes", allow_not_useful=True)
    assert released == SyntheticImages(tmp_path / "release")
    assert len(released.manifest.read_text().splitlines()) == 9
    assert (tmp_path / "release" / "README.md").exists()


def test_wrong_options_are_input_errors(one_run: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="seed"):
        sample(one_run, tmp_path / "set", seed=-1)
    with pytest.raises(InputError, match="cuont"):
        sample(one_run, tmp_path / "set", cuont=1)
    with pytest.raises(InputError, match="audit"):
        release(sample(one_run, tmp_path / "set", count=2, steps=2), tmp_path / "release")
    assert not (tmp_path / "release").exists()


def test_a_trained_generator_generates(tmp_path: Path) -> None:
    run = train_generator(
        out=tmp_path / "run", generator={"init_args": {"network": {"init_args": {"widths": [8, 16]}}}},
        data={"size": 16, "phantom": {"sites": 2, "images_per_site": 80, "test_fraction": 0.25}},
        visit={"batch_size": 20, "accelerator": "cpu"}, rounds={"count": 1},
    )  # fmt: skip
    generator = run.model()
    zeros = torch.zeros(2, dtype=torch.long)
    images = generator.sample(torch.randn(2, *generator.noise_shape), zeros, zeros, Sampler(steps=2))
    assert images.shape == (2, 1, 16, 16)
    assert images.abs().max() <= 1
    assert run.report().exists()
