"""Our DenseNet for MONAI, torchvision and timm; the names of the tensors differ in one level."""

from __future__ import annotations

from fedcore.errors import InputError
from fedcore.export.portable import Library, Portable
from fedcore.messages.tensors import Tensors
from fedcore.models.densenet import BLOCKS_121, DenseNet


def portable_densenet(encoder: DenseNet, to: Library) -> Portable:
    """Raises InputError where `to` has no such network."""
    match to:
        case "monai":
            return _monai(encoder)
        case "timm":
            return _timm(encoder)
        case "torchvision":
            return _torchvision(encoder)


def _monai(encoder: DenseNet) -> Portable:
    c = encoder.config
    build = (
        "model = DenseNet(",
        f"    spatial_dims={c['spatial_dims']}, in_channels={c['channels']}, out_channels=1,",
        f"    init_features={2 * c['growth']}, growth_rate={c['growth']}, block_config={tuple(c['blocks'])},", ")",
        "model.class_layers.out = torch.nn.Identity()",
    )  # fmt: skip
    imports = ("import torch", "from monai.networks.nets import DenseNet")
    return Portable(encoder.state_dict(), imports, build, encoder.width)


def _timm(encoder: DenseNet) -> Portable:
    channels = _require_plain(encoder, "timm")
    build = f'model = timm.create_model("densenet121", in_chans={channels}, num_classes=0)'
    return Portable(_renamed(encoder), ("import timm",), (build,), encoder.width)


def _torchvision(encoder: DenseNet) -> Portable:
    channels = _require_plain(encoder, "torchvision")
    if channels not in (1, 3):
        raise InputError(f"torchvision's DenseNet reads 3 channels, this encoder {channels}; use `--to timm`")
    tensors, notes = _renamed(encoder), tuple[str, ...]()
    if channels == 1:
        first = "features.conv0.weight"
        tensors[first] = tensors[first].expand(-1, 3, -1, -1) / 3
        notes = ("The model reads 3 channels: pass grey images as `images.expand(-1, 3, -1, -1)`.",)
    imports = ("import torch", "from torchvision.models import densenet121")
    build = ("model = densenet121()", "model.classifier = torch.nn.Identity()")
    return Portable(tensors, imports, build, encoder.width, notes)


def _require_plain(encoder: DenseNet, library: str) -> int:
    """The encoder's input channels; raises InputError for what only MONAI's constructor can build."""
    c = encoder.config
    if c["spatial_dims"] != 2:
        raise InputError(f"{library}'s DenseNet reads 2D images, this encoder reads volumes; use `--to monai`")
    if (c["growth"], tuple(c["blocks"])) != (32, BLOCKS_121):
        raise InputError(
            f"{library}'s DenseNet-121 has a growth of 32 and blocks of {list(BLOCKS_121)} layers, this encoder "
            f"{c['growth']} and {c['blocks']}; use `--to monai`"
        )
    channels: int = c["channels"]
    return channels


def _renamed(encoder: DenseNet) -> Tensors:
    """Removes the level `layers`, in which MONAI puts the norms and convolutions of a layer."""
    return {name.replace(".layers.", "."): t for name, t in encoder.state_dict().items()}
