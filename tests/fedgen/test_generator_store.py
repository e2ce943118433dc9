from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from fedcore.errors import InputError
from fedcore.files.checksums import write_sums
from fedgen.diffusion.denoiser import Denoiser, DiffusionGenerator
from fedgen.diffusion.schedule import NoiseSchedule
from fedgen.diffusion.unet import UNet
from fedgen.generator import Conditions, ImageShape
from fedgen.generator_store import CONFIG, TENSORS, load_generator, save_generator
from tests.fedcore.federating import same

CONDITIONS = Conditions(("cat", "dog"), ("a", "b"))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    denoiser = Denoiser(UNet(2, 1, widths=(8, 16)), CONDITIONS)
    save_generator(
        tmp_path / "generator", DiffusionGenerator(denoiser, CONDITIONS, ImageShape(1, (8, 8)), NoiseSchedule(), 0.1)
    )
    return tmp_path / "generator"


def changed(folder: Path, path: str, value: Any) -> None:
    """Changes a value of the config together with its checksum."""
    config = json.loads((folder / CONFIG).read_text())
    *above, last = path.split(".")
    node = config
    for key in above:
        node = node[key]
    node[last] = value
    (folder / CONFIG).write_text(json.dumps(config))
    write_sums(folder, [TENSORS, CONFIG])


def test_a_generator_is_read_bit_for_bit(folder: Path) -> None:
    one, other = load_generator(folder), load_generator(folder)
    assert same(one.network.state_dict(), other.network.state_dict())
    assert (one.conditions, one.image_shape) == (CONDITIONS, ImageShape(1, (8, 8)))
    noise, open_ = torch.zeros(1, 1, 8, 8), torch.tensor([-1])
    assert torch.equal(one.sample(noise, open_, open_), other.sample(noise, open_, open_))


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("kind", "os.system", "KeyError"),
        ("kind", ["DiffusionGenerator"], "TypeError"),
        ("image_shape.size", [10**9, 10**9], "at most 134,217,728"),
        ("image_shape.size", [0, 8], "at least 1"),
        ("image_shape.channels", 10**12, "at most 134,217,728"),
        ("conditions.classes", ["cat"] * 1000, "another architecture"),
        ("settings.unet.widths", [8, 16, 10**6], "does not fit its weights"),
        ("settings.unet.widths", [8] * 10**5, "parameters, where the weights have"),
        ("settings", [], "does not fit"),
    ],
)
def test_a_config_that_does_not_fit_its_weights_is_refused(folder: Path, path: str, value: Any, message: str) -> None:
    changed(folder, path, value)
    with pytest.raises(InputError, match=r"generator\.json does not fit its weights") as caught:
        load_generator(folder)
    assert message in str(caught.value)


def test_a_changed_config_is_refused(folder: Path) -> None:
    (folder / CONFIG).write_text((folder / CONFIG).read_text().replace("8", "9"))
    with pytest.raises(InputError, match=r"generator\.json is corrupted, truncated or not what was written"):
        load_generator(folder)


def test_a_folder_without_a_generator_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds no generator"):
        load_generator(tmp_path)
