"""A federated training from a checked start to a committed end, whatever is trained.

Pretraining and fine-tuning differ in module, data and result; what they share is here: the run
folder, resuming, progress, logs, and the loop itself.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any, Literal

from pytorch_lightning import LightningModule

from fedcore.algorithms.base import Algorithm
from fedcore.algorithms.properties import message_types, metric_weight_of, round_count_user, share_of
from fedcore.data.dataset import Images
from fedcore.errors import InputError
from fedcore.messages.message import Empty, Message, weights_of
from fedcore.privacy.policy import Policy
from fedcore.runs.communication import ANSWERS, RoundRecord
from fedcore.runs.folder import RunFolder
from fedcore.runs.logs import Logs
from fedcore.runs.progress import Progress
from fedcore.server.rounds import PeriodicEvaluation, Rounds, federate
from fedcore.training.local_trainer import LocalTrainer
from fedcore.training.malloc import keep_large_blocks
from fedcore.training.visit import Visit
from fedcore.transport.in_process import InProcess, Transport
from fedcore.transport.workers import Workers


@dataclass(frozen=True)
class Job:
    """Everything a federated training needs beside its module."""

    train: Mapping[str, Images]
    """What each site trains on."""
    test: Mapping[str, Images] = field(default_factory=dict)
    """What each site measures on; a site without is not measured."""
    algorithm: Algorithm = field(kw_only=True)
    visit: Visit = Visit()
    rounds: Rounds = Rounds()
    policy: Policy = Policy()
    survey: PeriodicEvaluation | None = None
    loggers: Sequence[Literal["csv", "tensorboard"]] = ("csv",)
    seed: int = 0
    workers: int = 1
    """Sites visited at the same time, each by a process of its own; 1: one after another in this process."""

    def __post_init__(self) -> None:
        if self.workers < 1:
            raise InputError(f"workers must be at least 1, got {self.workers}")
        if weight := metric_weight_of(self.algorithm):
            self.policy.require_metrics(f"an average weighted by the metric {weight}")
        for part in (self.algorithm, self.survey and self.survey.visitor):
            for kind in message_types(part):
                self.policy.foresee(kind)
        for images in self.train.values():
            self.visit.require_supported(images.space)

    def train_in(self, run: RunFolder, module: LightningModule, about: dict[str, Any]) -> InProcess:
        """Runs or resumes the job; afterwards `module` holds the server's weights.

        Returns:
            The sites, which can be asked more in this process.
        """
        keep_large_blocks()
        local = LocalTrainer(module, share_of(self.algorithm, module), self.visit)
        self.policy.foresee_tensors(local.levels)
        local.optimizers()
        state = self.algorithm.start(local)
        survey, notes = self._asked()
        self._require_same_schedule(run)
        about |= {"rounds": self.rounds.count, "parameters": _parameters(module)}
        about |= {"buffers": {name: level.name for name, level in local.levels.items()}}
        checkpoint = run.begin(about | {"notes": [*about.get("notes", []), *notes]})
        if checkpoint.rounds:
            state = checkpoint.restore(state)
        begun, spent = time.perf_counter(), sum(r["seconds"] for r in run.rounds())
        with Progress(self.rounds.count, checkpoint.rounds) as progress, Logs(run, self.loggers) as logs:
            sites = InProcess(
                self.train, local, self.test, self.policy, checkpoint, run.path / "sites", progress.visiting
            )

            def finished(record: RoundRecord, state: Message) -> None:
                run.append(record)
                checkpoint.commit(record.round, state, run.recorded())
                logs.write(record)
                progress.finished(record)

            try:
                with self._transport(sites) as transport:
                    state = federate(
                        self.algorithm, transport, state, self.rounds, self.seed,
                        begin=checkpoint.rounds, survey=survey, finished=finished,
                    )  # fmt: skip
            except BaseException as e:
                run.broke(e, seconds=round(spent + time.perf_counter() - begun, 1))
                raise
        local.reset(weights_of(state))
        run.close("trained", seconds=round(spent + time.perf_counter() - begun, 1))
        return dataclasses.replace(sites, record=run.path / ANSWERS)

    def _require_same_schedule(self, run: RunFolder) -> None:
        """Raises InputError where a run is resumed with another number of rounds and what was done depends on it."""
        before = run.about().get("rounds", self.rounds.count)
        if before != self.rounds.count and run.rounds() and (part := round_count_user((self.algorithm, self.visit))):
            raise InputError(
                f"{run.path} was started with rounds.count {before}, and {part} depends on that number, so "
                f"{self.rounds.count} rounds would be another run; resume with --rounds.count {before}, or choose "
                "another --out"
            )

    def _asked(self) -> tuple[PeriodicEvaluation | None, list[str]]:
        """The survey, where sites may send what it asks for; else none, and a note that says so."""
        sends = set(message_types(self.survey.visitor)) if self.survey else set()
        if sends != {Empty} or self.policy.allows_metrics:
            return self.survey, []
        told = (
            "Sites were not asked for scores between rounds: scores are STATISTICS and the policy allows "
            f"{self.policy.max_level.name}{'' if self.policy.metrics else ' and no metrics'}. To have them, set "
            "policy.max_level to STATISTICS and policy.metrics to true."
        )
        print(told)
        return None, [told]

    def _transport(self, sites: InProcess) -> AbstractContextManager[Transport]:
        return Workers(sites, self.workers) if self.workers > 1 else nullcontext(sites)


def _parameters(module: LightningModule) -> int:
    return sum(p.numel() for p in module.parameters() if p.requires_grad)
