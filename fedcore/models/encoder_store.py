"""Encoders on disk: `encoder.safetensors`, `encoder.json` with class and arguments, and a model card.

Reading an encoder never runs code from elsewhere: `encoder.json` names one of the classes in `ENCODERS`, and nothing is
imported by name.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from fedcore.errors import InputError
from fedcore.files.reading import read_json
from fedcore.files.writing import write_atomically, write_json
from fedcore.messages.tensors import Tensors
from fedcore.models.base import Encoder
from fedcore.models.densenet import DenseNet
from fedcore.models.resnet import ResNet
from fedcore.models.vit import ViT
from fedcore.models.weights import build_with_weights, differences, read_weights, save_weights

ENCODERS: dict[str, type[Encoder]] = {kind.__name__: kind for kind in (ResNet, DenseNet, ViT)}
"""What `encoder.json` may name."""
TENSORS, CONFIG, CARD = "encoder.safetensors", "encoder.json", "README.md"
_ADVICE = "copy the encoder's folder again"


def save_encoder(folder: Path, encoder: Encoder, about: Mapping[str, Any], card: str) -> Path:
    """Writes `encoder`, which must have a `config`, with the facts `about` it and a model card in Markdown."""
    write_json(folder / CONFIG, {"encoder": type(encoder).__name__, "init_args": encoder.config, **about})
    save_weights(folder / TENSORS, encoder, other_files=(CONFIG,))
    write_atomically(folder / CARD, card.encode())
    return folder


def find_encoder(path: Path) -> Path:
    """The folder of an encoder; `path` is this folder or the run that wrote it.

    Raises:
        InputError: There is no encoder.
    """
    for folder in (path, path / "encoder"):
        if (folder / TENSORS).exists():
            return folder
    by_site = sorted(path.glob(f"sites/*/encoder/{TENSORS}"))
    hint = f"; each site has its own, so name one: {by_site[0].parent}" if by_site else ""
    raise InputError(f"{path} holds no encoder ({TENSORS}){hint or '; give the folder of a finished pretraining run'}")


def encoder_config(folder: Path) -> dict[str, Any]:
    """The content of `encoder.json`."""
    config = read_json(folder / CONFIG, _ADVICE)
    if not isinstance(config.get("encoder"), str) or not isinstance(config.get("init_args"), dict):
        raise InputError(f"{folder / CONFIG} is damaged: it must hold encoder and init_args; {_ADVICE}")
    return config


def build_encoder(folder: Path) -> Encoder:
    """The encoder of `folder` with its weights, in evaluation mode.

    In evaluation mode, features of an image do not depend on the other images of its batch; call `.train()` to train it
    further.

    Raises:
        InputError: The files are damaged, or description and weights do not fit each other.
    """
    config = encoder_config(folder)
    if config["encoder"] not in ENCODERS:
        raise InputError(
            f"{folder / CONFIG} names the encoder {config['encoder']!r}, which fedcore.models does not have "
            f"({', '.join(ENCODERS)}); set `encoder` in the recipe"
        )
    try:
        return described_encoder(config["encoder"], config["init_args"], _tensors(folder))
    except ValueError as e:
        raise InputError(f"{folder / CONFIG} does not fit its weights: {e}; {_ADVICE}") from e


def described_encoder(name: str, init_args: Mapping[str, Any], tensors: Tensors) -> Encoder:
    """The encoder of a class in `ENCODERS` with these weights, in evaluation mode.

    Raises:
        ValueError: There is no such class, or description and weights do not fit each other; nothing larger than the
            weights was built then.
    """
    if (kind := ENCODERS.get(name)) is None:
        raise ValueError(f"the encoder is none of {', '.join(ENCODERS)}")
    return build_with_weights(tensors, lambda: kind(**init_args), lambda encoder: encoder).eval()


def load_encoder(folder: Path, encoder: nn.Module) -> None:
    """Copies the weights of `folder` into `encoder`.

    Raises:
        InputError: The files are damaged, or of another architecture; the text names the differences.
    """
    tensors = _tensors(folder)
    if differing := differences(encoder.state_dict(), tensors):
        config = encoder_config(folder)
        raise InputError(
            f"{folder} holds another architecture ({len(differing)} tensors differ, e.g. {differing[0]}).\n"
            f"  It is {config['encoder']}({_arguments(config['init_args'])}), recipe and data need "
            f"{type(encoder).__name__}({_arguments(getattr(encoder, 'config', {}))}); make them the same"
        )
    encoder.load_state_dict(tensors)


def _tensors(folder: Path) -> Tensors:
    return read_weights(folder / TENSORS, _ADVICE, other_files=(CONFIG,))


def _arguments(config: Mapping[str, Any]) -> str:
    return ", ".join(f"{k}={v}" for k, v in config.items())
