"""Encoders with trained norms, and the models that users build with the exported code."""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeVar

import pytest
import safetensors.torch
import torch
from torch import Tensor, nn

from fedcore.export.command import portable
from fedcore.export.portable import Library
from fedcore.models.base import Encoder
from fedcore.models.resnet import ResNet

Kind = TypeVar("Kind", bound=Encoder)


def with_random_norms(encoder: Kind) -> Kind:
    """Norms, running statistics included, differ from their initial values."""
    generator = torch.Generator().manual_seed(1)
    for module in encoder.modules():
        if isinstance(module, nn.BatchNorm2d | nn.BatchNorm3d | nn.GroupNorm):
            state = module.state_dict()
            state["weight"].uniform_(0.7, 1.2, generator=generator)
            state["bias"].uniform_(-0.2, 0.2, generator=generator)
        if isinstance(module, nn.BatchNorm2d | nn.BatchNorm3d):
            state["running_mean"].uniform_(-0.2, 0.2, generator=generator)
            state["running_var"].uniform_(0.5, 2, generator=generator)
            state["num_batches_tracked"].fill_(7)
    return encoder.eval()


def resnet(*arguments: Any) -> ResNet:
    return with_random_norms(ResNet(*arguments))


def batch(dims: int, channels: int = 1) -> Tensor:
    """Two images that differ in contrast."""
    noise = torch.rand(2, channels, *[48 if dims == 2 else 32] * dims, generator=torch.Generator().manual_seed(2))
    noise[1] *= 0.3
    return noise * 2 - 1


def load(encoder: Encoder, to: Library, folder: Path, size: tuple[int, ...] = ()) -> Any:
    """The model of a user who runs the printed lines (`load_state_dict` is strict by default)."""
    made, file, names = portable(encoder, to, size), folder / "x.safetensors", dict[str, Any]()
    safetensors.torch.save_file({name: t.contiguous() for name, t in made.tensors.items()}, file)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("torch.nn.init.kaiming_normal_", lambda t, **_: t)  # the weights are loaded afterwards
        exec(made.snippet(str(file)), names)
    assert not names["model"].training
    return names["model"]


def require_equal(encoder: Encoder, model: Any, images: Tensor, repeated: bool = False) -> None:
    with torch.inference_mode():
        ours, theirs = encoder(images), model(images.expand(-1, 3, -1, -1) if repeated else images)
    assert (ours[0] - ours[1]).abs().mean() > 1e-3, "a hundred times the tolerance, or equality proves little"
    torch.testing.assert_close(theirs, ours, rtol=1e-5, atol=1e-5)
