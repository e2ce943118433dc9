"""The encoder of an audit is built from what was received, by nothing but classes of this program."""

from __future__ import annotations

import json
import random
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fedcore.errors import InputError
from fedcore.models.densenet import DenseNet
from fedcore.models.encoder_store import save_encoder
from fedcore.models.resnet import ResNet
from fedcore.models.vit import ViT
from fedgen.auditing.encoder import LONGEST, encoder_of, features_of, misfit, read_encoder
from tests.fedcore.federating import same

ENCODERS = [ResNet(depth=10, stem=2), DenseNet(growth=2, blocks=(1, 1)), ViT(patch=4, width=8, depth=1, heads=2)]
IMAGES = torch.rand(5, 1, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1
CPU = torch.device("cpu")


def described(name: object = "ResNet", init_args: object = None, **more: Any) -> str:
    return json.dumps({"encoder": name, "init_args": ENCODERS[0].config if init_args is None else init_args} | more)


@pytest.mark.parametrize("encoder", ENCODERS, ids=lambda one: type(one).__name__)
def test_an_encoder_that_was_described_gives_the_same_features(encoder: Any, tmp_path: Path) -> None:
    folder = save_encoder(tmp_path / "encoder", encoder.eval(), {"size": [32, 32]}, "a card")
    description, here = read_encoder(folder)
    assert description == described(type(encoder).__name__, encoder.config)
    there = encoder_of(description, here.state_dict())
    assert same(there.state_dict(), encoder.state_dict())
    assert torch.equal(features_of(there, IMAGES, CPU, 2), features_of(here, IMAGES, CPU, 2))
    assert not there.training


def test_without_an_encoder_features_have_no_dimensions() -> None:
    description, network = read_encoder(None)
    assert description == ""
    assert features_of(network, IMAGES, CPU, 2).shape == (5, 0)
    assert features_of(encoder_of("", {}), IMAGES, CPU, 2).shape == (5, 0)
    assert misfit(network, 3, 7) is None


def test_no_random_generator_is_changed(tmp_path: Path) -> None:
    folder = save_encoder(tmp_path / "encoder", ENCODERS[0], {}, "a card")

    def state() -> tuple[Any, ...]:
        return torch.get_rng_state().tolist(), random.getstate(), np.random.get_state()[1].tolist()  # type: ignore[index]  # noqa: NPY002

    before = state()
    description, network = read_encoder(folder)
    encoder_of(description, network.state_dict())
    assert state() == before


@pytest.mark.parametrize(
    ("description", "message"),
    [
        ("{", "Expecting property name"),
        ("[1]", "has the keys encoder and init_args"),
        (described(more=1), "has the keys encoder and init_args"),
        (described(3), "encoder must be a name"),
        (described(init_args=[1]), "init_args names with values"),
        (described("Linear"), "the encoder is none of ResNet, DenseNet, ViT"),
        (described("colorsys.rgb_to_hls"), "the encoder is none of"),
        (described("__class__"), "the encoder is none of"),
        (described(init_args={"depth": 11}), "Error"),
        (described(init_args={"nothing": 1}), "TypeError"),
        (described(init_args={"stem": [[]]}), "Error"),
        (described("ViT", {}), "another architecture"),
        ("", "there are weights and no description"),
        (" " * LONGEST + "{}", f"at most {LONGEST} characters"),
    ],
)
def test_what_is_no_description_of_the_weights_is_an_error(description: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        encoder_of(description, ENCODERS[0].state_dict())


def test_no_module_is_imported_by_a_received_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "planted_encoder.py").write_text("class Encoder: pass\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ValueError, match="the encoder is none of"):
        encoder_of(described("planted_encoder.Encoder", {}), {})
    assert "planted_encoder" not in sys.modules


@pytest.mark.timeout(20)
@pytest.mark.parametrize(
    ("name", "init_args"),
    [
        ("ResNet", {"depth": 50, "stem": 10**7}),
        ("ViT", {"width": 12 * 10**6, "depth": 1}),
        ("ViT", {"width": 12, "depth": 10**9}),
        ("ViT", {"width": 12, "depth": 1, "mlp_ratio": 1e12}),
        ("DenseNet", {"growth": 10**5}),
        ("DenseNet", {"blocks": [10**9, 1, 1, 1]}),
    ],
)
def test_a_description_of_a_network_of_terabytes_takes_no_memory(name: str, init_args: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"another architecture|more than \d+ parameters"):
        encoder_of(described(name, init_args), ENCODERS[0].state_dict())


def test_an_encoder_of_other_images_is_named() -> None:
    assert misfit(ENCODERS[0], 2, 1) is None
    assert misfit(ENCODERS[0], 3, 2) == "it takes spatial_dims 2, not 3 and channels 1, not 2"


def test_a_folder_without_an_encoder_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds no encoder"):
        read_encoder(tmp_path)
