"""`fedpretrain pretrain`: federated self-supervised pretraining of an encoder on images without labels."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, cast

import torch
from pytorch_lightning import LightningModule

from fedcore.algorithms.base import Algorithm, Visitor
from fedcore.algorithms.fedavg import FedAvg
from fedcore.algorithms.properties import share_of
from fedcore.data.cohort import Cohort
from fedcore.data.dataset import Images
from fedcore.data.source import Data
from fedcore.data.summary import summarize
from fedcore.errors import InputError, building
from fedcore.exchanges.base import Exchange, WithExchange
from fedcore.messages.agreement import Agreement
from fedcore.messages.request import EVALUATE, FAREWELL, TRAIN
from fedcore.messages.round import Round
from fedcore.models.base import Encoder
from fedcore.models.encoder_store import save_encoder
from fedcore.models.resnet import ResNet
from fedcore.privacy.policy import Policy
from fedcore.report.site_page import SitePage
from fedcore.runs.folder import RunFolder
from fedcore.seeds import seeded
from fedcore.server.farewell import say_farewell
from fedcore.server.job import Job
from fedcore.server.rounds import PeriodicEvaluation, Rounds
from fedcore.server.sites import Sites
from fedcore.site.farewell import Farewell
from fedcore.training.local_trainer import LocalTrainer
from fedcore.training.visit import Visit
from fedcore.transport.read_images import read_images
from fedcore.transport.simulation import agreed, by_workers, simulate_task
from fedssl.card import encoder_card
from fedssl.evaluation.gallery import Gallery
from fedssl.evaluation.probe import Probe
from fedssl.methods.base import Method
from fedssl.methods.simclr import SimCLR
from fedssl.site_files import OwnEncoder, Samples, about_encoder

PROBE = "probe"
"""A probe with a linear layer, asked outside of rounds."""
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
    """Pretrains an encoder across hospitals on unlabeled images, which stay at their hospital.

    Args:
        run: Folder of the run.
        encoder: The encoder to pretrain.
        method: The self-supervised objective.
        data: The images.
        algorithm: The federated algorithm; null: fedcore.algorithms.fedavg.FedAvg.
        exchange: What sites share in addition to weights, e.g. features; null: weights alone.
        visit: Local training in one round.
        rounds: The schedule.
        policy: What sites allow to be sent.
        probe: kNN accuracy and collapse metrics at the sites between rounds; null: no probe.
        loggers: Lightning loggers, of csv and tensorboard.
        seed: Seed of every generator.
        workers: Processes that train sites at the same time; several may share a GPU. 1: one site after another in
            this process.
    """
    run.prepare()
    task = Pretraining(_cooperation(algorithm, exchange), visit, encoder, method, probe or Probe(), seed)
    cohort = read_images(data)
    _require_training(cohort)
    agreement = agreed(cohort)
    module = task.module(agreement)
    local = LocalTrainer(module, share_of(task.algorithm, module), visit)
    simulation = simulate_task(task, cohort, local, agreement, policy, run.path / "sites", run.digest)
    evaluation, notes = periodic_evaluation(probe, policy)
    about = summarize(cohort) | {"command": "pretrain"}
    about["notes"] = [*about["notes"], *notes]
    job = Job(task.algorithm, rounds, evaluation, loggers, seed)
    finish(run, job.train_in(run, local, simulation, about, by_workers(workers)), local, seed)


@dataclass(frozen=True)
class Pretraining:
    """What server and sites build from a recipe of `pretrain`, see `fedcore.algorithms.task.Task`."""

    algorithm: Algorithm
    visit: Visit
    encoder: EncoderFactory
    method: Callable[[Encoder], Method]
    probe: Probe
    seed: int

    def module(self, agreement: Agreement) -> Method:
        """Raises InputError for an encoder or views that do not suit such images, before anything is trained."""
        with seeded(self.seed), building("the method or its encoder"):
            module = self.method(self.encoder(agreement.spatial_dims, agreement.channels))
        _require_config(module)
        with seeded(0), building("the views of an image"):
            module.views(torch.zeros(1, agreement.channels, *agreement.size))
        return module

    def words(self, agreement: Agreement, module: LightningModule) -> Mapping[str, Visitor]:
        files = (Samples(self.seed), Gallery(), OwnEncoder(agreement), SitePage("pretrain", agreement))
        return {
            TRAIN: self.algorithm, EVALUATE: self.probe, PROBE: replace(self.probe, linear=True),
            FAREWELL: Farewell(files, own="encoder."),
        }  # fmt: skip

    def parts(
        self, cohort: Cohort, module: LightningModule | None = None
    ) -> tuple[dict[str, Images], dict[str, Images]]:
        return cohort.split("train"), cohort.split("test")

    def mask_classes(self, cohort: Cohort) -> int:
        return 0


def task_of(recipe: Mapping[str, Any]) -> Pretraining:
    """Of a recipe that was read and built."""
    algorithm = _cooperation(recipe["algorithm"], recipe["exchange"])
    probe = recipe["probe"] or Probe()
    return Pretraining(algorithm, recipe["visit"], recipe["encoder"], recipe["method"], probe, recipe["seed"])


def _cooperation(algorithm: Algorithm | None, exchange: Exchange | None) -> Algorithm:
    algorithm = algorithm or FedAvg()
    return WithExchange(algorithm, exchange=exchange) if exchange else algorithm


def finish(run: RunFolder, sites: Sites, local: LocalTrainer, seed: int) -> None:
    """At the server: saves the federation's encoder, if all of it travels, and lets sites make what is their own."""
    module, count = cast(Method, local.module), run.about()["rounds"]
    names = [f"encoder.{name}" for name in module.encoder.state_dict()]
    stays = [name for name in names if not name.startswith(local.share)]
    if not stays:
        about = about_encoder(sites.agreement, module)
        save_encoder(run.path / "encoder", module.encoder, about, encoder_card(run, module))
    farewells = say_farewell(sites, local.shared(), sites.training, Round(count, count, seed))
    notes = []
    if 0 < len(stays) < len(names):
        notes += [
            f"{len(stays)} of the encoder's {len(names)} tensors stay at the sites ({stays[0]} ...), so there is no "
            "common encoder; each site has its own in sites/SITE/encoder"
        ]
    if stays and (others := [name for name in sites.training if name not in farewells.owners]):
        notes += [f"no encoder of {', '.join(others)}: nothing was trained there"]
    run.close("finished", notes=[*run.about()["notes"], *notes, *farewells.notes])
    print(_last_score(run.rounds()))


def periodic_evaluation(probe: Probe | None, policy: Policy) -> tuple[PeriodicEvaluation | None, list[str]]:
    """The evaluation between rounds, where sites may send scores; else none, and a note that says so."""
    if probe is None or policy.allows_metrics:
        return None if probe is None else PeriodicEvaluation(EVALUATE, probe.every), []
    note = (
        "No evaluation between rounds: scores are STATISTICS and the policy allows "
        f"{policy.max_level.name}{'' if policy.metrics else ' and no metrics'}. For scores, set "
        "policy.max_level to STATISTICS and policy.metrics to true."
    )
    print(note)
    return None, [note]


def _require_training(cohort: Cohort) -> None:
    """Raises InputError if no site has an image to train on."""
    if not cohort.split("train"):
        raise InputError("no site has a training image; give some rows of the manifest the split 'train'")


def _require_config(module: Method) -> None:
    """Raises InputError, before training, for an encoder that could not be built again from its file."""
    if not isinstance(getattr(module.encoder, "config", None), dict):
        raise InputError(
            f"encoder: {type(module.encoder).__name__} needs an attribute `config`, a dict of the arguments that "
            "build it (see fedcore.models.base.Encoder)"
        )
    try:
        json.dumps(module.encoder.config)
    except (TypeError, ValueError) as e:
        raise InputError(
            f"encoder: `config` of {type(module.encoder).__name__} must contain numbers, texts and lists of them, "
            f"which encoder.json can store: {e}"
        ) from e


def _last_score(rounds: Sequence[Mapping[str, Any]]) -> str:
    """The kNN score of the last probe: its mean over the sites, weighted by their test images."""
    last = next((record for record in reversed(rounds) if record["evaluation"]), None)
    if last is None:
        return "no kNN score: no site was evaluated"
    scores = [(m["knn"], m.get("images", 1.0)) for m in last["evaluation"].values() if "knn" in m]
    if not scores:
        return "no kNN score, which needs labels; feature std and effective rank are in the report"
    mean = sum(score * images for score, images in scores) / sum(images for _, images in scores)
    return f"kNN accuracy on test images after round {last['round'] + 1}: {mean:.3f}, mean of {len(scores)} sites"
