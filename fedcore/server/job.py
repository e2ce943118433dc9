"""A federated training from a checked start to a committed end, whatever is trained.

Pretraining and fine-tuning differ in module, data and result; what they share is here: the run
folder, resuming, progress, logs, and the loop itself. The server's side: no image is opened here.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Any, Literal

from pytorch_lightning import LightningModule

from fedcore.algorithms.base import Algorithm
from fedcore.algorithms.properties import round_count_user
from fedcore.errors import InputError
from fedcore.messages.message import Message, weights_of
from fedcore.runs.communication import ANSWERS, RoundRecord
from fedcore.runs.folder import RunFolder
from fedcore.runs.logs import Logs
from fedcore.runs.progress import Progress
from fedcore.server.rounds import PeriodicEvaluation, Rounds, federate
from fedcore.server.sites import Sites
from fedcore.training.local_trainer import LocalTrainer
from fedcore.training.malloc import keep_large_blocks
from fedcore.training.visit import Visit
from fedcore.transport.base import Transport

Through = Callable[[Transport], AbstractContextManager[Transport]]
"""How rounds reach the sites, such as by worker processes; what comes after goes to the transport itself."""


@dataclass(frozen=True)
class Job:
    """Everything that the server needs for a training except the module."""

    algorithm: Algorithm
    rounds: Rounds = Rounds()
    evaluation: PeriodicEvaluation | None = None
    loggers: Sequence[Literal["csv", "tensorboard"]] = ("csv",)
    seed: int = 0

    def train_in(
        self, run: RunFolder, local: LocalTrainer, transport: Transport, about: dict[str, Any],
        through: Through = nullcontext, sites: Sites | None = None,
    ) -> Sites:  # fmt: skip
        """Runs or resumes the job; afterwards the module of `local` holds the server's weights.

        Args:
            run: Folder of the run.
            local: The server's module; in a simulation the sites' too.
            transport: The sites.
            about: What `run.json` says of images and module.
            through: How rounds reach the sites.
            sites: The sites, where they have agreed already; None: they are asked for their facts.

        Returns:
            The sites, which can be asked more.
        """
        keep_large_blocks()
        local.optimizers()
        state = self.algorithm.start(local)
        self._require_same_schedule(run, local.visit)
        about |= {"rounds": self.rounds.count, "parameters": _parameters(local.module)}
        about |= {"buffers": {name: level.name for name, level in local.levels.items()}}
        checkpoint = run.begin(about)
        if checkpoint.rounds:
            state = checkpoint.restore(state)
        begun, spent = time.perf_counter(), sum(r["seconds"] for r in run.rounds())
        try:
            sites = sites or Sites.of(transport, run.name, run.digest)
            sites.counted = dict(checkpoint.counted)
            with Progress(self.rounds.count, checkpoint.rounds) as progress, Logs(run, self.loggers) as logs:

                def finished(record: RoundRecord, state: Message) -> None:
                    run.append(record)
                    transport.flush(record.sites)
                    checkpoint.commit(record.round, state, run.recorded(), sites.counted)
                    logs.write(record)
                    progress.finished(record)

                sites.on_request = progress.visiting
                with through(transport) as sites.transport:
                    state = federate(
                        self.algorithm, sites, state, self.rounds, self.seed,
                        begin=checkpoint.rounds, evaluation=self.evaluation, finished=finished,
                    )  # fmt: skip
        except BaseException as e:
            run.broke(e, seconds=round(spent + time.perf_counter() - begun, 1))
            raise
        local.reset(weights_of(state))
        run.close("trained", seconds=round(spent + time.perf_counter() - begun, 1))
        return replace(sites, transport=transport, record=run.path / ANSWERS, on_request=None)

    def _require_same_schedule(self, run: RunFolder, visit: Visit) -> None:
        """Raises InputError where a run is resumed with another number of rounds and what was done depends on it."""
        before = run.about().get("rounds", self.rounds.count)
        if before != self.rounds.count and run.rounds() and (part := round_count_user((self.algorithm, visit))):
            raise InputError(
                f"{run.path} was started with rounds.count {before}, and {part} depends on that number, so "
                f"a run of {self.rounds.count} rounds is a different run; resume with --rounds.count {before}, or "
                "choose another --out"
            )


def _parameters(module: LightningModule) -> int:
    return sum(p.numel() for p in module.parameters() if p.requires_grad)
