from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from math import exp, log, sqrt
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pytorch_lightning import Trainer
from pytorch_lightning.plugins.precision import MixedPrecision
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.optim import SGD

from fedcore.algorithms.ditto import Ditto
from fedcore.algorithms.fedavg import FedAvg
from fedcore.algorithms.fedbn import FedBN
from fedcore.algorithms.local_only import LocalOnly
from fedcore.algorithms.quantised import Quantised
from fedcore.data.dataset import Images
from fedcore.data.loader import loader
from fedcore.messages.message import weights_of
from fedcore.messages.round import Round
from fedcore.messages.tensors import Tensors
from fedcore.models.base import Encoder
from fedcore.server.rounds import QuorumMissed, Rounds
from fedcore.training.local_trainer import LocalTrainer
from fedcore.training.visit import Visit
from fedtune.classification.classifier import Classifier
from fedtune.classification.moon import MOON, moon_loss
from tests.fedcore.federating import assert_resumes, run, same
from tests.fedcore.toys import Hospitals, with_callbacks

VISIT = Visit(batch_size=4, max_epochs=2, accelerator="cpu")
RATE = 0.1
Sites = Callable[..., Hospitals]


def classifier(encoder: Encoder, **more: Any) -> Classifier:
    torch.manual_seed(1)
    for p in encoder.parameters():
        nn.init.normal_(p, std=0.3)
    return Classifier(encoder, 3, optimizer=lambda p: SGD(p, lr=RATE), augment=None, **more)


@pytest.fixture
def data(images: Callable[..., Images]) -> dict[str, Images]:
    return {name: images([k % 3 for k in range(n)], name=name) for name, n in (("a", 8), ("b", 12))}


@pytest.fixture
def sites(toy: Callable[..., Encoder], data: dict[str, Images]) -> Sites:
    def make(share: tuple[str, ...] | None = None, **more: Any) -> Hospitals:
        module = classifier(toy(), **more)
        return Hospitals(data, LocalTrainer(module, module.share if share is None else share, VISIT))

    return make


def moon(sites: Hospitals, **settings: float) -> Hospitals:
    """The same sites, which train with MOON."""
    return with_callbacks(sites, MOON(**settings))


def vectors(seed: int, count: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(5, 3, generator=generator) for _ in range(count)]


@given(st.integers(0, 99), st.floats(0.1, 2))
def test_the_loss_equals_a_loop_over_images(seed: int, tau: float) -> None:
    z, sent, last = vectors(seed, 3)

    def sim(a: list[float], b: list[float]) -> float:
        dot = sum(x * y for x, y in zip(a, b, strict=True))
        return dot / sqrt(sum(x * x for x in a) * sum(y * y for y in b))

    total = 0.0
    for x, g, p in zip(z.tolist(), sent.tolist(), last.tolist(), strict=True):
        near, far = exp(sim(x, g) / tau), exp(sim(x, p) / tau)
        total -= log(near / (near + far))
    assert moon_loss(z, sent, last, tau).item() == pytest.approx(total / 5, rel=1e-4)


def test_the_loss_by_hand() -> None:
    """z along z_glob and across z_prev: -log(e^2 / (e^2 + 1)) = 0.1269; the other way round 2 more."""
    x, y = torch.tensor([[2.0, 0.0]]), torch.tensor([[0.0, 5.0]])
    assert moon_loss(x, x, y, 0.5).item() == pytest.approx(0.12693, abs=1e-5)
    assert moon_loss(x, y, x, 0.5).item() == pytest.approx(2.12693, abs=1e-5)
    assert moon_loss(x, y, y, 0.5).item() == pytest.approx(log(2))


def test_the_loss_does_not_depend_on_feature_norms() -> None:
    z, sent, last = vectors(0, 3)
    torch.testing.assert_close(moon_loss(9 * z, 0.1 * sent, 5 * last, 0.5), moon_loss(z, sent, last, 0.5))


def as_loops(module: Classifier, data: dict[str, Images], rounds: int, mu: float, tau: float) -> Tensors:
    """Algorithm 1 of the paper with one loss of both terms, in models of their own."""
    total = sum(len(d) for d in data.values())
    world = copy.deepcopy(module)
    previous: dict[str, Classifier] = {}
    for index in range(rounds):
        turn, trained = Round(index, rounds, 0), {}
        for name, images in data.items():
            net = copy.deepcopy(world).train()
            sent, last = copy.deepcopy(world).eval(), previous.get(name)
            steps = SGD(net.parameters(), lr=RATE)
            order = torch.Generator().manual_seed(turn.seed_of(name, "order"))
            batches = loader(images, 4, True, True, "labels", order)
            for _ in range(2):
                for x, y in batches:
                    z = net.encoder(x)
                    loss = cross_entropy(net.head(z), y)
                    if last is not None:
                        with torch.no_grad():
                            near, far = sent.encoder(x), last.eval().encoder(x)
                        loss = loss + mu * moon_loss(z, near, far, tau)
                    steps.zero_grad()
                    loss.backward()
                    steps.step()
            trained[name] = previous[name] = net
        for k, t in world.state_dict().items():
            mean: Any = sum(len(data[n]) / total * net.state_dict()[k] for n, net in trained.items())
            t.copy_(mean if t.is_floating_point() else mean.round())
    return dict(world.state_dict())


@pytest.mark.parametrize(("mu", "tau"), [(1.0, 0.5), (5.0, 0.2)])
def test_a_run_equals_the_papers_algorithm(
    sites: Sites, toy: Callable[..., Encoder], data: dict[str, Images], mu: float, tau: float
) -> None:
    found = run(FedAvg(), moon(sites(), mu=mu, tau=tau)).tensors
    expected = as_loops(classifier(toy()), data, 3, mu, tau)
    assert found.keys() == expected.keys()
    for k, t in expected.items():
        torch.testing.assert_close(found[k], t, rtol=1e-4, atol=1e-5)
    assert not same(found, run(FedAvg(), sites()).tensors)


def test_mu_zero_is_fedavg(sites: Sites) -> None:
    found, expected = run(FedAvg(), moon(sites(), mu=0.0)).tensors, run(FedAvg(), sites()).tensors
    for k, t in expected.items():
        torch.testing.assert_close(found[k], t)


def test_the_first_visit_is_fedavg(sites: Sites) -> None:
    """It is FedAvg's to the bit, and reports no MOON loss."""
    assert same(run(FedAvg(), moon(sites()), Rounds(1)).tensors, run(FedAvg(), sites(), Rounds(1)).tensors)
    transport = moon(sites())
    state = FedAvg().start(transport.local)
    first, second = (
        next(iter(transport.ask(FedAvg(), [("a", state)], Round(index, 2, 0)))).metrics  # type: ignore[union-attr]
        for index in range(2)
    )
    assert "moon_loss" not in first
    assert second["moon_loss"] > 0


def test_the_previous_encoder_stays_at_its_site(sites: Sites) -> None:
    transport = moon(sites())
    run(FedAvg(), transport, Rounds(1))
    with transport.local.at(transport.site("b")):
        encoder = transport.local.module.encoder.state_dict()  # the module as the last site left it
        memory = transport.memories.get("b")
    assert {k.removeprefix("moon/") for k in memory if k.startswith("moon/")} == set(encoder)
    assert all(torch.equal(memory[f"moon/{k}"], t) for k, t in encoder.items())


def test_no_hook_is_left_after_a_visit(sites: Sites, monkeypatch: pytest.MonkeyPatch) -> None:
    transport = moon(sites())
    run(FedAvg(), transport, Rounds(2))
    module = transport.local.module
    assert not module.encoder._forward_hooks
    monkeypatch.setattr(type(module.loss), "mean_loss", lambda *_: 1 / 0)
    state = FedAvg().start(sites().local)
    list(transport.ask(FedAvg(), [("a", state)], Round(1, 2, 0)))
    assert not module.encoder._forward_hooks


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_mixed_precision_is_close_to_full_precision(
    toy: Callable[..., Encoder], data: dict[str, Images], precision: Any
) -> None:
    large = {name: replace(d, pixels=d.pixels.repeat(4, 2).repeat(4, 3)) for name, d in data.items()}  # 32 x 32

    def trained(visit: Visit) -> Tensors:
        encoder = toy()
        encoder.layers.insert(0, nn.AvgPool2d(4))
        module = classifier(encoder)
        return run(
            FedAvg(), moon(Hospitals(large, LocalTrainer(module, module.share, visit)), mu=5.0), Rounds(2)
        ).tensors

    found = trained(Visit(batch_size=4, accelerator="cpu", precision=precision))
    expected = trained(Visit(batch_size=4, accelerator="cpu"))
    torch.testing.assert_close(found["head.weight"], expected["head.weight"], rtol=0.05, atol=0.02)


def test_a_grad_scaler_scales_the_added_gradient(sites: Sites, monkeypatch: pytest.MonkeyPatch) -> None:
    """With float16's scaler, which a CPU has as well: unscaled, so great a weight would all but vanish."""

    def trainer(visit: Visit, callbacks: list[Any]) -> Trainer:
        plugin = MixedPrecision("16-mixed", "cpu", torch.amp.GradScaler("cpu", init_scale=2.0**10))
        return Trainer(
            max_epochs=2, accelerator="cpu", callbacks=callbacks, plugins=[plugin], logger=False, limit_val_batches=0,
            enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
        )  # fmt: skip

    name = "encoder.layers.1.weight"
    without, full = (run(FedAvg(), s, Rounds(2)).tensors[name] for s in (sites(), moon(sites(), mu=20.0)))
    monkeypatch.setattr(Visit, "trainer", trainer)
    scaled = run(FedAvg(), moon(sites(), mu=20.0), Rounds(2)).tensors[name]
    assert (scaled - full).norm() < 0.05 * (full - without).norm()


@pytest.mark.parametrize(
    "algorithm", [FedAvg(), Quantised(), Ditto(), FedBN()], ids=["fedavg", "int8", "ditto", "fedbn"]
)
def test_a_resumed_run_is_bit_identical(sites: Sites, tmp_path: Path, algorithm: Any) -> None:
    share = tuple(algorithm.share(sites().local.module)) if isinstance(algorithm, FedBN) else None
    assert_resumes(algorithm, lambda: moon(sites(share)), tmp_path, Rounds(4))
    assert weights_of(run(algorithm, moon(sites(share))))


def test_a_frozen_or_unshared_encoder_is_an_error(sites: Sites) -> None:
    with pytest.raises(QuorumMissed, match=r"no received weight is named encoder.\*"):
        run(FedAvg(), moon(sites(freeze_encoder=True)))
    with pytest.raises(QuorumMissed, match=r"no received weight is named encoder.\*"):
        run(LocalOnly(), moon(sites(())))
    with pytest.raises(QuorumMissed, match="MOON trains the encoder, and this one is frozen"):
        run(FedAvg(), moon(sites(("encoder.", "head."), freeze_encoder=True)))


@pytest.mark.parametrize("wrong", [{"mu": -1.0}, {"tau": 0.0}])
def test_invalid_settings_are_errors(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="mu must be >= 0 and tau positive, got MOON"):
        MOON(**wrong)
