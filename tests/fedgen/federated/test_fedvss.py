from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from pytorch_lightning import Trainer
from pytorch_lightning.plugins.precision import MixedPrecision
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.optim import SGD

from fedcore.algorithms.base import FedAvg
from fedcore.algorithms.local_only import LocalOnly
from fedcore.augment.views import Views
from fedcore.data.dataset import Images
from fedcore.data.loader import loader
from fedcore.data.phantom.phantoms import Phantoms
from fedcore.data.source import Data
from fedcore.errors import Refused
from fedcore.messages.message import Tensors
from fedcore.models.encoders import Encoder, ResNet
from fedcore.privacy.policy import Policy
from fedcore.runs.classifiers import MODEL
from fedcore.runs.folder import RunFolder
from fedcore.seeds import seeded
from fedcore.server.rounds import Rounds
from fedcore.site.site import Round, Site
from fedcore.training.local_trainer import LocalTrainer
from fedcore.training.visit import Visit
from fedgen.federated.fedvss import (
    FedVSS,
    adversarial_samples,
    aside,
    confident_samples,
    evaluating,
    kl_divergence,
    perturbed,
    unit_rms,
)
from fedtune.classification.classifier import MILD, Classifier
from fedtune.classification.finetuning import finetune
from tests.fedgen.members import shapes, untrained
from tests.stopping import killed_in

TURN = Round(0, 1, seed=0)
EPS, XI = 0.02, 0.01
SHAPES = pytest.mark.parametrize("shape", [(1, 8, 8), (3, 4, 6), (2, 4, 3, 2)], ids=["2D", "colour", "3D"])


def hospital(count: int = 12, sign: float = 1.0) -> Site:
    """Images of 8 x 8 pixels within (-0.5, 0.5), of three classes."""
    pixels = (sign * np.random.default_rng(0).uniform(-0.5, 0.5, (count, 1, 8, 8))).astype(np.float16)
    labels = torch.arange(count) % 3
    return Site("a", Images("a", pixels, np.full(count, "train"), labels, np.arange(count)))


def classifier(encoder: Encoder, rate: float = 0.1, **more: Any) -> Classifier:
    torch.manual_seed(1)
    for p in encoder.parameters():
        nn.init.normal_(p, std=0.3)
    return Classifier(encoder, 3, optimizer=lambda p: SGD(p, lr=rate), **{"augment": None, **more})


def visited(
    module: Classifier, *guides: Any, site: Site | None = None, **visit: Any
) -> tuple[Tensors, dict[str, float]]:
    """The module's state after one visit under FedAvg, and its metrics."""
    local = LocalTrainer(
        module, module.share, Visit(**{"batch_size": 4, "accelerator": "cpu", "max_epochs": 2, **visit})
    )
    algorithm = FedAvg(guides=guides)
    metrics = algorithm.visit(site or hospital(), algorithm.start(local), local, TURN).metrics
    return {k: t.clone() for k, t in module.state_dict().items()}, metrics


def same(a: Tensors, b: Tensors) -> bool:
    return a.keys() == b.keys() and all(torch.equal(t, b[k]) for k, t in a.items())


class Linear(nn.Module):
    """f(x) = W x + b on flattened images, in float64."""

    def __init__(self, shape: tuple[int, ...], classes: int):
        super().__init__()
        self.layer = nn.Linear(math.prod(shape), classes).double()

    def forward(self, images: Tensor) -> Tensor:
        return self.layer(images.flatten(1))


def inner(n: int, shape: tuple[int, ...]) -> Tensor:
    """Images so far from -1 and 1 that no sample is clipped."""
    return torch.empty(n, *shape, dtype=torch.float64).uniform_(-0.5, 0.5)


# The arithmetic


def test_the_kl_divergence_equals_the_hand_computed_one() -> None:
    """KL((0.9, 0.1) || (0.5, 0.5)) = 0.9 ln 1.8 + 0.1 ln 0.2 = 0.3681; the other way round it is 0.5108."""
    p, q = torch.tensor([[0.9, 0.1]]).log() + 3, torch.tensor([[0.5, 0.5]]).log() - 1
    assert kl_divergence(p, q).item() == pytest.approx(0.36806, abs=1e-5)
    assert kl_divergence(q, p).item() == pytest.approx(0.51083, abs=1e-5)
    pair = kl_divergence(torch.cat([p, q]), torch.cat([q, q]))
    assert pair.item() == pytest.approx(0.36806 / 2, abs=1e-5)  # a mean over images, not over classes


@SHAPES
def test_a_unit_direction_has_a_root_mean_square_of_1_per_image(shape: tuple[int, ...]) -> None:
    direction = torch.randn(4, *shape)
    for one, image in zip(unit_rms(direction), direction, strict=True):
        square = sum(float(x) ** 2 for x in image.flatten()) / image.numel()
        torch.testing.assert_close(one, image / square**0.5)


def test_a_unit_direction_is_scale_free_and_zeros_remain_zeros() -> None:
    direction = torch.randn(4, 1, 8, 8)
    scales = torch.tensor([1e-30, 1e-12, 1.0, 1e30]).view(-1, 1, 1, 1)
    torch.testing.assert_close(unit_rms(direction * scales), unit_rms(direction))
    assert torch.equal(unit_rms(torch.zeros(2, 1, 8, 8)), torch.zeros(2, 1, 8, 8))


def test_a_perturbed_image_is_clipped_to_the_range_of_images() -> None:
    x, r = torch.tensor([[[-1.0, 0.0, 0.99]]]), torch.tensor([[[-0.02, 0.02, 0.02]]])
    torch.testing.assert_close(perturbed(x, r), torch.tensor([[[-1.0, 0.02, 1.0]]]))


# The searches, where the result is known


@SHAPES
def test_for_a_linear_model_of_two_classes_the_most_adversarial_direction_is_found(shape: tuple[int, ...]) -> None:
    """KL(f(x) || f(x + r)) = p (1 - p) / 2 (w . r)^2 + O(r^3) with w = w_1 - w_2: r = +-eps w / |w|."""
    f, x = Linear(shape, 2), inner(5, shape)
    logits = f(x).detach()
    r = adversarial_samples(f, x, logits, EPS, XI) - x
    w = (f.layer.weight[0] - f.layer.weight[1]).detach().view(1, *shape)
    expected = EPS * unit_rms(w).expand_as(x)
    torch.testing.assert_close(r, expected * (r * expected).flatten(1).sum(1).sign().view(-1, *[1] * len(shape)))
    for _ in range(100):
        other = EPS * unit_rms(torch.randn_like(x))
        assert kl_divergence(logits, f(x + other)) < kl_divergence(logits, f(x + r))


@SHAPES
def test_for_a_linear_model_the_direction_is_the_hessian_times_the_random_start(
    shape: tuple[int, ...],
) -> None:
    """H = W' (diag p - p p') W of each image, for any number of classes."""
    f, x = Linear(shape, 4), inner(5, shape)
    logits = f(x).detach()
    torch.manual_seed(3)
    r = adversarial_samples(f, x, logits, EPS, 1e-5) - x
    torch.manual_seed(3)
    d = unit_rms(torch.randn_like(x)).flatten(1)
    W = f.layer.weight.detach()
    for at, p in enumerate(logits.softmax(1)):
        H = W.T @ (p.diag() - torch.outer(p, p)) @ W
        torch.testing.assert_close(r[at].flatten(), EPS * unit_rms((H @ d[at])[None])[0], rtol=1e-3, atol=1e-5)


@SHAPES
def test_for_a_linear_model_of_two_classes_the_most_confident_image_is_found(shape: tuple[int, ...]) -> None:
    """CE falls with w . r alone, w = w_y - w_other: r = eps w / |w|, and no other r within eps has a lower CE."""
    f, x, labels = Linear(shape, 2), inner(6, shape), torch.arange(6) % 2
    r = confident_samples(f, x, labels, EPS) - x
    w = (f.layer.weight[labels] - f.layer.weight[1 - labels]).detach().view_as(x)
    torch.testing.assert_close(r, EPS * unit_rms(w))
    for _ in range(100):
        other = EPS * torch.rand(6).view(-1, *[1] * len(shape)) * unit_rms(torch.randn_like(x))
        with_other, with_ours = (cross_entropy(f(x + by), labels, reduction="none") for by in (other, r))
        assert (with_other > with_ours).all()


@SHAPES
def test_the_searches_equal_loops_over_images(shape: tuple[int, ...]) -> None:
    f = nn.Sequential(Linear(shape, 6), nn.Tanh(), nn.Linear(6, 3).double())
    x, labels = inner(4, shape), torch.tensor([0, 2, 1, 2])
    logits = f(x).detach()
    torch.manual_seed(5)
    local, confident = adversarial_samples(f, x, logits, EPS, XI), confident_samples(f, x, labels, EPS)
    torch.manual_seed(5)
    noise = torch.randn_like(x)
    for at in range(4):
        p = logits[at].softmax(0)
        r = (XI * noise[at] / noise[at].square().mean().sqrt()).requires_grad_()
        q = f((x[at] + r)[None])[0].softmax(0)
        sum(p[k] * (p[k].log() - q[k].log()) for k in range(3)).backward()  # type: ignore[union-attr]
        torch.testing.assert_close(local[at], x[at] + EPS * r.grad / r.grad.square().mean().sqrt())
        y = x[at].clone().requires_grad_()
        (-f(y[None])[0].softmax(0)[labels[at]].log()).backward()
        torch.testing.assert_close(confident[at], x[at] - EPS * y.grad / y.grad.square().mean().sqrt())


def test_the_search_in_float32_finds_the_direction_of_float64(toy: Callable[..., Encoder]) -> None:
    exact, x = classifier(toy()).double(), inner(8, (1, 8, 8))
    rough = copy.deepcopy(exact).float()
    found = []
    for module, images in ((exact, x), (rough, x.float())):
        f = aside(module)
        r = (XI * unit_rms(torch.randn(8, 1, 8, 8, generator=torch.Generator().manual_seed(0)))).to(images)
        with torch.no_grad():
            logits = f(images)
        r.requires_grad_()
        found.append(unit_rms(torch.autograd.grad(kl_divergence(logits, f(images + r)), r)[0]).double())
    torch.testing.assert_close(found[0], found[1], rtol=0.01, atol=0.01)


# Magnitudes


def relative_to_cross_entropy(settings: FedVSS) -> tuple[float, float]:
    """For a half-trained network, three steps after the server's model: the weighted adversarial loss over the cross
    entropy, and the length of the weighted high-confidence loss's gradient over that of the cross entropy."""
    x, y = shapes(96, seed=0)
    module = untrained(0)
    adam = torch.optim.Adam(module.parameters(), lr=0.01)
    sent: Tensors = {}
    for step in range(28):
        if step == 25:
            sent = copy.deepcopy(module.state_dict())
        adam.zero_grad()
        cross_entropy(module(x), y).backward()
        adam.step()

    def length(loss: Tensor) -> float:
        return float(torch.cat([t.flatten() for t in torch.autograd.grad(loss, list(module.parameters()))]).norm())

    f, server = aside(module), aside(module, sent)
    task, logits = cross_entropy(f(x), y), f(x).detach()
    local = kl_divergence(logits, f(adversarial_samples(f, x, logits, settings.eps, settings.xi)))
    with evaluating(module):
        confident = confident_samples(server, x, y, settings.eps)
        target = server(confident).detach()
    ratio = settings.lambda_l * float(local.detach()) / float(task.detach())
    return ratio, length(settings.lambda_g * kl_divergence(target, f(confident))) / length(task)


def test_the_adversarial_loss_is_below_the_cross_entropy_and_the_confident_one_has_a_gradient() -> None:
    torch.manual_seed(0)
    ratio, gradient = relative_to_cross_entropy(FedVSS())
    assert 0.005 < ratio < 0.5
    assert 0.1 < gradient < 2
    assert relative_to_cross_entropy(FedVSS(lambda_l=1.0, eps=0.02))[0] > 1  # would exceed the cross entropy


def test_the_confident_loss_has_no_gradient_for_the_servers_own_model() -> None:
    f, server, x = Linear((1, 8, 8), 3), Linear((1, 8, 8), 3), inner(4, (1, 8, 8))
    confident = confident_samples(server, x, torch.tensor([0, 1, 2, 0]), EPS)
    target = server(confident).detach()
    for module, learns in ((server, False), (f, True)):
        gradient = torch.autograd.grad(kl_divergence(target, module(confident)), module.layer.weight)[0]
        assert bool(gradient.norm() > 1e-3) == learns


# Side effects


def test_the_searches_do_not_change_the_module(toy: Callable[..., Encoder]) -> None:
    module, x, labels = classifier(toy()).train(), hospital().images.batch(range(12)), torch.arange(12) % 3
    before = copy.deepcopy(module.state_dict())
    adversarial_samples(aside(module), x, aside(module)(x).detach(), EPS, XI)
    with evaluating(module):
        confident_samples(aside(module, dict(module.state_dict())), x, labels, EPS)
    assert same(dict(module.state_dict()), before)
    assert all(p.grad is None for p in module.parameters())
    assert torch.equal(aside(module)(x), module(x))  # it is the module, in its own mode
    assert not same(dict(module.state_dict()), before)  # while the module itself updates its buffers


def test_running_statistics_stay_those_of_real_images(toy: Callable[..., Encoder]) -> None:
    start = copy.deepcopy(classifier(toy()).state_dict())
    plain, guided = (visited(classifier(toy(), rate=0.0), *guides)[0] for guides in ((), (FedVSS(),)))
    assert same(plain, guided)
    assert not torch.equal(plain["encoder.layers.2.running_mean"], start["encoder.layers.2.running_mean"])


def test_no_hook_remains_after_the_visit(toy: Callable[..., Encoder], monkeypatch: pytest.MonkeyPatch) -> None:
    module = classifier(toy())
    visited(module, FedVSS())
    assert not module._forward_pre_hooks
    monkeypatch.setattr(module, "forward", lambda images: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        visited(module, FedVSS())
    assert not module._forward_pre_hooks


# Whole visits


def by_the_paper(module: Classifier, settings: FedVSS) -> Iterator[tuple[float, float]]:
    """Local training as in the paper: one loss per step, with samples made by copies of the model."""
    sent, site = copy.deepcopy(module).eval(), hospital().images
    optimizer = module.configure_optimizers()
    module.train()
    module.on_train_epoch_start()
    order = torch.Generator().manual_seed(TURN.seed_of("a", "order"))
    for x, y in [batch for _ in range(2) for batch in loader(site, 4, True, True, "labels", order)]:
        searcher, for_local, for_global = (copy.deepcopy(module) for _ in range(3))
        logits = searcher(x).detach()
        r = (settings.xi * unit_rms(torch.randn_like(x))).requires_grad_()
        kl_divergence(logits, searcher(x + r)).backward()
        x_l = (x + settings.eps * unit_rms(r.grad)).clamp(-1, 1)
        x_g = x.clone().requires_grad_()
        cross_entropy(sent(x_g), y).backward()
        x_g = (x_g - settings.eps * unit_rms(x_g.grad)).clamp(-1, 1).detach()
        weights = dict(module.named_parameters())
        local = kl_divergence(logits, torch.func.functional_call(for_local, weights, (x_l,)))
        with torch.no_grad():
            target = sent(x_g)
        confident = kl_divergence(target, torch.func.functional_call(for_global, weights, (x_g,)))
        total = cross_entropy(module(x), y) + settings.lambda_l * local + settings.lambda_g * confident
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
        yield float(local.detach()), float(confident.detach())


@pytest.mark.parametrize("frozen", [False, True], ids=["trainable encoder", "frozen encoder"])
def test_a_visit_equals_a_loop_of_the_paper(toy: Callable[..., Encoder], frozen: bool) -> None:
    settings = FedVSS(lambda_l=0.7, lambda_g=1.3)
    ours, expected = classifier(toy(), frozen=frozen), classifier(toy(), frozen=frozen)
    found, metrics = visited(ours, settings)
    with seeded(TURN.seed_of("a")):
        losses = list(by_the_paper(expected, settings))
    for name, t in expected.state_dict().items():
        torch.testing.assert_close(found[name], t, rtol=1e-3, atol=1e-5, msg=lambda m, name=name: f"{name}: {m}")
    local, confident = np.mean(losses[-3:], axis=0)  # of the last epoch
    assert metrics["adversarial_kl"] == pytest.approx(local, rel=1e-3)
    assert metrics["confident_kl"] == pytest.approx(confident, rel=1e-3)
    plain, _ = visited(classifier(toy(), frozen=frozen))
    assert not torch.allclose(found["head.weight"], plain["head.weight"], rtol=1e-2)


def test_with_both_weights_0_it_is_fedavg_to_the_bit(toy: Callable[..., Encoder]) -> None:
    none = FedVSS(lambda_l=0.0, lambda_g=0.0)
    plain, reported = visited(classifier(toy(), augment=MILD))
    guided, metrics = visited(classifier(toy(), augment=MILD), none)
    assert same(guided, plain)
    assert metrics == reported


@pytest.mark.parametrize("name", ["adversarial_kl", "confident_kl"])
def test_each_kind_of_sample_can_be_used_alone(toy: Callable[..., Encoder], name: str) -> None:
    settings = FedVSS(lambda_l=float(name == "adversarial_kl"), lambda_g=float(name == "confident_kl"))
    assert visited(classifier(toy()), settings)[1].keys() == {"loss", name}


def test_samples_are_made_from_augmented_images(toy: Callable[..., Encoder]) -> None:
    """Augmentation that negates every image gives the result of a site with negated images."""

    class Negative(Views):
        def __call__(self, images: Tensor) -> list[Tensor]:
            return [-images]

    views, _ = visited(classifier(toy(), augment=Negative()), FedVSS())
    images, _ = visited(classifier(toy()), FedVSS(), site=hospital(sign=-1.0))
    assert same(views, images)


def test_mixed_precision_ends_near_full_precision(toy: Callable[..., Encoder]) -> None:
    start = copy.deepcopy(classifier(toy()).state_dict())
    full, _ = visited(classifier(toy()), FedVSS())
    mixed, metrics = visited(classifier(toy()), FedVSS(), precision="bf16-mixed")
    for name in ("encoder.layers.1.weight", "head.weight"):
        assert (mixed[name] - full[name]).norm() < 0.1 * (full[name] - start[name]).norm()
    assert all(math.isfinite(value) for value in metrics.values())


def test_searches_are_in_full_precision_and_losses_in_the_trainer_s(
    toy: Callable[..., Encoder], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Own loss; prediction, search and loss of adversarial samples; search, target and loss of confident ones."""
    forward, passes = Classifier.forward, []

    def noting(self: Classifier, images: Tensor) -> Tensor:
        logits = forward(self, images)
        passes.append(logits.dtype)
        return logits

    monkeypatch.setattr(Classifier, "forward", noting)
    visited(classifier(toy()), FedVSS(), precision="bf16-mixed", max_steps=1)
    low, full = torch.bfloat16, torch.float32
    assert passes == [low, full, full, low, full, full, low]


@pytest.mark.parametrize("scale", [1.0, 1024.0])
def test_gradients_have_the_scale_of_float16_training(
    toy: Callable[..., Encoder], monkeypatch: pytest.MonkeyPatch, scale: float
) -> None:
    def trainer(visit: Visit, callbacks: list[Any]) -> Trainer:
        plugin = MixedPrecision("16-mixed", "cpu", torch.amp.GradScaler("cpu", init_scale=scale))
        return Trainer(
            max_epochs=2, accelerator="cpu", callbacks=callbacks, plugins=[plugin], logger=False, limit_val_batches=0,
            enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
        )  # fmt: skip

    full, _ = visited(classifier(toy()), FedVSS())
    start = copy.deepcopy(classifier(toy()).state_dict())
    monkeypatch.setattr(Visit, "trainer", trainer)
    mixed, _ = visited(classifier(toy()), FedVSS())
    assert (mixed["head.weight"] - full["head.weight"]).norm() < 0.02 * (
        full["head.weight"] - start["head.weight"]
    ).norm()


def test_with_local_only_the_servers_model_is_the_sites_own(toy: Callable[..., Encoder]) -> None:
    module = classifier(toy())
    local = LocalTrainer(module, (), Visit(batch_size=4, accelerator="cpu"))
    algorithm = LocalOnly(guides=(FedVSS(),))
    metrics = algorithm.visit(hospital(), algorithm.start(local), local, TURN).metrics
    assert metrics.keys() == {"loss", "adversarial_kl", "confident_kl"}


@pytest.mark.parametrize("dims", [2, 3])
def test_a_resumed_finetuning_ends_with_the_same_bits(tmp_path: Path, dims: int) -> None:
    whole = finetuned(tmp_path / "whole", dims)
    with killed_in(1):
        finetuned(tmp_path / "parts", dims)
    assert finetuned(tmp_path / "parts", dims, resume=True).read_bytes() == whole.read_bytes()
    assert safetensors.torch.load_file(whole)["encoder.conv1.weight"].dim() == 2 + dims


def finetuned(folder: Path, dims: int, resume: bool = False) -> Path:
    """The weights after two rounds at two small hospitals."""
    run = RunFolder(folder, "seed: 0\n", resume)
    finetune(
        run, data=Data(size=16, phantom=Phantoms(sites=2, images_per_site=16, spatial_dims=dims)),
        encoder=lambda dims, channels: ResNet(dims, channels, depth=10, stem=4), rounds=Rounds(2),
        policy=Policy(min_patients=1),
        visit=Visit(batch_size=4, accelerator="cpu"), algorithm=FedAvg(guides=(FedVSS(),)), loggers=(),
    )  # fmt: skip
    return run.path / MODEL


# Invalid settings


@pytest.mark.parametrize("wrong", [{"lambda_l": -1.0}, {"lambda_g": math.nan}, {"eps": 0.0}, {"xi": -0.1}])
def test_settings_out_of_range_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=r"lambda_l and lambda_g must be >= 0, eps and xi positive, got FedVSS"):
        FedVSS(**wrong)


def test_a_module_without_labels_is_refused(toy: Callable[..., Encoder], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(Classifier, "targets")
    with pytest.raises(Refused, match="FedVSS needs a module that trains on labels, and Classifier does not"):
        visited(classifier(toy()), FedVSS())
