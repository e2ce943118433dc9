from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from pytorch_lightning import Callback

from fedcore.aggregation.mean import Mean
from fedcore.algorithms.base import Algorithm
from fedcore.algorithms.ditto import Ditto
from fedcore.algorithms.fedavg import FedAvg
from fedcore.algorithms.local_only import LocalOnly
from fedcore.algorithms.quantised import Quantised
from fedcore.algorithms.scaffold import Scaffold
from fedcore.errors import InputError
from fedcore.exchanges.base import WithExchange
from fedcore.messages.message import flatten
from fedcore.messages.round import Round
from fedcore.messages.tensors import Tensors
from fedcore.server.rounds import QuorumMissed, Rounds
from fedcore.site.site import Site
from fedcore.training.lr_schedule import Cosine
from fedcore.training.site_state import personal_weights
from fedcore.training.visit import Visit
from tests.fedcore.federating import assert_resumes, run, same
from tests.fedcore.toy_exchanges import ShareTotals
from tests.fedcore.toys import Hospitals, Toy, batches, hospitals, local, plain, with_callbacks

VISIT = Visit(batch_size=4, max_epochs=2, accelerator="cpu")


def sites(names: str = "abc", share: tuple[str, ...] = Toy.share) -> Hospitals:
    return Hospitals(hospitals(names), local(VISIT, Toy(plain), share=share))


def own(transport: Hospitals, name: str) -> Tensors:
    return personal_weights(transport.memories.get(name))


def as_loops(names: str, rounds: int, lam: float) -> dict[str, Tensors]:
    """Algorithm 1 of the paper: w by FedAvg, and each v with a proximal term towards the w of its round."""
    data, rate = hospitals(names), 0.1
    total = sum(len(d) for d in data.values())
    world = {k: t.clone() for k, t in Toy(plain).state_dict().items()}
    v = {name: Toy(plain) for name in names}
    for index in range(rounds):
        trained = {}
        for name in names:
            turn, w = Round(index, rounds, 0), Toy(plain)
            w.load_state_dict(world)
            for model, pull in ((w, 0.0), (v[name], lam)):
                for batch in batches(data[name], VISIT, turn):
                    model.zero_grad()
                    model.loss(batch).backward()
                    with torch.no_grad():
                        for k, p in model.named_parameters():
                            p -= rate * (p.grad + pull * (p - world[k]))
            trained[name] = w.state_dict()
        for k, t in world.items():
            mean = sum(len(data[name]) / total * trained[name][k] for name in names)
            world[k] = mean if t.is_floating_point() else mean.round().long()  # type: ignore[union-attr]
    return {name: model.state_dict() for name, model in v.items()}


@pytest.mark.parametrize("lam", [0.1, 1.0])
def test_personal_models_equal_the_paper_as_loops(lam: float) -> None:
    transport = sites()
    run(Ditto(lam=lam), transport)
    for name, expected in as_loops("abc", 3, lam).items():
        found = own(transport, name)
        assert found.keys() == expected.keys()
        for k, t in expected.items():
            torch.testing.assert_close(found[k], t, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("inner", [FedAvg(), FedAvg(Mean("equal")), Scaffold()])
def test_the_federation_is_that_of_the_wrapped_algorithm_to_the_bit(inner: Algorithm) -> None:
    """Its weights, and what its module keeps at the sites."""
    both, alone = sites(), sites()
    assert same(flatten(run(Ditto(inner), both)), flatten(run(inner, alone)))
    for name in "abc":
        memory = {k: t for k, t in both.memories.get(name).items() if not k.startswith("personal/")}
        assert same(memory, alone.memories.get(name))


def test_with_lam_0_each_site_trains_exactly_as_alone() -> None:
    together, apart = sites(), sites(share=())
    run(Ditto(lam=0.0), together)
    run(LocalOnly(), apart)
    for name in "abc":
        assert same({f"module/{k}": t for k, t in own(together, name).items()}, apart.memories.get(name))


def test_with_larger_lam_personal_models_end_nearer_to_the_federations() -> None:
    far = []
    for lam in (0.0, 1.0, 5.0):
        transport = sites()
        world = run(Ditto(lam=lam), transport).tensors["layer.weight"]
        far.append(float((own(transport, "a")["layer.weight"] - world).norm()))
    assert far[0] > far[1] > far[2] > 0


def test_the_loss_of_the_personal_model_is_a_metric_too() -> None:
    transport = sites("a")
    algorithm = Ditto()
    task = [("a", algorithm.start(transport.local))]
    (answer,) = transport.ask(algorithm, task, Round(0, 1, 0))
    assert answer.metrics.keys() == {"loss", "personal_loss"}  # type: ignore[union-attr]


def test_local_callbacks_act_on_both_models() -> None:
    scheduled, constant = with_callbacks(sites(), Cosine()), sites()
    assert not same(run(Ditto(), scheduled).tensors, run(Ditto(), constant).tensors)
    assert not same(own(scheduled, "a"), own(constant, "a"))


@dataclass(frozen=True)
class CountVisits:
    """A callback that counts its visits in the site's memory."""

    def callback(self, anchor: Tensors, site: Site, turn: Round) -> Callback:
        site.memory = site.memory | {"visits": site.memory.get("visits", torch.tensor(0)) + 1}
        return Callback()


def test_what_callbacks_store_for_the_personal_model_is_kept_apart() -> None:
    transport = with_callbacks(sites("a"), CountVisits())
    run(Ditto(), transport)
    memory = transport.memories.get("a")
    assert (memory["visits"], memory["ditto/visits"]) == (3, 3)


def test_an_algorithm_that_sends_no_weights_is_an_error() -> None:
    with pytest.raises(QuorumMissed, match="LocalOnly sends none; wrap FedAvg, and wrap Ditto itself into Quantised"):
        run(Ditto(LocalOnly()), sites("a", share=()))


@pytest.mark.parametrize(
    "algorithm", [Ditto(), Ditto(Scaffold(sites=3)), Quantised(Ditto()), WithExchange(Ditto(), exchange=ShareTotals())]
)
def test_a_stopped_run_resumes_to_the_bit(tmp_path: Path, algorithm: Any) -> None:
    assert_resumes(algorithm, sites, tmp_path, Rounds(4, per_round=2))


def test_one_optimizer_is_not_kept_for_two_models() -> None:
    with pytest.raises(InputError, match=r"visit.keep_optimizer must be false, because Ditto trains two models"):
        Ditto().start(local(Visit(keep_optimizer=True, accelerator="cpu")))


def test_lam_is_not_negative() -> None:
    with pytest.raises(ValueError, match=r"lam must be >= 0, got -1\.0"):
        Ditto(lam=-1.0)
