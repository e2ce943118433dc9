"""Generators on disk: weights and a JSON that says how to build one; reading them runs no code."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
from safetensors import SafetensorError

from fedcore.errors import InputError
from fedcore.files import write_atomically, write_json
from fedcore.store import differences
from fedgen.generator import Denoiser, Generator, Known
from fedgen.noise import Noise
from fedgen.unet import UNet

TENSORS, CONFIG = "generator.safetensors", "generator.json"


@dataclass(frozen=True)
class Stored:
    """A generator and the images it draws."""

    generator: Generator
    shape: tuple[int, ...]
    """(c, *space)."""


def save_generator(folder: Path, stored: Stored) -> None:
    made = stored.generator
    tensors = {k: t.detach().cpu().contiguous() for k, t in made.denoiser.state_dict().items()}
    write_atomically(folder / TENSORS, safetensors.torch.save(tensors))
    about = {"network": made.denoiser.network.config, "noise": asdict(made.noise), "known": asdict(made.known)}
    write_json(folder / CONFIG, about | {"shape": list(stored.shape)})


def load_generator(folder: Path) -> Stored:
    """The generator in `folder`, in evaluation mode.

    Raises:
        InputError: It is missing, damaged, or its weights are of another architecture.
    """
    config, tensors = _config(folder), _tensors(folder)
    try:
        known = Known(*(tuple(config["known"][what]) for what in ("classes", "sites")))
        denoiser, noise = Denoiser(UNet(**config["network"]), known), Noise(**config["noise"])
        shape = tuple(map(int, config["shape"]))
    except (KeyError, TypeError, ValueError) as e:
        raise InputError(f"{folder / CONFIG} is damaged ({type(e).__name__}); copy the run's folder anew") from e
    if wrong := differences(denoiser.state_dict(), tensors):
        raise InputError(f"{folder} holds another architecture than its {CONFIG} says, e.g. {wrong[0]}")
    denoiser.load_state_dict(tensors)
    return Stored(Generator(denoiser.eval(), known, noise), shape)


def _config(folder: Path) -> Mapping[str, Any]:
    try:
        config: Mapping[str, Any] = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    except (OSError, ValueError) as e:
        raise InputError(f"{folder} holds no generator ({CONFIG}); give the folder of a finished training") from e
    return config


def _tensors(folder: Path) -> dict[str, Any]:
    try:
        return safetensors.torch.load_file(folder / TENSORS)
    except (OSError, SafetensorError) as e:
        raise InputError(f"{folder / TENSORS} is missing, corrupted or truncated; copy the run's folder anew") from e
