from __future__ import annotations

import shutil
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from fedcore.config.recipe import read_recipe
from fedcore.data.phantom.phantoms import Phantoms
from fedcore.data.source import Data
from fedcore.runs.folder import RunFolder
from fedcore.server.rounds import Rounds
from fedcore.training.visit import Visit
from fedgen.diffusion.diffusion import Diffusion
from fedgen.diffusion.unet import UNet
from fedgen.sampling import sample
from fedgen.training import train
from tests.runs import quick_galleries


@pytest.fixture(scope="session", autouse=True)
def quick_sample_galleries() -> Iterator[None]:
    with quick_galleries():
        yield


HOSPITALS = Data(size=16, phantom=Phantoms(sites=2, images_per_site=160, test_fraction=0.25))
"""120 images a site to train on, 40 held out."""


@pytest.fixture(scope="session")
def one_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A hardly trained generator of two simulated hospitals."""
    folder = tmp_path_factory.mktemp("generator") / "run"
    words = ["--data.size", "16", "--data.phantom.sites", "2", "--data.phantom.images_per_site", "160"]
    words += ["--data.phantom.test_fraction", "0.25", "--policy.audits", "1000"]  # of many tests
    recipe = read_recipe(train, "generate train", words)
    run, narrow = RunFolder(folder, recipe.text), partial(Diffusion, network=partial(UNet, widths=(8, 16)))
    train(run, narrow, data=HOSPITALS, visit=Visit(batch_size=60, accelerator="cpu"), rounds=Rounds(1))
    return folder


@pytest.fixture(scope="session")
def one_set(one_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("drawn") / "set"
    sample(one_run, folder, 64, steps=2)
    return folder


@pytest.fixture
def drawn(one_set: Path, tmp_path: Path) -> Path:
    """A set of 64 images that a test may change."""
    return Path(shutil.copytree(one_set, tmp_path / "set"))
