"""Small finished runs of each kind and an audited synthetic set, for tests that read such folders."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest

from fedcore.cli.main import main
from fedcore.files.checksums import write_sums
from fedcore.runs.record import KEPT
from fedgen.diffusion.sampler import Sampler
from fedgen.sample_gallery import SampleGallery

KINDS = ("pretrain", "finetune", "personal", "segment", "generator", "set")
_DATA = ["--data.size", "16", "--data.phantom.sites", "2", "--data.phantom.images_per_site", "80"]
_DATA += ["--data.phantom.test_fraction", "0.25"]
_VISIT = ["--rounds.count", "1", "--visit.batch_size", "20", "--visit.accelerator", "cpu"]
_SCORED = [*_DATA, *_VISIT, "--policy.min_patients", "1"]
_OWN = ["--algorithm", "fedcore.algorithms.fedbn.FedBN"]
_ENCODER = ["--encoder.init_args.depth", "10", "--encoder.init_args.stem", "4"]
_NETWORK = [word.replace("--encoder", "--network.init_args.encoder") for word in _ENCODER]
_WIDTHS = ["--generator.init_args.network.init_args.widths", "[8, 16]"]


def code_of(words: Sequence[str | Path]) -> int:
    """The exit code of a command, run in this process; exceptions other than SystemExit are raised."""
    try:
        main([str(word) for word in words])
    except SystemExit as ended:
        return int(ended.code or 0)
    raise AssertionError("main always exits")


@contextmanager
def quick_galleries() -> Iterator[None]:
    """The images that runs generate for their page take two denoising steps."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("fedgen.training.SampleGallery", partial(SampleGallery, sampler=Sampler(steps=2)))
        yield


def seal(run: Path) -> Path:
    """Writes new checksums of a finished run that a test has changed."""
    write_sums(run, [name for name in ("run.json", *KEPT) if (run / name).exists()])
    return run


def finished(folder: Path) -> dict[str, Path]:
    """Runs by kind, made under `folder`. In the run `personal` each site has its own classifier.

    The set is sampled from the generator, and audited.
    """
    runs = {kind: folder / kind for kind in KINDS}
    with quick_galleries():
        codes = [
            code_of(["pretrain", *_DATA, *_VISIT, *_ENCODER, "--out", runs["pretrain"]]),
            code_of(["finetune", *_SCORED, *_ENCODER, "--out", runs["finetune"]]),
            code_of(["finetune", *_SCORED, *_ENCODER, *_OWN, "--out", runs["personal"]]),
            code_of(["segment", *_SCORED, *_NETWORK, "--out", runs["segment"]]),
            code_of(["generate", "train", *_DATA, *_VISIT, *_WIDTHS, "--out", runs["generator"]]),
            code_of(["generate", "sample", runs["generator"], runs["set"], "--count", "8", "--steps", "2"]),
            code_of(["generate", "audit", runs["generator"], runs["set"]]),
        ]
    assert codes == [0] * len(codes)
    return runs
