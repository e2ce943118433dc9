"""Our ResNet for MONAI, torchvision and timm.

All three have the same names (`layer1.0.conv1`, ...), strides and pooling. They differ in the shortcut of ResNet-18 and
-34: MONAI's type A takes every second pixel and pads the channels with zeros, the others have a 1x1 convolution and a
norm. With the identity as weights and a norm that changes nothing, the second equals the first, and outputs stay equal.
"""

from __future__ import annotations

import torch
from monai.networks.nets.resnet import resnet_params
from torch import nn

from fedcore.errors import InputError
from fedcore.export.portable import Library, Portable
from fedcore.messages.tensors import Tensors
from fedcore.models.resnet import NORMS, ResNet


def portable_resnet(encoder: ResNet, to: Library) -> Portable:
    """Raises InputError where `to` has no such network."""
    match to:
        case "monai":
            return _monai(encoder)
        case "timm":
            return _timm(encoder)
        case "torchvision":
            return _torchvision(encoder)


def _monai(encoder: ResNet) -> Portable:
    dims, channels, depth, stem = _shape(encoder)
    block, layers, shortcut, bias, _ = resnet_params[f"resnet{depth}"]
    plain, norm = stem == 64 and encoder.norm == "batch", NORMS[encoder.norm]
    name = f"resnet{depth}" if plain else "ResNet"
    imports: tuple[str, ...] = (f"from monai.networks.nets import {name}",)
    stages = () if plain else (f'    "{block}", {layers}, {[stem, 2 * stem, 4 * stem, 8 * stem]},',)
    settings = (
        f"    spatial_dims={dims}, n_input_channels={channels}, conv1_t_stride=2,",
        f'    shortcut_type="{shortcut}", bias_downsample={bias}, feed_forward=False,',
    )
    if encoder.norm == "batch":
        build: tuple[str, ...] = (f"model = {name}(", *stages, *settings, ")")
    else:
        imports = ("from functools import partialmethod", *imports)
        build = (
            "class Grouped(ResNet):  # MONAI applies `norm` to the stem only",
            f"    _make_layer = partialmethod(ResNet._make_layer, norm={norm})", "",
            "model = Grouped(", *stages, *settings, f"    norm={norm},", ")",
        )  # fmt: skip
    notes = (f'`ResNetFeatures("{name}")` and the encoder of a `FlexibleUNet` load the tensors too.',) if plain else ()
    return Portable(encoder.state_dict(), imports, build, encoder.width, notes)


def _timm(encoder: ResNet) -> Portable:
    _, channels, depth, _ = _require_plain(encoder, "timm")
    if depth == 10:
        imports = ("from timm.models.resnet import BasicBlock, ResNet",)
        build = f"model = ResNet(BasicBlock, (1, 1, 1, 1), in_chans={channels}, num_classes=0)"
    else:
        imports = ("import timm",)
        build = f'model = timm.create_model("resnet{depth}", in_chans={channels}, num_classes=0)'
    return Portable(_with_conv_shortcuts(encoder), imports, (build,), encoder.width, _norm_note(encoder))


def _torchvision(encoder: ResNet) -> Portable:
    _, channels, depth, _ = _require_plain(encoder, "torchvision")
    if channels not in (1, 3):
        raise InputError(f"torchvision's ResNet reads 3 channels, this encoder {channels}; use `--to timm`")
    if depth == 10:
        imports = ("import torch", "from torchvision.models.resnet import BasicBlock, ResNet")
        build = "model = ResNet(BasicBlock, [1, 1, 1, 1])"
    else:
        imports, build = ("import torch", f"from torchvision.models import resnet{depth}"), f"model = resnet{depth}()"
    tensors, notes = _with_conv_shortcuts(encoder), _norm_note(encoder)
    if channels == 1:
        tensors["conv1.weight"] = tensors["conv1.weight"].expand(-1, 3, -1, -1) / 3
        notes = ("The model reads 3 channels: pass grey images as `images.expand(-1, 3, -1, -1)`.", *notes)
    return Portable(tensors, imports, (build, "model.fc = torch.nn.Identity()"), encoder.width, notes)


def _shape(encoder: ResNet) -> tuple[int, int, int, int]:
    """(spatial_dims, channels, depth, stem)"""
    c = encoder.config
    return c["spatial_dims"], c["channels"], c["depth"], c["stem"]


def _require_plain(encoder: ResNet, library: str) -> tuple[int, int, int, int]:
    """Raises InputError for what only MONAI's constructors can build."""
    dims, _, _, stem = shape = _shape(encoder)
    if dims != 2:
        raise InputError(f"{library}'s ResNet reads 2D images, this encoder reads volumes; use `--to monai`")
    if encoder.norm != "batch":
        raise InputError(f"{library}'s ResNet has batch norm, this encoder {encoder.norm} norm; use `--to monai`")
    if stem != 64:
        raise InputError(
            f"{library}'s ResNet has a stem of 64 channels, this encoder one of {stem}; use `--to monai`, "
            "or pretrain with --encoder.init_args.stem 64"
        )
    return shape


def _with_conv_shortcuts(encoder: ResNet) -> Tensors:
    """The encoder's tensors, with a convolution and a norm in place of each zero-padded shortcut."""
    tensors = encoder.state_dict()
    for name, block in encoder.named_modules():
        # A type A shortcut is a function without parameters and not a module.
        if callable(pad := getattr(block, "downsample", None)) and not isinstance(pad, nn.Module):
            tensors |= _shortcut(
                f"{name}.downsample.", block.conv1.in_channels, block.conv2.out_channels, block.bn1.eps
            )
    return tensors


def _shortcut(prefix: str, narrow: int, wide: int, eps: float) -> Tensors:
    """Weights of a 1x1 convolution that pads channels with zeros and of a batch norm that changes nothing."""
    tensors = {
        "0.weight": torch.eye(wide, narrow)[:, :, None, None], "1.weight": torch.ones(wide),
        "1.bias": torch.zeros(wide), "1.running_mean": torch.zeros(wide),
        # The norm divides by sqrt(variance + eps).
        "1.running_var": torch.full((wide,), 1 - eps), "1.num_batches_tracked": torch.tensor(0),
    }  # fmt: skip
    return {prefix + name: t for name, t in tensors.items()}


def _norm_note(encoder: ResNet) -> tuple[str, ...]:
    if resnet_params[f"resnet{encoder.config['depth']}"][2] != "A":
        return ()
    return ("Outputs are equal in evaluation mode; in training mode these shortcuts are normalised, MONAI's are not.",)
