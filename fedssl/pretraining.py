"""`fedpretrain pretrain`: several hospitals train one encoder on images without labels."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from fedcore.algorithms.base import Algorithm
from fedcore.algorithms.fedavg import FedAvg
from fedcore.data.dataset import Cohort, Images
from fedcore.data.describe import describe
from fedcore.data.source import Data
from fedcore.errors import InputError, building
from fedcore.exchanges.base import Exchange, WithExchange
from fedcore.files.writing import write_arrays
from fedcore.messages.message import Tensors
from fedcore.models.base import Encoder
from fedcore.models.encoder_store import save_encoder
from fedcore.models.resnet import ResNet
from fedcore.privacy.policy import Policy
from fedcore.runs.folder import RunFolder
from fedcore.runs.progress import load
from fedcore.seeds import seeded
from fedcore.server.job import Job
from fedcore.server.rounds import PeriodicEvaluation, Rounds
from fedcore.training.site_state import MODULE, personal_weights
from fedcore.training.visit import Visit
from fedcore.transport.in_process import InProcess
from fedssl.card import card
from fedssl.evaluation.gallery import Gallery
from fedssl.evaluation.probe import Probe
from fedssl.methods.base import Method
from fedssl.methods.simclr import SimCLR

EncoderFactory = Callable[[int, int], Encoder]
"""(spatial_dims, channels) to an encoder; both come from the data."""


def pretrain(
    run: RunFolder,
    encoder: EncoderFactory = ResNet,
    method: Callable[[Encoder], Method] = SimCLR,
    data: Data = Data(),
    algorithm: Algorithm | None = None,
    exchange: Exchange | None = None,
    visit: Visit = Visit(),
    rounds: Rounds = Rounds(),
    policy: Policy = Policy(),
    probe: Probe | None = Probe(),
    loggers: tuple[Literal["csv", "tensorboard"], ...] = ("csv",),
    seed: int = 0,
    workers: int = 1,
) -> None:
    """Pretrains an encoder across hospitals on unlabeled images that stay where they are.

    Args:
        run: Folder of the run.
        encoder: What is pretrained.
        method: The self-supervised objective.
        data: The images.
        algorithm: How sites cooperate; null: fedcore.algorithms.fedavg.FedAvg.
        exchange: What they share besides weights, e.g. feature banks; null shares weights alone.
        visit: Local training in one round.
        rounds: The schedule.
        policy: What sites agree to send.
        probe: kNN score and collapse gauge at the sites between rounds; null measures nothing.
        loggers: Lightning loggers, of csv and tensorboard.
        seed: Seed of every generator.
        workers: Sites visited at the same time, each by a process of its own; several may share a GPU. 1: one after
            another in this process.
    """
    run.prepare()
    algorithm = algorithm or FedAvg()
    cohort = load(data)
    _require_training(cohort)
    with seeded(seed), building("the method or its encoder"):
        module = method(encoder(cohort.spatial_dims, cohort.channels))
    _require_kept(module)
    _require_views(module, cohort)
    job = Job(
        train=cohort.split("train"), test=cohort.split("test"),
        algorithm=WithExchange(algorithm, exchange=exchange) if exchange else algorithm, visit=visit, rounds=rounds,
        policy=policy, survey=PeriodicEvaluation(probe, probe.every) if probe else None, loggers=loggers, seed=seed,
        workers=workers,
    )  # fmt: skip
    transport = job.train_in(run, module, describe(cohort) | {"command": "pretrain"})
    for site, images in job.train.items():
        _keep_samples(run.site(site), images, module, seed)
    notes = _save(run, cohort, module, transport)
    run.close("finished", notes=[*run.about()["notes"], *notes, *Gallery().keep(transport)])
    print(_last_score(run.rounds()))


def _require_training(cohort: Cohort) -> None:
    """Raises InputError if no site has an image to train on."""
    if not cohort.split("train"):
        raise InputError("no site has a training image; give some rows of the manifest the split 'train'")


def _require_kept(module: Method) -> None:
    """Raises InputError for an encoder whose file could not say how to build it again, before it is trained."""
    if not isinstance(getattr(module.encoder, "config", None), dict):
        raise InputError(
            f"encoder: {type(module.encoder).__name__} needs an attribute `config`, the arguments that build it again "
            "(fedcore.models.base.Encoder); it has none"
        )
    try:
        json.dumps(module.encoder.config)
    except (TypeError, ValueError) as e:
        raise InputError(
            f"encoder: what {type(module.encoder).__name__} has in `config` must be numbers, texts and lists of them, "
            f"for encoder.json to hold: {e}"
        ) from e


def _require_views(module: Method, cohort: Cohort) -> None:
    """Raises InputError for views that are not for images of this size, before anything is trained."""
    with seeded(0), building("the views of an image"):
        module.views(torch.zeros(1, cohort.channels, *cohort.size))


def _save(run: RunFolder, cohort: Cohort, module: Method, transport: InProcess) -> list[str]:
    """The federation's encoder, if all of it travels, and the encoder of each site that has one of its own.

    Returns notes on what cannot be expected of these.
    """
    about: dict[str, Any] = {
        "classes": list(cohort.classes),
        "size": list(cohort.size),
        "method": type(module).__name__,
    }
    local, names = transport.local, [f"encoder.{name}" for name in module.encoder.state_dict()]
    stays = [name for name in names if not name.startswith(local.share)]
    if not stays:
        save_encoder(run.path / "encoder", module.encoder, about, card(run, module))
    shared = local.shared()
    sites = [transport.site(name) for name in transport.names()]
    owners = [site for site in sites if has_own_encoder(site.memory)]
    for site in owners:
        with local.at(site):
            local.load(shared | personal_weights(site.memory))
            text = card(run, module, site=site.name, alone=len(stays) == len(names))
            save_encoder(run.site(site.name) / "encoder", module.encoder, about, text)
    local.load(shared)  # a personal model was in their place
    notes = []
    if 0 < len(stays) < len(names):
        notes += [
            f"{len(stays)} of the encoder's {len(names)} tensors stay at the sites ({stays[0]} ...), so there is no "
            "common encoder; each site has its own in sites/SITE/encoder"
        ]
    if stays and len(owners) < len(sites):
        others = ", ".join(site.name for site in sites if site not in owners)
        notes += [f"no encoder of {others}: nothing was trained there"]
    return notes


def _last_score(rounds: Sequence[Mapping[str, Any]]) -> str:
    """The kNN score of the last probe: its mean over the sites, weighted by their test images."""
    last = next((record for record in reversed(rounds) if record["survey"]), None)
    if last is None:
        return "no score: no site was probed"
    told = [(of["knn"], of.get("images", 1.0)) for of in last["survey"].values() if "knn" in of]
    if not told:
        return "no kNN score, which needs labels; feature std and effective rank are in the report"
    mean = sum(score * images for score, images in told) / sum(images for _, images in told)
    return f"kNN accuracy on test images after round {last['round'] + 1}: {mean:.3f}, mean of {len(told)} sites"


def has_own_encoder(memory: Tensors) -> bool:
    """Whether a part of the encoder, or all of it, is the site's own."""
    own = {name.removeprefix(MODULE) for name in memory if name.startswith(MODULE)} | personal_weights(memory).keys()
    return any(name.startswith("encoder.") for name in own)


def _keep_samples(folder: Path, images: Images, module: Method, seed: int, count: int = 6) -> None:
    """A few images with their views for the report; they stay in the site's own folder."""
    places = np.unique(np.linspace(0, len(images) - 1, min(count, len(images))).astype(int))
    batch = images.batch(places)
    with seeded(seed), torch.no_grad():
        views = torch.stack(module.views(batch), dim=1)
    write_arrays(folder / "samples.npz", images=batch.half().numpy(), views=views.half().numpy())
