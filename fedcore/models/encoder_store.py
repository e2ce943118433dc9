"""Encoders on disk: `encoder.safetensors`, `encoder.json` that says how to build it, and a card.

Reading one never runs code: the JSON names a class of `fedcore.models.encoders`, nothing else is looked up.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from fedcore.errors import InputError
from fedcore.files.reading import read_json
from fedcore.files.writing import write_atomically, write_json
from fedcore.messages.message import Tensors
from fedcore.models.encoders import Encoder
from fedcore.models.weights import built_for, differences, read_weights, save_weights

TENSORS, CONFIG, CARD = "encoder.safetensors", "encoder.json", "README.md"
_ADVICE = "copy the encoder's folder anew"


def save_encoder(folder: Path, encoder: Encoder, about: Mapping[str, Any], card: str) -> Path:
    """Writes `encoder` (an encoder with `config`) with what is known about it and a card in Markdown."""
    write_json(folder / CONFIG, {"encoder": type(encoder).__name__, "init_args": encoder.config, **about})
    save_weights(folder / TENSORS, encoder, targets=(CONFIG,))
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
    """What `encoder.json` says."""
    config = read_json(folder / CONFIG, _ADVICE)
    if not isinstance(config.get("encoder"), str) or not isinstance(config.get("init_args"), dict):
        raise InputError(f"{folder / CONFIG} is damaged: it must hold encoder and init_args; {_ADVICE}")
    return config


def build_encoder(folder: Path) -> Encoder:
    """The encoder of `folder`, built as it was and with its weights, in evaluation mode.

    Features of an image then do not depend on the other images of its batch; `.train()` before it is trained further.

    Raises:
        InputError: It is damaged, or asks for what its weights are not.
    """
    from fedcore.models import encoders

    config = encoder_config(folder)
    kind = getattr(encoders, config["encoder"], None)
    if not (isinstance(kind, type) and issubclass(kind, encoders.Encoder) and kind.__module__ == encoders.__name__):
        raise InputError(
            f"{folder / CONFIG} names the encoder {config['encoder']!r}, which fedcore.models.encoders does not have; "
            "set `encoder` in the recipe"
        )
    try:
        return built_for(_tensors(folder), lambda: kind(**config["init_args"]), lambda encoder: encoder).eval()
    except ValueError as e:
        raise InputError(f"{folder / CONFIG} does not fit its weights: {e}; {_ADVICE}") from e


def load_encoder(folder: Path, encoder: nn.Module) -> None:
    """Copies the weights of `folder` into `encoder`.

    Raises:
        InputError: They are damaged, or of another architecture; the text names what differs.
    """
    tensors = _tensors(folder)
    if differing := differences(encoder.state_dict(), tensors):
        config = encoder_config(folder)
        raise InputError(
            f"{folder} holds another architecture ({len(differing)} tensors differ, e.g. {differing[0]}).\n"
            f"  It is {config['encoder']}({_arguments(config['init_args'])}), the recipe and its data ask for "
            f"{type(encoder).__name__}({_arguments(getattr(encoder, 'config', {}))}); make them the same"
        )
    encoder.load_state_dict(tensors)


def _tensors(folder: Path) -> Tensors:
    return read_weights(folder / TENSORS, _ADVICE, targets=(CONFIG,))


def _arguments(config: Mapping[str, Any]) -> str:
    return ", ".join(f"{k}={v}" for k, v in config.items())
