"""Generators on disk: weights and a JSON that says how to build one; reading them runs no code."""

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
from fedcore.messages.message import Tensors
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
"""Where each kind is: a file names a kind, never what is imported."""
MOST_PIXELS = 2**27
"""Of an image that is drawn: 512 x 512 x 512."""
_ADVICE = "copy the run's folder anew"


def save_generator(folder: Path, made: Generator) -> None:
    write_json(folder / CONFIG, plan_of(made))
    save_weights(folder / TENSORS, made.network, other_files=(CONFIG,))


def load_generator(folder: Path) -> Generator:
    """The generator in `folder`, in evaluation mode.

    Raises:
        InputError: It is missing, damaged, or its weights are of another architecture.
    """
    if not (folder / CONFIG).exists():
        raise InputError(f"{folder} holds no generator ({CONFIG}); give the folder of a finished training")
    config = read_json(folder / CONFIG, _ADVICE)
    try:
        made = build_with_weights(_tensors(folder), lambda: built(config), lambda made: made.network)
    except ValueError as e:
        raise InputError(f"{folder / CONFIG} does not fit its weights: {e}; {_ADVICE}") from e
    made.network.eval()
    return made


def plan_of(made: Generator) -> dict[str, Any]:
    """How to build one like it, as JSON holds it."""
    about = {"kind": type(made).__name__, "settings": made.settings}
    return about | {"known": asdict(made.known), "canvas": asdict(made.canvas)}


def built(config: Mapping[str, Any]) -> Generator:
    """One with fresh weights, of what `plan_of` gave.

    Raises:
        KeyError, TypeError, ValueError: It is of no known kind, or damaged.
    """
    kind = getattr(importlib.import_module(KINDS[config["kind"]]), config["kind"])
    known = _known(config["known"])
    canvas = ImageShape(int(config["canvas"]["channels"]), tuple(map(int, config["canvas"]["size"])))
    if min(canvas.shape) < 1 or prod(canvas.shape) > MOST_PIXELS:
        raise ValueError(f"images of {canvas.shape} values; they must have at least 1 and at most {MOST_PIXELS:,}")
    made: Generator = kind.build(known, canvas, config["settings"])
    return made


def _known(config: Mapping[str, Any]) -> Conditions:
    images = config["images"]
    counts = None if images is None else tuple(tuple(int(n) for n in row) for row in images)
    return Conditions(tuple(config["classes"]), tuple(config["sites"]), counts)


def _tensors(folder: Path) -> Tensors:
    return read_weights(folder / TENSORS, _ADVICE, other_files=(CONFIG,))
