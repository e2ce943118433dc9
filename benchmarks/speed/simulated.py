"""Rounds of a simulation, with audit files and the checkpoint of each round, as a training of the kit has them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from fedcore.algorithms.fedavg import FedAvg
from fedcore.data.dataset import Images
from fedcore.messages.message import Message
from fedcore.messages.request import TRAIN
from fedcore.runs.checkpoint import Checkpoint
from fedcore.runs.communication import RoundRecord
from fedcore.server.rounds import Rounds, federate
from fedcore.server.sites import Sites
from fedcore.training.local_trainer import LocalTrainer
from fedcore.transport.base import Transport
from fedcore.transport.simulation import by_workers, simulate


def simulated(local: LocalTrainer, images: Mapping[str, Images], folder: Path | None = None) -> Transport:
    """Sites that can be asked to train; `folder` is the parent of their own folders."""
    return simulate(images, local, {TRAIN: FedAvg()}, folder=folder)


def run_rounds(
    local: LocalTrainer, transport: Transport, folder: Path, rounds: int = 1, workers: int = 1,
    on_round: Callable[[], None] = lambda: None,
) -> None:  # fmt: skip
    """Rounds of FedAvg from the module's weights; `on_round` is called after each commit."""
    algorithm, checkpoint = FedAvg(), Checkpoint(folder / "state")
    sites = Sites.of(transport)

    def finished(record: RoundRecord, state: Message) -> None:
        checkpoint.commit(record.round, state, None, sites.counted)
        on_round()

    with by_workers(workers)(transport) as sites.transport:
        federate(algorithm, sites, algorithm.start(local), Rounds(rounds), 0, finished=finished)
