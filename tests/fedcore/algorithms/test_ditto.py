from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from fedcore.aggregation.mean import Mean
from fedcore.algorithms.base import Algorithm, FedAvg
from fedcore.algorithms.ditto import Ditto
from fedcore.algorithms.local_only import LocalOnly
from fedcore.algorithms.quantised import Quantised
from fedcore.algorithms.scaffold import Scaffold
from fedcore.errors import InputError
from fedcore.exchanges.base import WithExchange
from fedcore.messages.message import Tensors, flatten
from fedcore.server.rounds import QuorumMissed, Rounds
from fedcore.site.site import Round
from fedcore.training.local_trainer import personal
from fedcore.training.lr_schedule import Cosine
from fedcore.training.visit import Visit
from tests.fedcore.exchanges.test_base import Tally
from tests.fedcore.toys import Hospitals, Toy, assert_resumes, batches, hospitals, local, plain, run, same

VISIT = Visit(batch_size=4, max_epochs=2, accelerator="cpu")


def sites(names: str = "abc", share: tuple[str, ...] = Toy.share) -> Hospitals:
    return Hospitals(hospitals(names), local(VISIT, Toy(plain), share=share))


def own(transport: Hospitals, name: str) -> Tensors:
    return personal(transport.memories.get(name))


def as_loops(names: str, rounds: int, lam: float) -> dict[str, Tensors]:
    """Algorithm 1 of the paper: w by FedAvg, and each v with a spring to the w of its round."""
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


@pytest.mark.parametrize("inner", [FedAvg(), FedAvg(Mean("equal"), (Cosine(),)), Scaffold()])
def test_the_federation_is_that_of_the_wrapped_algorithm_to_the_bit(inner: Algorithm) -> None:
    """Its weights, and what its module keeps at the sites."""
    both, alone = sites(), sites()
    assert same(flatten(run(Ditto(inner), both)), flatten(run(inner, alone)))
    for name in "abc":
        memory = {k: t for k, t in both.memories.get(name).items() if not k.startswith("personal/")}
        assert same(memory, alone.memories.get(name))


def test_without_a_spring_every_site_is_alone_to_the_bit() -> None:
    together, apart = sites(), sites(share=())
    run(Ditto(lam=0.0), together)
    run(LocalOnly(), apart)
    for name in "abc":
        assert same({f"module/{k}": t for k, t in own(together, name).items()}, apart.memories.get(name))


def test_a_stiffer_spring_ends_nearer_to_the_federation() -> None:
    far = []
    for lam in (0.0, 1.0, 5.0):
        transport = sites()
        world = run(Ditto(lam=lam), transport).tensors["layer.weight"]
        far.append(float((own(transport, "a")["layer.weight"] - world).norm()))
    assert far[0] > far[1] > far[2] > 0


def test_its_loss_is_told_beside_the_federations() -> None:
    transport = sites("a")
    algorithm = Ditto()
    task = [("a", algorithm.start(transport.local))]
    (answer,) = transport.ask(algorithm, task, Round(0, 1, 0))
    assert answer.metrics.keys() == {"loss", "personal_loss"}  # type: ignore[union-attr]


def test_guides_of_its_own_act_on_the_personal_model_alone() -> None:
    guided, free = sites(), sites()
    assert same(run(Ditto(guides=(Cosine(),)), guided).tensors, run(Ditto(), free).tensors)
    assert not same(own(guided, "a"), own(free, "a"))


def test_an_algorithm_that_sends_no_weights_is_refused() -> None:
    with pytest.raises(QuorumMissed, match="LocalOnly sends none; wrap FedAvg, and wrap Ditto itself into Quantised"):
        run(Ditto(LocalOnly()), sites("a", share=()))


@pytest.mark.parametrize(
    "algorithm", [Ditto(), Ditto(Scaffold(sites=3)), Quantised(Ditto()), WithExchange(Ditto(), Tally())]
)
def test_a_stopped_run_resumes_to_the_bit(tmp_path: Path, algorithm: Any) -> None:
    assert_resumes(algorithm, sites, tmp_path, Rounds(4, per_round=2))


def test_one_optimizer_is_not_kept_for_two_models() -> None:
    with pytest.raises(InputError, match=r"visit.keep_optimizer must be false, because Ditto trains two models"):
        Ditto().start(local(Visit(keep_optimizer=True, accelerator="cpu")))


def test_lam_is_not_negative() -> None:
    with pytest.raises(ValueError, match=r"lam must be >= 0, got -1\.0"):
        Ditto(lam=-1.0)
