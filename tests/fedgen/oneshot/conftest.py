from __future__ import annotations

from pathlib import Path

import pytest

from tests.fedgen.oneshot.finetuned import finetuned


@pytest.fixture(scope="module")
def local_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return finetuned(tmp_path_factory.mktemp("finetuned") / "local")


@pytest.fixture(scope="module")
def fedavg_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return finetuned(tmp_path_factory.mktemp("finetuned") / "fedavg", algorithm="fedcore.algorithms.fedavg.FedAvg")
