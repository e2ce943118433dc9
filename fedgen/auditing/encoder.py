"""The encoder whose features an audit compares. It travels as a description and weights, and every site builds it."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from jaxtyping import Float
from pytorch_lightning import LightningModule
from torch import Tensor, nn

from fedcore.errors import InputError
from fedcore.files.reading import parse_json
from fedcore.messages.tensors import Tensors
from fedcore.models.encoder_store import build_encoder, described_encoder, encoder_config, find_encoder
from fedcore.seeds import seeded

LONGEST = 10_000
"""Characters of a description."""


class NoFeatures(nn.Module):
    """In place of an encoder: features have no dimensions."""

    width = 0

    def forward(self, images: Float[Tensor, "n c *space"]) -> Float[Tensor, "n 0"]:
        return images.new_zeros(len(images), 0)


class FeatureExtractor(LightningModule):
    """An encoder as a module that is lent to a site."""

    def __init__(self, encoder: nn.Module):
        super().__init__()
        self.encoder = encoder


def read_encoder(path: Path | None) -> tuple[str, nn.Module]:
    """Description and network of the encoder that a pretraining run or an encoder's folder holds.

    Raises:
        InputError: There is none, or it is damaged.
    """
    if path is None:
        return "", NoFeatures()
    folder = find_encoder(path)
    with seeded(0):
        encoder = build_encoder(folder)
    config = encoder_config(folder)
    return json.dumps({key: config[key] for key in ("encoder", "init_args")}), encoder


def encoder_of(description: str, tensors: Tensors) -> nn.Module:
    """The network that another machine described, from `fedcore.models` alone. No random generator is changed.

    Args:
        description: JSON with the name of the class, `encoder`, and its arguments, `init_args`; empty for none.
        tensors: Its weights, which bound its size.

    Raises:
        ValueError: It is no such description, or does not fit the weights.
    """
    if not description:
        if tensors:
            raise ValueError("there are weights and no description")
        return NoFeatures()
    if len(description) > LONGEST:
        raise ValueError(f"a description has at most {LONGEST} characters, found {len(description)}")
    tree = parse_json(description)
    if not isinstance(tree, dict) or tree.keys() != {"encoder", "init_args"}:
        raise ValueError("a description has the keys encoder and init_args")
    name, arguments = tree["encoder"], tree["init_args"]
    if not isinstance(name, str) or not isinstance(arguments, dict):
        raise ValueError("encoder must be a name, and init_args names with values")
    with seeded(0):
        try:
            return described_encoder(name, arguments, tensors)
        except InputError as e:
            raise ValueError(str(e)) from e


def misfit(encoder: nn.Module, spatial_dims: int, channels: int) -> str | None:
    """What images an encoder takes in place of these; None where it takes these."""
    config, wanted = getattr(encoder, "config", {}), {"spatial_dims": spatial_dims, "channels": channels}
    wrong = [f"{k} {config[k]}, not {v}" for k, v in wanted.items() if config.get(k, v) != v]
    return f"it takes {' and '.join(wrong)}" if wrong else None


def features_of(
    encoder: nn.Module, images: Float[Tensor, "n c *space"], device: torch.device, batch: int
) -> Float[Tensor, "n d"]:
    """Features of images in memory, as float32 on the CPU."""
    with torch.inference_mode():
        encoder.to(device).eval()
        parts = [encoder(part.float().to(device)).float().cpu() for part in images.split(batch)]
        encoder.cpu()
    return torch.cat(parts)
