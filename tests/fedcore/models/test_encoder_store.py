from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from fedcore.errors import InputError
from fedcore.files.checksums import SUMS, write_sums
from fedcore.models.encoder_store import (
    CARD,
    CONFIG,
    TENSORS,
    build_encoder,
    encoder_config,
    find_encoder,
    load_encoder,
    save_encoder,
)
from fedcore.models.resnet import ResNet
from fedcore.models.weights import differences
from tests.fedcore.federating import same


@pytest.fixture
def encoder() -> ResNet:
    return ResNet(2, 1, 10, 4)


@pytest.fixture
def folder(tmp_path: Path, encoder: ResNet) -> Path:
    return save_encoder(tmp_path / "encoder", encoder, {"size": [64, 64]}, "# Card\n")


def edit(folder: Path, **changes: Any) -> None:
    config = json.loads((folder / CONFIG).read_text())
    (folder / CONFIG).write_text(json.dumps(config | changes))


def test_a_saved_encoder_is_built_again_exactly(folder: Path, encoder: ResNet) -> None:
    built = build_encoder(folder)
    assert type(built) is ResNet
    assert built.config == encoder.config
    assert same(built.state_dict(), encoder.state_dict())
    assert encoder_config(folder)["size"] == [64, 64]
    assert (folder / CARD).read_text() == "# Card\n"
    assert {p.name for p in folder.iterdir()} == {TENSORS, CONFIG, CARD, SUMS}


def test_features_of_an_image_do_not_depend_on_its_batch(folder: Path) -> None:
    built = build_encoder(folder)
    images = torch.rand(6, 1, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1
    statistics = {name: tensor.clone() for name, tensor in built.state_dict().items()}
    with torch.no_grad():
        alone, together = built(images[:1]), built(images)[:1]
    assert torch.allclose(alone, together, atol=1e-6)
    assert same(built.state_dict(), statistics)  # batch norm learns nothing from being used


def test_weights_are_loaded_into_an_existing_encoder(folder: Path, encoder: ResNet) -> None:
    other = ResNet(2, 1, 10, 4)
    assert not same(other.state_dict(), encoder.state_dict())
    load_encoder(folder, other)
    assert same(other.state_dict(), encoder.state_dict())


@pytest.mark.parametrize(
    ("other", "named"),
    [
        ((2, 1, 10, 8), "stem=8"),
        ((2, 3, 10, 4), "channels=3"),
        ((3, 1, 10, 4), "spatial_dims=3"),
        ((2, 1, 18, 4), "depth=18"),
    ],
)
def test_another_architecture_is_an_error_that_names_both(folder: Path, other: Any, named: str) -> None:
    wanted = ResNet(*other)
    before = {k: t.clone() for k, t in wanted.state_dict().items()}
    with pytest.raises(InputError) as caught:
        load_encoder(folder, wanted)
    text = str(caught.value)
    assert f"{folder} holds another architecture" in text
    assert "It is ResNet(spatial_dims=2, channels=1, depth=10, stem=4, norm=batch)" in text
    assert named in text.split("need ResNet(")[1]
    assert same(wanted.state_dict(), before)


def test_differences_are_listed_by_tensor(encoder: ResNet) -> None:
    mine = encoder.state_dict()
    theirs = dict(mine) | {"extra": mine["conv1.weight"]}
    del theirs["bn1.bias"]
    theirs["conv1.weight"] = theirs["conv1.weight"][:1]
    assert differences(mine, theirs) == [
        "bn1.bias: missing there, (4,) here",
        "conv1.weight: (1, 1, 7, 7) there, (4, 1, 7, 7) here",
        "extra: (4, 1, 7, 7) there, missing here",
    ]
    assert differences(mine, mine) == []


@pytest.mark.parametrize("keep", [0, 7, 100, -1], ids=["empty", "no header", "no data", "one byte short"])
def test_a_truncated_file_is_an_error(folder: Path, encoder: ResNet, keep: int) -> None:
    (folder / TENSORS).write_bytes((folder / TENSORS).read_bytes()[:keep])
    with pytest.raises(
        InputError, match=rf"{folder / TENSORS} is corrupted, truncated or not what was written: .*; copy"
    ):
        load_encoder(folder, encoder)


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"encoder": "ResNet"}'])
def test_a_damaged_config_is_an_error(folder: Path, text: str) -> None:
    (folder / CONFIG).write_text(text)
    with pytest.raises(InputError, match=rf"{folder / CONFIG} is damaged: .*; copy the"):
        build_encoder(folder)


@pytest.mark.parametrize("name", ["os.system", "trap.Trap", "MonaiResNet", "resnet_params", "annotations", "__doc__"])
def test_a_class_that_is_not_one_of_our_encoders_is_never_imported(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """A config is data from elsewhere: it must not choose what is imported."""
    (tmp_path / "trap.py").write_text("raise SystemExit('imported')")
    monkeypatch.syspath_prepend(tmp_path)
    edit(folder, encoder=name)
    with pytest.raises(InputError, match=rf"names the encoder '{name}', which fedcore\.models does not have"):
        build_encoder(folder)
    assert "trap" not in sys.modules


def test_arguments_that_are_no_mapping_are_an_error(folder: Path) -> None:
    edit(folder, init_args=[])
    with pytest.raises(InputError, match=r"encoder\.json is damaged: it must hold encoder and init_args"):
        build_encoder(folder)


def test_an_encoder_is_found_in_its_folder_or_its_run(folder: Path) -> None:
    assert find_encoder(folder) == find_encoder(folder.parent) == folder


def test_a_folder_without_encoder_is_an_error_that_names_where_one_is(tmp_path: Path, encoder: ResNet) -> None:
    with pytest.raises(InputError, match=r"holds no encoder .*give the folder of a finished pretraining run"):
        find_encoder(tmp_path)
    for site in ("b", "a"):
        save_encoder(tmp_path / "sites" / site / "encoder", encoder, {}, "")
    with pytest.raises(InputError, match=rf"each site has its own, so name one: {tmp_path}/sites/a/encoder$"):
        find_encoder(tmp_path)


@pytest.mark.parametrize(
    "init_args",
    [
        {"depth": "ten"},
        {"zebra": 1},
        {"stem": 5},
        {"stem": 10**9},
        {"stem": 10**30},
        {"channels": -1},
        {"norm": ["batch"]},
    ],
    ids=str,
)
def test_a_config_that_does_not_fit_its_weights_is_an_error(folder: Path, init_args: dict[str, Any]) -> None:
    """Whoever changes it can write its checksum too; nothing of such a size is built."""
    edit(folder, init_args=encoder_config(folder)["init_args"] | init_args)
    write_sums(folder, [TENSORS, CONFIG])
    with pytest.raises(InputError, match=r"encoder\.json does not fit its weights: .*; copy"):
        build_encoder(folder)
