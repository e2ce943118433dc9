"""Classifiers and segmenters of finished runs: their weights on disk, and networks built again from a run's recipe."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

from pytorch_lightning import LightningModule
from torch import nn

from fedcore.config.recipe import build_part
from fedcore.errors import InputError, building
from fedcore.files.reading import ADVICE, read_yaml
from fedcore.messages.tensors import Tensors
from fedcore.models.base import Encoder
from fedcore.models.weights import build_with_weights, read_weights, save_weights
from fedcore.runs.folder import RunFolder
from fedcore.runs.record import SiteMemories
from fedcore.seeds import seeded
from fedcore.training.site_state import MODULE, personal_weights

Network = TypeVar("Network", bound=nn.Module)
_ADVICE = "give a finished run, or copy its folder again"
MODEL, SEGMENTER = "classifier/classifier.safetensors", "segmenter/segmenter.safetensors"


def save_classifier(run: RunFolder, module: nn.Module, path: str = MODEL) -> None:
    save_weights(run.path / path, module)


def trained(run: RunFolder, fresh: Callable[[], Network], path: str = MODEL) -> Network:
    """What `fresh` builds, with the weights of a fine-tuned run.

    Raises:
        InputError: They are missing, damaged or of another architecture; nothing of its size was built then.
    """
    tensors = read_weights(run.path / path, _ADVICE)
    try:
        return build_with_weights(tensors, fresh, lambda network: network)
    except ValueError as e:
        raise InputError(f"{run.path / path} does not fit the run's recipe: {e}") from e


def fresh_classifier(run: RunFolder, seed: int) -> nn.Module:
    """One with random weights, of the classes that the recipe of `run` names by import path.

    Raises:
        InputError: The run's recipe is damaged, or what it names cannot be built or is not trusted.
    """
    with seeded(seed), building("the classifier or its encoder"):
        return _classifier(run)()


def _classifier(run: RunFolder) -> Callable[[], nn.Module]:
    kinds = {"encoder": Callable[[int, int], Encoder], "classifier": Callable[[Encoder, int], LightningModule]}
    about, (encoder, classifier) = about_of(run, "classes"), _parts(run, kinds)
    return lambda: classifier(encoder(len(about["size"]), about["channels"]), len(about["classes"]))


def _segmenter(run: RunFolder) -> Callable[[], nn.Module]:
    kinds = {
        "network": Callable[[int, int, int], nn.Module],
        "segmenter": Callable[[nn.Module, tuple[int, ...]], LightningModule],
    }
    about, (network, segmenter) = about_of(run, "mask_classes"), _parts(run, kinds)
    size = tuple(about["size"])
    return lambda: segmenter(network(len(size), about["channels"], about["mask_classes"]), size)


def about_of(run: RunFolder, names: str) -> dict[str, Any]:
    """What run.json says; it has the images' size and channels, the sites, and `names`: classes or structures.

    Raises:
        InputError: It lacks one of these.
    """
    about = run.about()
    kinds = {"size": list, "channels": int, "sites": dict, "classes": list, "mask_classes": int}
    wrong = [k for k in ("size", "channels", "sites", names) if not (isinstance(about.get(k), kinds[k]) and about[k])]
    if wrong or not all(isinstance(side, int) for side in about["size"]):
        raise InputError(f"{run.path / 'run.json'} is damaged: see {', '.join(wrong or ['size'])}; {ADVICE}")
    return about


def _parts(run: RunFolder, kinds: Mapping[str, Any]) -> list[Any]:
    """What keys of the run's recipe stand for."""
    path = run.path / "recipe.yaml"
    recipe = read_yaml(path)
    if missing := [key for key in kinds if key not in recipe]:
        raise InputError(f"{path} is damaged: it lacks {', '.join(missing)}; {ADVICE}")
    try:
        return [build_part(key, kind, recipe[key]) for key, kind in kinds.items()]
    except InputError as e:
        raise InputError(f"{path}: {e}") from e


def classifiers_of(run: RunFolder) -> dict[str | None, nn.Module]:
    """By site, where sites keep a part of the classifier (or segmenter) or all of it; else one, under None.

    Raises:
        InputError: as `fresh_classifier` and `trained`.
    """
    segments = run.about().get("command") == "segment"
    file, fresh = (SEGMENTER, _segmenter(run)) if segments else (MODEL, _classifier(run))

    def network() -> nn.Module:
        with seeded(0):
            return trained(run, fresh, file).eval()

    found: dict[str | None, nn.Module] = {}
    for site, own in own_parts(run.memories(), run.about()["sites"]).items():
        found[site] = network()
        with building(f"the model of {site}"):
            found[site].load_state_dict(found[site].state_dict() | own)
    return found or {None: network()}


def own_parts(memories: SiteMemories, sites: Iterable[str]) -> dict[str, Tensors]:
    """What each site that has a part of the model, or all of it, to itself has in place of what travels."""
    found: dict[str, Tensors] = {}
    for site in sites:
        memory = memories.get(site)
        own = {k.removeprefix(MODULE): t for k, t in memory.items() if k.startswith(MODULE)} | personal_weights(memory)
        found |= {site: own} if own else {}
    return found
