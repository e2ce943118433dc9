from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from monai.networks.nets.resnet import ResNetFeatures
from torch import Tensor, nn

from fedcore.cli.main import main
from fedcore.errors import InputError
from fedcore.export import command, portable
from fedcore.export.portable import Library
from fedcore.models.encoder_store import CARD, TENSORS, save_encoder
from fedcore.models.encoders import Encoder, ResNet, ViT

DEPTHS = pytest.mark.parametrize("depth", [10, 18, 34, 50])
PLAIN = pytest.mark.parametrize(("depth", "channels"), [(10, 1), (18, 1), (18, 3), (34, 1), (50, 1)])
CARD_TEXT = "---\nlicense: unknown\n---\n\n# Encoder of three sites\n\nFacts.\n"


@pytest.fixture(autouse=True)
def _drawn_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """torch draws a convolution's weights, and MONAI draws them again: the first draw is half of this file's time."""
    monkeypatch.setattr("torch.nn.init.kaiming_uniform_", lambda t, **_: t)


def trained(*shape: Any) -> ResNet:
    """An encoder whose norms, running statistics included, differ from how they were made."""
    encoder, draw = ResNet(*shape), torch.Generator().manual_seed(1)
    for module in encoder.modules():
        if isinstance(module, nn.BatchNorm2d | nn.BatchNorm3d | nn.GroupNorm):
            found = module.state_dict()
            found["weight"].uniform_(0.7, 1.2, generator=draw)
            found["bias"].uniform_(-0.2, 0.2, generator=draw)
        if isinstance(module, nn.BatchNorm2d | nn.BatchNorm3d):
            found["running_mean"].uniform_(-0.2, 0.2, generator=draw)
            found["running_var"].uniform_(0.5, 2, generator=draw)
            found["num_batches_tracked"].fill_(7)
    return encoder.eval()


def batch(dims: int, channels: int = 1) -> Tensor:
    """Two images that differ in contrast."""
    noise = torch.rand(2, channels, *[48 if dims == 2 else 32] * dims, generator=torch.Generator().manual_seed(2))
    noise[1] *= 0.3
    return noise * 2 - 1


def load(encoder: Encoder, to: Library, folder: Path, size: tuple[int, ...] = ()) -> Any:
    """The model that a user has who runs the printed lines (`load_state_dict` is strict unless told otherwise)."""
    made, file, names = portable(encoder, to, size), folder / "x.safetensors", dict[str, Any]()
    safetensors.torch.save_file({name: t.contiguous() for name, t in made.tensors.items()}, file)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("torch.nn.init.kaiming_normal_", lambda t, **_: t)  # they are loaded, not drawn
        exec(made.snippet(str(file)), names)
    assert not names["model"].training
    return names["model"]


def require_equal(encoder: Encoder, model: Any, images: Tensor, repeated: bool = False) -> None:
    with torch.inference_mode():
        ours, theirs = encoder(images), model(images.expand(-1, 3, -1, -1) if repeated else images)
    assert (ours[0] - ours[1]).abs().mean() > 1e-3, "a hundred times the tolerance, or equality proves little"
    torch.testing.assert_close(theirs, ours, rtol=1e-5, atol=1e-5)


@DEPTHS
@pytest.mark.parametrize("dims", [2, 3])
def test_monais_plain_network_gives_our_features(depth: Any, dims: int, tmp_path: Path) -> None:
    encoder, images = trained(dims, 1, depth), batch(dims)
    model = load(encoder, "monai", tmp_path)
    assert type(model).__module__.startswith("monai.")
    require_equal(encoder, model, images)
    with torch.device("meta"):  # names and shapes alone
        features = ResNetFeatures(f"resnet{depth}", pretrained=False, spatial_dims=dims)
    features.load_state_dict(portable(encoder, "monai").tensors, strict=True, assign=True)


@pytest.mark.parametrize("shape", [(2, 3, 10, 4), (3, 1, 18, 8), (2, 1, 50, 4), (2, 1, 10, 8, "group")])
def test_monai_takes_any_stem_and_norm(shape: tuple[int, ...], tmp_path: Path) -> None:
    encoder = trained(*shape)
    require_equal(encoder, load(encoder, "monai", tmp_path), batch(*shape[:2]))


@PLAIN
def test_torchvisions_plain_network_gives_our_features(depth: Any, channels: int, tmp_path: Path) -> None:
    encoder = trained(2, channels, depth)
    model = load(encoder, "torchvision", tmp_path)
    assert type(model).__module__.startswith("torchvision.")
    require_equal(encoder, model, batch(2, channels), repeated=channels == 1)


@PLAIN
def test_timms_plain_network_gives_our_features(depth: Any, channels: int, tmp_path: Path) -> None:
    pytest.importorskip("timm")
    encoder = trained(2, channels, depth)
    model = load(encoder, "timm", tmp_path)
    assert type(model).__module__.startswith("timm.")
    require_equal(encoder, model, batch(2, channels))


@pytest.mark.parametrize("to", ["timm", "torchvision"])
def test_group_norm_is_for_monai_alone(to: Library) -> None:
    with pytest.raises(InputError, match="has batch norm, this encoder group norm; `--to monai` fits"):
        portable(ResNet(norm="group"), to)


def test_the_shortcut_is_exact_where_it_stands_alone() -> None:
    """Every second pixel, channels padded by zeros: a 1x1 convolution and a norm, to one rounding."""
    encoder, x = trained(2, 1, 18), torch.randn(2, 64, 7, 8)
    padded = encoder.layer2[0].downsample(x)
    convolution = nn.Conv2d(64, 128, 1, stride=2, bias=False)
    shortcut = nn.Sequential(convolution, nn.BatchNorm2d(128)).eval()
    tensors = portable(encoder, "torchvision").tensors
    prefix = "layer2.0.downsample."
    shortcut.load_state_dict({k.removeprefix(prefix): t for k, t in tensors.items() if k.startswith(prefix)})
    torch.testing.assert_close(shortcut(x), padded, rtol=3e-7, atol=0.0)


def test_timms_plain_vit_gives_our_features(tmp_path: Path) -> None:
    pytest.importorskip("timm")
    encoder = ViT(2, 3, patch=8, width=16, depth=2, heads=4, mlp_ratio=2.0).eval()
    with torch.no_grad():
        for parameter in encoder.parameters():  # biases too
            parameter.add_(torch.randn_like(parameter), alpha=0.3)
    for size in ((48, 48), (24, 40)):
        images = batch(2, 3)[..., : size[0], : size[1]]
        require_equal(encoder, load(encoder, "timm", tmp_path, size), images)


@pytest.mark.parametrize(
    ("dims", "to", "size", "text"),
    [
        (3, "timm", (32, 32, 32), "no library has this ViT for volumes"),
        (2, "monai", (32, 32), "no class token without a classifier; `--to timm` fits"),
        (2, "torchvision", (32, 32), "not the mean of the patches; `--to timm` fits"),
        (2, "timm", (), "encoder.json names none"),
    ],
)
def test_where_a_vit_does_not_fit_it_says_what_does(dims: int, to: Any, size: tuple[int, ...], text: str) -> None:
    with pytest.raises(InputError, match=re.escape(text)):
        portable(ViT(dims, 1, 16, 24, 1, 3), to, size)


@pytest.mark.parametrize("to", ["timm", "torchvision"])
@pytest.mark.parametrize(
    ("shape", "text"),
    [
        ((3, 1, 10), "reads 2D images, this encoder volumes; `--to monai` fits"),
        ((2, 1, 10, 32), "this encoder one of 32"),
    ],
)
def test_what_a_library_cannot_build_is_refused(to: Any, shape: Any, text: str) -> None:
    with pytest.raises(InputError, match=re.escape(text)):
        portable(ResNet(*shape), to)


def test_torchvision_reads_grey_or_colour() -> None:
    with pytest.raises(InputError, match=r"reads 3 channels, this encoder 2; `--to timm` fits"):
        portable(ResNet(2, 2, 10), "torchvision")


def test_an_encoder_of_another_kind_is_named(toy: Callable[..., Encoder]) -> None:
    with pytest.raises(InputError, match="export knows no Toy"):
        portable(toy(), "monai")


def test_exporting_leaves_the_encoder_as_it_was() -> None:
    encoder = trained(2, 1, 18)
    before = {name: t.clone() for name, t in encoder.state_dict().items()}
    portable(encoder, "torchvision")
    assert all(torch.equal(t, before[name]) for name, t in encoder.state_dict().items())


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return save_encoder(tmp_path / "run" / "encoder", trained(2, 1, 10), {"size": [48, 56]}, CARD_TEXT)


def test_the_command_writes_tensors_and_a_page_and_prints_how_to_load_them(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    command([str(folder.parent), "--to", "torchvision"])
    printed = capsys.readouterr().out
    assert printed.startswith(f"{folder}/torchvision.safetensors\n{folder}/torchvision.md\n\n")
    assert "model = ResNet(BasicBlock, [1, 1, 1, 1])\nmodel.fc = torch.nn.Identity()\n" in printed
    page = (folder / "torchvision.md").read_text()
    for text in (page, printed):
        assert (
            "- Images: float32, grey, channels first, 48 x 56 pixels as in training.\n- Intensities: in [-1, 1]" in text
        )
        assert "images.expand(-1, 3, -1, -1)" in text
    assert page.endswith("---\n\n# Encoder of three sites\n\nFacts.\n")
    assert "license: unknown" not in page
    monkeypatch.chdir(folder)
    names: dict[str, Any] = {}
    exec(page.split("```python\n")[1].split("```")[0], names)
    require_equal(trained_from(folder), names["model"], batch(2), repeated=True)


def trained_from(folder: Path) -> ResNet:
    encoder = ResNet(2, 1, 10)
    encoder.load_state_dict(safetensors.torch.load_file(folder / TENSORS))
    return encoder.eval()


def test_nothing_is_replaced_unasked(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = folder.parent / "mine.safetensors"
    words = ["export", str(folder), "--out", str(file)]
    for taken in (file, file.with_suffix(".md")):
        taken.write_text("precious")
        with pytest.raises(SystemExit) as stopped:
            main(words)
        assert stopped.value.code == 2
        assert capsys.readouterr().err == (
            f"fedpretrain: {taken} exists; replace it with --overwrite true, or choose another name with --out\n"
        )
        assert taken.read_text() == "precious"
        taken.unlink()
    file.write_text("old")
    command([*words[1:], "--overwrite", "true"])
    assert safetensors.torch.load_file(file)


@pytest.mark.parametrize("name", [TENSORS, "README.safetensors"])
def test_the_encoder_itself_is_never_replaced(folder: Path, name: str) -> None:
    with pytest.raises(InputError, match="is the encoder's own"):
        command([str(folder), "--out", str(folder / name), "--overwrite", "true"])
    assert (folder / CARD).read_text() == CARD_TEXT


def test_tensors_are_named_as_such(folder: Path) -> None:
    with pytest.raises(InputError, match=r"--out must name a \.safetensors file, got .*mine\.pt"):
        command([str(folder), "--out", str(folder / "mine.pt")])


def test_another_library_is_named(folder: Path) -> None:
    with pytest.raises(InputError, match="monai"):
        command([str(folder), "--to", "keras"])
