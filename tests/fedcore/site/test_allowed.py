"""Only metrics that a class of the recipe declares leave a site; names of others are in no answer and no audit log."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from pytorch_lightning import Callback
from torch import Tensor

from fedcore.aggregation.mean import Mean
from fedcore.algorithms.ditto import Ditto
from fedcore.algorithms.fedavg import FedAvg
from fedcore.algorithms.quantised import Quantised
from fedcore.errors import InputError
from fedcore.exchanges.base import WithExchange
from fedcore.messages.answer import Contribution, Refusal
from fedcore.messages.message import Empty, Message, Weights
from fedcore.messages.request import EVALUATE, TRAIN
from fedcore.messages.round import Round
from fedcore.messages.wire import answer_bytes
from fedcore.privacy.policy import Policy
from fedcore.server.rounds import QuorumMissed, Rounds
from fedcore.site.allowed import allowed_metrics, require_allowed
from fedcore.site.site import Site
from fedcore.training.local_trainer import LocalTrainer
from fedcore.training.visit import Visit
from tests.fedcore.federating import federate
from tests.fedcore.toy_exchanges import ShareTotals
from tests.fedcore.toys import Hospitals, Toy, hospitals, local, plain

NAME = "pixel_17"
TURN = Round(0, 1, 0)


class Leaky(Toy):
    """A method that puts data into the name of a metric."""

    logs: tuple[str, ...] = (NAME,)

    def __init__(self) -> None:
        super().__init__(plain)

    def training_step(self, images: Tensor, at: int) -> Tensor:
        for name in self.logs:
            self.log(name, images[0, 0, 0, 0], on_step=False, on_epoch=True, batch_size=len(images))
        return super().training_step(images, at)


class Declaring(Leaky):
    metric_names = ("loss", NAME)


class Learning(Leaky):
    """Declares a name only when it has seen images."""

    def training_step(self, images: Tensor, at: int) -> Tensor:
        type(self).metric_names = ("loss", NAME)
        return super().training_step(images, at)


class Reporting(Callback):
    def report(self) -> dict[str, float]:
        return {NAME: 0.5}


@dataclass(frozen=True)
class LeakyCallback:
    def callback(self, anchor: Any, site: Site, turn: Round) -> Callback:
        return Reporting()


class DeclaringCallback(LeakyCallback):
    metric_names = (NAME,)


class LeakyAlgorithm(FedAvg):
    def visit(self, site: Site, down: Weights, local: LocalTrainer, turn: Round) -> Contribution[Weights]:
        metrics = local.fit(site, turn, down.tensors, [Reporting()])
        return Contribution(site.name, Weights(local.shared()), site.size, metrics)


class DeclaringAlgorithm(LeakyAlgorithm):
    metric_names = (NAME,)


@dataclass(frozen=True)
class Evaluation:
    def visit(self, site: Site, down: Message, local: LocalTrainer, turn: Round) -> Contribution[Empty]:
        return Contribution(site.name, Empty(), 1, {NAME: 0.5})


class DeclaringEvaluation(Evaluation):
    metric_names = (NAME,)


def visit(*callbacks: Any) -> Visit:
    return Visit(batch_size=4, accelerator="cpu", callbacks=callbacks)


def answered(
    folder: Path, trainer: LocalTrainer, word: str = TRAIN, policy: Policy = Policy(), **words: Any
) -> Contribution[Message] | Refusal:
    """What site a answers."""
    of = Hospitals(hospitals("a"), trainer, folder=folder, policy=policy)
    sites = of.sites(**{TRAIN: FedAvg()} | words)
    (answer,) = sites.ask(word, [("a", FedAvg().start(trainer))], TURN)
    return answer


def require_silent(answer: Any, folder: Path, source: str) -> None:
    """It is a refusal; the undeclared name is in the site's errors.jsonl and nowhere else."""
    assert isinstance(answer, Refusal)
    assert answer.reason.startswith(f"{source} reported 1 metric that no class of the recipe declares; add each name")
    assert NAME not in answer.reason
    assert answer.cause is None
    assert NAME.encode() not in answer_bytes(answer)
    assert {file.name for file in (folder / "a").rglob("*") if file.is_file() and NAME in file.read_text()} == {
        "errors.jsonl"
    }
    (line,) = [json.loads(line) for line in (folder / "a" / "errors.jsonl").read_text().splitlines()]
    assert f"not declared: {NAME}" in line["error"]
    (audited,) = [json.loads(line) for line in (folder / "a" / "audit.jsonl").read_text().splitlines()]
    assert (audited["what"], audited["text"]) == ("refusal", answer.reason)


def test_an_undeclared_metric_of_a_module_is_refused_and_its_name_stays_at_the_site(tmp_path: Path) -> None:
    require_silent(answered(tmp_path, local(visit(), Leaky())), tmp_path, "Leaky")


def test_a_name_that_a_visit_adds_to_the_declared_ones_is_refused(tmp_path: Path) -> None:
    require_silent(answered(tmp_path, local(visit(), Learning())), tmp_path, "Learning")


def test_an_undeclared_metric_of_a_callback_is_refused(tmp_path: Path) -> None:
    require_silent(answered(tmp_path, local(visit(LeakyCallback()))), tmp_path, "LeakyCallback")


@pytest.mark.parametrize(
    ("algorithm", "source"),
    [(LeakyAlgorithm(), "LeakyAlgorithm"), (Quantised(LeakyAlgorithm()), "Quantised or LeakyAlgorithm")],
    ids=["plain", "wrapped"],
)
def test_an_undeclared_metric_of_an_algorithm_is_refused(algorithm: Any, source: str, tmp_path: Path) -> None:
    require_silent(answered(tmp_path, local(visit()), train=algorithm), tmp_path, source)


def test_an_undeclared_metric_of_an_evaluation_is_refused(tmp_path: Path) -> None:
    require_silent(answered(tmp_path, local(visit()), EVALUATE, evaluate=Evaluation()), tmp_path, "Evaluation")


def test_an_evaluation_does_not_send_the_metrics_of_a_training(tmp_path: Path) -> None:
    trainer = local(visit(), Declaring())
    require_silent(answered(tmp_path, trainer, EVALUATE, evaluate=Evaluation()), tmp_path, "Evaluation")


@pytest.mark.parametrize("how", [
    {"trainer": lambda: local(visit(), Declaring())},
    {"trainer": lambda: local(visit(DeclaringCallback()))},
    {"trainer": lambda: local(visit(LeakyCallback()), Declaring())},  # whoever declares it
    {"trainer": lambda: local(visit()), "train": DeclaringAlgorithm()},
    {"trainer": lambda: local(visit()), "word": EVALUATE, "evaluate": DeclaringEvaluation()},
], ids=["module", "callback", "both", "algorithm", "evaluation"])  # fmt: skip
def test_a_declared_metric_is_sent(how: dict[str, Any], tmp_path: Path) -> None:
    how = dict(how)
    answer = answered(tmp_path, how.pop("trainer")(), **how)
    assert isinstance(answer, Contribution), answer.reason
    assert NAME in answer.metrics
    assert not (tmp_path / "a" / "errors.jsonl").exists()


def test_an_undeclared_metric_is_in_no_record_of_the_run() -> None:
    with pytest.raises(QuorumMissed) as missed:
        federate(FedAvg(), of := Hospitals(hospitals("ab"), local(visit(), Leaky())), FedAvg().start(of.local),
                 Rounds(1), 0)  # fmt: skip
    assert "Leaky reported 1 metric" in str(missed.value)
    assert NAME not in str(missed.value)


def names(algorithm: Any, trainer: LocalTrainer) -> frozenset[str]:
    return allowed_metrics({TRAIN: algorithm}, trainer)[TRAIN].names


def test_what_may_leave_is_what_module_callbacks_and_algorithms_declare() -> None:
    trainer = local(visit(DeclaringCallback()))
    assert names(FedAvg(), local()) == {"loss"}
    assert names(FedAvg(), trainer) == {"loss", NAME}
    assert names(Quantised(Ditto()), trainer) == {"loss", NAME, "personal_loss", f"personal_{NAME}"}
    assert names(WithExchange(DeclaringAlgorithm(), exchange=ShareTotals()), local()) == {"loss", NAME}
    assert allowed_metrics({EVALUATE: Evaluation()}, trainer)[EVALUATE].names == frozenset()


class TooMany(Toy):
    metric_names = tuple(f"recall_{at}" for at in range(33))


class NoTuple(Toy):
    metric_names = "loss"  # type: ignore[assignment]


def test_declarations_that_cannot_hold_are_found_before_training() -> None:
    with pytest.raises(InputError, match="FedAvg and what it trains declare 34 metrics, and at most 32 leave a site"):
        require_allowed(Policy(), {TRAIN: FedAvg()}, local(module=TooMany()))
    with pytest.raises(InputError, match=r"NoTuple\.metric_names must be a tuple of names"):
        local(module=NoTuple())
    with pytest.raises(InputError, match=r"the metric gain, which no class of the recipe declares \(declared: loss\)"):
        require_allowed(Policy(), {TRAIN: FedAvg(Mean("gain"))}, local())
    require_allowed(Policy(), {TRAIN: FedAvg(Mean(NAME))}, local(visit(DeclaringCallback())))
