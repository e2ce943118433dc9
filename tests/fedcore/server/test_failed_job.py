"""Jobs that fail, or that are refused before they begin."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from fedcore.aggregation.mean import Mean
from fedcore.algorithms.fedavg import FedAvg
from fedcore.algorithms.quantised import Quantised
from fedcore.errors import InputError
from fedcore.exchanges.base import WithExchange
from fedcore.messages.answer import Contribution
from fedcore.messages.message import Weights
from fedcore.messages.reveals import Reveals
from fedcore.messages.round import Round
from fedcore.privacy.policy import Policy
from fedcore.runs.folder import RunFolder
from fedcore.server.rounds import QuorumMissed
from fedcore.site.site import Site
from fedcore.training.local_trainer import LocalTrainer
from fedcore.training.visit import Visit
from tests.fedcore.federating import same
from tests.fedcore.server.test_job import job, start, told
from tests.fedcore.toy_exchanges import ShareTotals, Total
from tests.fedcore.toys import Toy, broken, hospitals


class Asking:
    def visit(self, site: Site, down: Weights, local: LocalTrainer, turn: Round) -> Contribution[Total]:
        raise NotImplementedError


def test_what_an_error_says_is_in_its_sites_folder_alone(tmp_path: Path) -> None:
    class Quoting(Toy):
        def training_step(self, images: Tensor, _: int) -> Tensor:
            if len(images) == 2:  # site b's only batch
                raise RuntimeError("patient John")
            return super().training_step(images, _)

    train = hospitals("a") | {"b": hospitals("b")["b"].take([0, 1])}
    start(tmp_path, job(train=train), Quoting())
    holders = {str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*") if p.is_file() and b"John" in p.read_bytes()}
    assert holders == {"sites/b/errors.jsonl"}
    assert told(tmp_path)[0]["refused"] == {"b": "RuntimeError during train; see errors.jsonl of the site"}


def test_a_precision_that_trains_wrongly_begins_nothing() -> None:
    with pytest.raises(InputError, match="these are 8 x 8: set 32-true"):
        job(visit=Visit(accelerator="cpu", precision="bf16-mixed")).simulation(Path(), Toy())


@pytest.mark.parametrize(
    "changes",
    [
        {"algorithm": WithExchange(FedAvg(), exchange=ShareTotals())},
        {"algorithm": Quantised(WithExchange(FedAvg(), exchange=ShareTotals()))},
        {"evaluator": Asking()},
    ],
    ids=["exchange", "wrapped", "evaluation"],
)
def test_what_the_policy_forbids_is_refused_before_there_is_a_run(changes: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="Total reveals STATISTICS, the policy allows WEIGHTS"):
        job(**changes, policy=Policy(Reveals.WEIGHTS)).simulation(Path(), Toy())
    job(**changes, policy=Policy(Reveals.STATISTICS)).simulation(Path(), Toy())


@pytest.mark.parametrize("wrap", [lambda a: a, Quantised], ids=["plain", "wrapped"])
def test_an_average_that_takes_a_metric_is_refused_where_none_may_leave(wrap: Callable[[Any], Any]) -> None:
    weighted = wrap(FedAvg(Mean("loss")))
    with pytest.raises(InputError, match="weighted by the metric loss needs metrics of the sites"):
        job(weighted, policy=Policy(metrics=False)).simulation(Path(), Toy())
    with pytest.raises(InputError, match=r"weighted by the metric gain, which no class .* declares \(declared: loss\)"):
        job(wrap(FedAvg(Mean("gain")))).simulation(Path(), Toy())
    job(weighted).simulation(Path(), Toy())
    job(wrap(FedAvg(Mean("equal"))), policy=Policy(metrics=False)).simulation(Path(), Toy())


def test_the_end_of_a_failed_run_is_told_and_can_be_resumed(tmp_path: Path) -> None:
    with pytest.raises(QuorumMissed):
        start(tmp_path, job(train={"a": broken("a")}))
    about = RunFolder(tmp_path).about()
    assert about["status"] == "failed"
    assert about["error"].startswith("round 0: no site gave a usable answer\n  a: the loss became nan")
    assert same(start(tmp_path, job(), resume=True), start(tmp_path.with_name("whole"), job()))


def test_a_fault_of_ours_is_named_by_kind_alone(tmp_path: Path) -> None:
    class Faulty(FedAvg):
        def merge(self, *_: Any) -> Any:
            raise ZeroDivisionError("patient John")

    with pytest.raises(ZeroDivisionError):
        start(tmp_path, job(Faulty()))
    assert RunFolder(tmp_path).about()["error"] == "ZeroDivisionError"


def test_a_resume_with_another_module_is_refused(tmp_path: Path) -> None:
    class Wider(Toy):
        def __init__(self) -> None:
            super().__init__()
            self.layer = torch.nn.Linear(64, 3, bias=False)
            self.register_parameter("extra", torch.nn.Parameter(torch.zeros(1)))
            self.share = (*Toy.share, "extra")

    start(tmp_path, job())
    with pytest.raises(InputError, match="another architecture"):
        start(tmp_path, job(), Wider(), resume=True)
