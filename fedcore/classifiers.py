"""Classifiers and segmenters of finished runs: their weights on disk, and networks built anew from a run's recipe."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import safetensors.torch
import yaml
from pytorch_lightning import LightningModule
from safetensors import SafetensorError
from torch import nn

from fedcore.checkpoint import Checkpoint
from fedcore.encoders import Encoder
from fedcore.errors import InputError, building
from fedcore.files import write_atomically
from fedcore.local import MODULE, personal
from fedcore.recipe import build_part
from fedcore.run import RunFolder
from fedcore.seeds import seeded
from fedcore.store import differences

MODEL, SEGMENTER = "classifier/classifier.safetensors", "segmenter/segmenter.safetensors"


def save_classifier(run: RunFolder, module: nn.Module, path: str = MODEL) -> None:
    tensors = {k: t.detach().cpu().contiguous() for k, t in module.state_dict().items()}
    write_atomically(run.path / path, safetensors.torch.save(tensors))


def load_classifier(run: RunFolder, module: nn.Module, path: str = MODEL) -> None:
    """The weights of a fine-tuned run.

    Raises:
        InputError: They are missing, damaged or of another architecture.
    """
    file = run.path / path
    try:
        tensors = safetensors.torch.load_file(file)
    except (OSError, SafetensorError) as e:
        raise InputError(f"{file} is missing, corrupted or truncated; evaluate takes a finished finetune run") from e
    if wrong := differences(module.state_dict(), tensors):
        raise InputError(f"{file} holds another architecture ({len(wrong)} tensors differ, e.g. {wrong[0]})")
    module.load_state_dict(tensors)


def fresh_classifier(run: RunFolder, seed: int) -> nn.Module:
    """One with random weights, of the classes that the recipe of `run` names by import path.

    Raises:
        InputError: The run's recipe is damaged, or what it names cannot be built any more.
    """
    about, recipe = run.about(), _recipe(run)
    try:
        encoder = build_part("encoder", Callable[[int, int], Encoder], recipe["encoder"])
        classifier = build_part("classifier", Callable[[Encoder, int], LightningModule], recipe["classifier"])
    except KeyError as e:
        raise InputError(f"{run.path / 'recipe.yaml'} is damaged: it lacks {e}; restore it from a backup") from e
    with seeded(seed), building("the classifier or its encoder"):
        made: nn.Module = classifier(encoder(len(about["size"]), about["channels"]), len(about["classes"]))
    return made


def fresh_segmenter(run: RunFolder, seed: int) -> nn.Module:
    """As `fresh_classifier`, of a run that segments."""
    about, recipe = run.about(), _recipe(run)
    size = tuple(about["size"])
    network = build_part("network", Callable[[int, int, int], nn.Module], recipe["network"])
    segmenter = build_part("segmenter", Callable[[nn.Module, tuple[int, ...]], LightningModule], recipe["segmenter"])
    with seeded(seed), building("the segmenter or its network"):
        made: nn.Module = segmenter(network(len(size), about["channels"], about["structures"]), size)
    return made


def _recipe(run: RunFolder) -> dict[str, Any]:
    path = run.path / "recipe.yaml"
    try:
        recipe: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
        recipe.items()
    except (OSError, yaml.YAMLError, AttributeError) as e:
        raise InputError(f"{path} is missing or damaged ({type(e).__name__}); restore it from a backup") from e
    return recipe


def classifiers_of(run: RunFolder) -> dict[str | None, nn.Module]:
    """By site, where sites keep a part of the classifier (or segmenter) or all of it; else one, under None.

    Raises:
        InputError: as `fresh_classifier` and `load_classifier`.
    """
    memories = Checkpoint.open(run.path / "state")
    found: dict[str | None, nn.Module] = {}
    for site in run.about()["sites"]:
        memory = memories.get(site)
        own = {k.removeprefix(MODULE): t for k, t in memory.items() if k.startswith(MODULE)} | personal(memory)
        if own:
            found[site] = _trained(run)
            found[site].load_state_dict(found[site].state_dict() | own)
    return found or {None: _trained(run)}


def _trained(run: RunFolder) -> nn.Module:
    segments = run.about().get("command") == "segment"
    module = fresh_segmenter(run, 0) if segments else fresh_classifier(run, 0)
    load_classifier(run, module, SEGMENTER if segments else MODEL)
    return module.eval()
