"""Generators on disk: weights and a JSON that describes how to build one; reading them runs no code."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import asdict
from math import prod
from pathlib import Path
from typing import Any

from fedcore.errors import InputError
from fedcore.files.reading import read_json
from fedcore.files.writing import write_json
from fedcore.messages.tensors import Tensors
from fedcore.models.weights import build_with_weights, read_weights, save_weights
from fedgen.generator import Conditions, Generator, ImageShape

GENERATOR = "generator"
"""Folder of a run's generator."""
TENSORS, CONFIG = "generator.safetensors", "generator.json"
KINDS = {
    "DiffusionGenerator": "fedgen.diffusion.denoiser", "VAEGenerator": "fedgen.latent.vae",
    "LatentGenerator": "fedgen.latent.latent_diffusion",
    "PairedGenerator": "fedgen.diffusion.paired", "GANGenerator": "fedgen.gan.generator_network",
    "JointGenerator": "fedgen.oneshot.joint_generator",
}  # fmt: skip
"""The module of each kind: a file names a kind, never an import path."""
MAX_PIXELS = 2**27
"""Of a generated image: 512 x 512 x 512."""
_ADVICE = "copy the run's folder again"


def save_generator(folder: Path, generator: Generator) -> None:
    write_json(folder / CONFIG, config_of(generator))
    save_weights(folder / TENSORS, generator.network, other_files=(CONFIG,))


def load_generator(folder: Path) -> Generator:
    """The generator in `folder`, in evaluation mode.

    Raises:
        InputError: It is missing, damaged, or its weights have another architecture.
    """
    if not (folder / CONFIG).exists():
        raise InputError(f"{folder} holds no generator ({CONFIG}); give the folder of a finished training")
    config = read_json(folder / CONFIG, _ADVICE)
    try:
        generator = build_with_weights(_tensors(folder), lambda: build_generator(config), lambda made: made.network)
    except ValueError as e:
        raise InputError(f"{folder / CONFIG} does not fit its weights: {e}; {_ADVICE}") from e
    generator.network.eval()
    return generator


def config_of(generator: Generator) -> dict[str, Any]:
    """How to build a generator of the same kind, as JSON values."""
    config = {"kind": type(generator).__name__, "settings": generator.settings}
    return config | {"conditions": asdict(generator.conditions), "image_shape": asdict(generator.image_shape)}


def build_generator(config: Mapping[str, Any]) -> Generator:
    """A generator with fresh weights from the value of `config_of`.

    Raises:
        KeyError, TypeError, ValueError: The config names an unknown kind, or is damaged.
    """
    kind = getattr(importlib.import_module(KINDS[config["kind"]]), config["kind"])
    conditions = _conditions(config["conditions"])
    shape = ImageShape(int(config["image_shape"]["channels"]), tuple(map(int, config["image_shape"]["size"])))
    if min(shape.shape) < 1 or prod(shape.shape) > MAX_PIXELS:
        raise ValueError(f"images have {shape.shape} values; they must have at least 1 and at most {MAX_PIXELS:,}")
    generator: Generator = kind.build(conditions, shape, config["settings"])
    return generator


def _conditions(config: Mapping[str, Any]) -> Conditions:
    rows = config["image_counts"]
    counts = None if rows is None else tuple(tuple(int(n) for n in row) for row in rows)
    return Conditions(tuple(config["classes"]), tuple(config["sites"]), counts)


def _tensors(folder: Path) -> Tensors:
    return read_weights(folder / TENSORS, _ADVICE, other_files=(CONFIG,))
