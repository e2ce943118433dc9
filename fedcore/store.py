"""Encoders on disk: `encoder.safetensors`, `encoder.json` that says how to build it, and a card.

Reading one never runs code: the JSON names a class of `fedcore.encoders`, nothing else is looked up.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
from safetensors import SafetensorError
from torch import Tensor, nn

from fedcore.encoders import Encoder
from fedcore.errors import InputError
from fedcore.files import write_atomically, write_json

TENSORS, CONFIG, CARD = "encoder.safetensors", "encoder.json", "README.md"


def save_encoder(folder: Path, encoder: Encoder, about: Mapping[str, Any], card: str) -> Path:
    """Writes `encoder` (an encoder with `config`) with what is known about it and a card in Markdown."""
    tensors = {k: t.detach().cpu().contiguous() for k, t in encoder.state_dict().items()}
    write_atomically(folder / TENSORS, safetensors.torch.save(tensors))
    write_json(folder / CONFIG, {"encoder": type(encoder).__name__, "init_args": encoder.config, **about})
    write_atomically(folder / CARD, card.encode())
    return folder


def find_encoder(path: Path) -> Path:
    """The encoder's folder, given it or the run that made it.

    Raises:
        InputError: There is none.
    """
    for folder in (path, path / "encoder"):
        if (folder / TENSORS).exists():
            return folder
    held = sorted(path.glob(f"sites/*/encoder/{TENSORS}"))
    hint = f"; each site has its own, so name one: {held[0].parent}" if held else ""
    raise InputError(f"{path} holds no encoder ({TENSORS}){hint or '; give the folder of a finished pretraining run'}")


def encoder_config(folder: Path) -> dict[str, Any]:
    path = folder / CONFIG
    try:
        config: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        config["encoder"], config["init_args"].items()
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as e:
        raise InputError(f"{path} is missing or damaged ({type(e).__name__}); copy the encoder's folder anew") from e
    return config


def build_encoder(folder: Path) -> Encoder:
    """The encoder of `folder`, built as it was and with its weights."""
    from fedcore import encoders

    config = encoder_config(folder)
    kind = getattr(encoders, config["encoder"], None)
    if not (isinstance(kind, type) and issubclass(kind, encoders.Encoder) and kind.__module__ == encoders.__name__):
        raise InputError(
            f"{folder / CONFIG} names the encoder {config['encoder']!r}, which fedcore.encoders does not have; "
            "set `encoder` in the recipe"
        )
    encoder: Encoder = kind(**config["init_args"])
    load_encoder(folder, encoder)
    return encoder


def load_encoder(folder: Path, encoder: nn.Module) -> None:
    """Copies the weights of `folder` into `encoder`.

    Raises:
        InputError: They are damaged, or of another architecture; the text names what differs.
    """
    path = folder / TENSORS
    try:
        tensors = safetensors.torch.load_file(path)
    except (OSError, SafetensorError) as e:
        raise InputError(f"{path} is missing, corrupted or truncated; copy the encoder's folder anew") from e
    if differing := differences(encoder.state_dict(), tensors):
        config = encoder_config(folder)
        raise InputError(
            f"{folder} holds another architecture ({len(differing)} tensors differ, e.g. {differing[0]}).\n"
            f"  It is {config['encoder']}({_arguments(config['init_args'])}), the recipe and its data ask for "
            f"{type(encoder).__name__}({_arguments(getattr(encoder, 'config', {}))}); make them the same"
        )
    encoder.load_state_dict(tensors)


def differences(wanted: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> list[str]:
    """Tensors that are missing, unknown or of another shape, in words."""
    words = []
    for name in sorted(wanted.keys() | found.keys()):
        shapes = [tuple(side[name].shape) if name in side else "missing" for side in (found, wanted)]
        if shapes[0] != shapes[1]:
            words.append(f"{name}: {shapes[0]} there, {shapes[1]} here")
    return words


def _arguments(config: Mapping[str, Any]) -> str:
    return ", ".join(f"{k}={v}" for k, v in config.items())
