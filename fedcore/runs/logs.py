"""Metrics of every round through Lightning's own loggers."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from pytorch_lightning.loggers import CSVLogger, Logger

from fedcore.files.writing import explained
from fedcore.runs.communication import RoundRecord
from fedcore.runs.folder import RunFolder


class Logs:
    """`logs/metrics.csv`, and TensorBoard's files if requested. A resumed run writes the lines of all rounds again."""

    def __init__(self, run: RunFolder, names: Sequence[Literal["csv", "tensorboard"]]):
        self.folder = run.path / "logs"
        with warnings.catch_warnings():
            # A resumed run finds the folder of the first attempt, and rewrites it below.
            warnings.filterwarnings("ignore", message=".*exists and is not empty.*")
            self.loggers = [_make(name, run) for name in names]
            for record in run.rounds():
                self._log(record)

    def __enter__(self) -> Logs:
        return self

    def __exit__(self, *_: object) -> None:
        for logger in self.loggers:
            logger.finalize("success")

    def write(self, record: RoundRecord) -> None:
        self._log(record.as_dict())

    def _log(self, record: Mapping[str, Any]) -> None:
        scalars = _scalars(record)
        try:
            for logger in self.loggers:
                logger.log_metrics(scalars, step=record["round"])
                logger.save()
        except OSError as e:
            raise explained(e, self.folder / "metrics.csv", 0) from e


def _make(name: str, run: RunFolder) -> Logger:
    if name == "csv":
        return CSVLogger(run.path, name="", version="logs")
    from pytorch_lightning.loggers import TensorBoardLogger

    return TensorBoardLogger(run.path, name="", version="logs")


def _scalars(record: Mapping[str, Any]) -> dict[str, float]:
    scalars: dict[str, float] = {"seconds": record["seconds"]}
    for site, entry in record["sites"].items():
        scalars |= {f"{site}/{name}": value for name, value in entry["metrics"].items()}
        scalars |= {
            f"{site}/up_bytes": sum(entry["up"].values()),
            f"{site}/down_bytes": sum(entry["down"].values()),
        }
    for site, values in record["evaluation"].items():
        scalars |= {f"{site}/{name}": value for name, value in values.items()}
    return scalars
