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

from fedcore.algorithms.fedavg import FedAvg
from fedcore.algorithms.local_only import LocalOnly
from fedcore.augment.views import Views
from fedcore.data.dataset import Images
from fedcore.data.loader import loader
from fedcore.data.phantom.phantoms import Phantoms
from fedcore.data.source import Data
from fedcore.errors import Refused
from fedcore.messages.message import Tensors
from fedcore.models.base import Encoder
from fedcore.models.resnet import ResNet
from fedcore.privacy.policy import Policy
from fedcore.runs.classifiers import MODEL
from fedcore.runs.folder import RunFolder
from fedcore.seeds import seeded
from fedcore.server.rounds import Rounds
from fedcore.site.site import Round, Site
from fedcore.training.local_trainer import LocalTrainer
from fedcore.training.visit import Visit
from fedgen.federated.fedvss import VirtualSamples, adverse, confident, divergence, evaluating, functional, moved, unit
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
    module: Classifier, *callbacks: Any, site: Site | None = None, **visit: Any
) -> tuple[Tensors, dict[str, float]]:
    """The module's state behind one visit under FedAvg, and what was reported."""
    local = LocalTrainer(
        module, module.share,
        Visit(**{"batch_size": 4, "accelerator": "cpu", "max_epochs": 2, "callbacks": callbacks, **visit}),
    )  # fmt: skip
    algorithm = FedAvg()
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
    """Images so far from -1 and 1 that no virtual sample meets them."""
    return torch.empty(n, *shape, dtype=torch.float64).uniform_(-0.5, 0.5)


# The arithmetic


def test_the_divergence_is_that_of_the_changed_answer_from_the_unchanged() -> None:
    """KL((0.9, 0.1) || (0.5, 0.5)) = 0.9 ln 1.8 + 0.1 ln 0.2 = 0.3681; the other way round it is 0.5108."""
    p, q = torch.tensor([[0.9, 0.1]]).log() + 3, torch.tensor([[0.5, 0.5]]).log() - 1
    assert divergence(p, q).item() == pytest.approx(0.36806, abs=1e-5)
    assert divergence(q, p).item() == pytest.approx(0.51083, abs=1e-5)
    pair = divergence(torch.cat([p, q]), torch.cat([q, q]))
    assert pair.item() == pytest.approx(0.36806 / 2, abs=1e-5)  # a mean over images, not over classes


@SHAPES
def test_a_unit_direction_has_a_root_mean_square_of_1_an_image(shape: tuple[int, ...]) -> None:
    direction = torch.randn(4, *shape)
    for one, image in zip(unit(direction), direction, strict=True):
        square = sum(float(x) ** 2 for x in image.flatten()) / image.numel()
        torch.testing.assert_close(one, image / square**0.5)


def test_a_unit_direction_knows_no_scale_and_nothing_stays_nothing() -> None:
    direction = torch.randn(4, 1, 8, 8)
    scales = torch.tensor([1e-30, 1e-12, 1.0, 1e30]).view(-1, 1, 1, 1)
    torch.testing.assert_close(unit(direction * scales), unit(direction))
    assert torch.equal(unit(torch.zeros(2, 1, 8, 8)), torch.zeros(2, 1, 8, 8))


def test_a_virtual_sample_is_an_image() -> None:
    x, r = torch.tensor([[[-1.0, 0.0, 0.99]]]), torch.tensor([[[-0.02, 0.02, 0.02]]])
    torch.testing.assert_close(moved(x, r), torch.tensor([[[-1.0, 0.02, 1.0]]]))


# The searches, where the answer is known


@SHAPES
def test_of_two_classes_of_a_linear_model_the_most_adverse_direction_is_found_at_once(shape: tuple[int, ...]) -> None:
    """KL(f(x) || f(x + r)) = p (1 - p) / 2 (w . r)^2 + O(r^3) with w = w_1 - w_2: r = +-eps w / |w|."""
    f, x = Linear(shape, 2), inner(5, shape)
    answer = f(x).detach()
    r = adverse(f, x, answer, EPS, XI) - x
    w = (f.layer.weight[0] - f.layer.weight[1]).detach().view(1, *shape)
    expected = EPS * unit(w).expand_as(x)
    torch.testing.assert_close(r, expected * (r * expected).flatten(1).sum(1).sign().view(-1, *[1] * len(shape)))
    for _ in range(100):
        other = EPS * unit(torch.randn_like(x))
        assert divergence(answer, f(x + other)) < divergence(answer, f(x + r))


@SHAPES
def test_of_a_linear_model_one_power_iteration_is_the_hessian_times_the_random_direction(
    shape: tuple[int, ...],
) -> None:
    """H = W' (diag p - p p') W of each image, whatever the number of classes."""
    f, x = Linear(shape, 4), inner(5, shape)
    answer = f(x).detach()
    torch.manual_seed(3)
    r = adverse(f, x, answer, EPS, 1e-5) - x
    torch.manual_seed(3)
    d = unit(torch.randn_like(x)).flatten(1)
    W = f.layer.weight.detach()
    for at, p in enumerate(answer.softmax(1)):
        H = W.T @ (p.diag() - torch.outer(p, p)) @ W
        torch.testing.assert_close(r[at].flatten(), EPS * unit((H @ d[at])[None])[0], rtol=1e-3, atol=1e-5)


@SHAPES
def test_of_two_classes_of_a_linear_model_the_surest_image_is_found(shape: tuple[int, ...]) -> None:
    """CE falls with w . r alone, w = w_y - w_other: r = eps w / |w|, and no r within eps does better."""
    f, x, labels = Linear(shape, 2), inner(6, shape), torch.arange(6) % 2
    r = confident(f, x, labels, EPS) - x
    w = (f.layer.weight[labels] - f.layer.weight[1 - labels]).detach().view_as(x)
    torch.testing.assert_close(r, EPS * unit(w))
    for _ in range(100):
        other = EPS * torch.rand(6).view(-1, *[1] * len(shape)) * unit(torch.randn_like(x))
        with_other, with_ours = (cross_entropy(f(x + by), labels, reduction="none") for by in (other, r))
        assert (with_other > with_ours).all()


@SHAPES
def test_the_searches_equal_loops_over_images(shape: tuple[int, ...]) -> None:
    f = nn.Sequential(Linear(shape, 6), nn.Tanh(), nn.Linear(6, 3).double())
    x, labels = inner(4, shape), torch.tensor([0, 2, 1, 2])
    answer = f(x).detach()
    torch.manual_seed(5)
    local, sure = adverse(f, x, answer, EPS, XI), confident(f, x, labels, EPS)
    torch.manual_seed(5)
    noise = torch.randn_like(x)
    for at in range(4):
        p = answer[at].softmax(0)
        r = (XI * noise[at] / noise[at].square().mean().sqrt()).requires_grad_()
        q = f((x[at] + r)[None])[0].softmax(0)
        sum(p[k] * (p[k].log() - q[k].log()) for k in range(3)).backward()  # type: ignore[union-attr]
        torch.testing.assert_close(local[at], x[at] + EPS * r.grad / r.grad.square().mean().sqrt())
        y = x[at].clone().requires_grad_()
        (-f(y[None])[0].softmax(0)[labels[at]].log()).backward()
        torch.testing.assert_close(sure[at], x[at] - EPS * y.grad / y.grad.square().mean().sqrt())


def test_the_probe_of_float32_finds_what_that_of_float64_finds(toy: Callable[..., Encoder]) -> None:
    exact, x = classifier(toy()).double(), inner(8, (1, 8, 8))
    rough = copy.deepcopy(exact).float()
    found = []
    for module, images in ((exact, x), (rough, x.float())):
        f = functional(module)
        r = (XI * unit(torch.randn(8, 1, 8, 8, generator=torch.Generator().manual_seed(0)))).to(images)
        with torch.no_grad():
            answer = f(images)
        r.requires_grad_()
        found.append(unit(torch.autograd.grad(divergence(answer, f(images + r)), r)[0]).double())
    torch.testing.assert_close(found[0], found[1], rtol=0.01, atol=0.01)


# Magnitudes


def beside_cross_entropy(how: VirtualSamples) -> tuple[float, float]:
    """Of a half-trained network, three steps behind what the server sent: the weighted local loss over the cross
    entropy, and the weighted global loss's gradient over its gradient (lengths)."""
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

    f, server = functional(module), functional(module, sent)
    task, answer = cross_entropy(f(x), y), f(x).detach()
    local = divergence(answer, f(adverse(f, x, answer, how.eps, how.xi)))
    with evaluating(module):
        sure = confident(server, x, y, how.eps)
        wanted = server(sure).detach()
    share = how.lambda_l * float(local.detach()) / float(task.detach())
    return share, length(how.lambda_g * divergence(wanted, f(sure))) / length(task)


def test_local_samples_stay_below_the_task_and_global_ones_have_a_gradient() -> None:
    torch.manual_seed(0)
    share, slope = beside_cross_entropy(VirtualSamples())
    assert 0.005 < share < 0.5
    assert 0.1 < slope < 2
    assert beside_cross_entropy(VirtualSamples(lambda_l=1.0, eps=0.02))[0] > 1  # would outweigh it


def test_a_model_that_answers_as_the_server_s_has_nothing_to_learn_of_global_samples() -> None:
    f, server, x = Linear((1, 8, 8), 3), Linear((1, 8, 8), 3), inner(4, (1, 8, 8))
    sure = confident(server, x, torch.tensor([0, 1, 2, 0]), EPS)
    wanted = server(sure).detach()
    for module, learns in ((server, False), (f, True)):
        slope = torch.autograd.grad(divergence(wanted, module(sure)), module.layer.weight)[0]
        assert bool(slope.norm() > 1e-3) == learns


# What the searches leave behind


def test_beside_the_module_nothing_is_written_into_it(toy: Callable[..., Encoder]) -> None:
    module, x, labels = classifier(toy()).train(), hospital().images.batch(range(12)), torch.arange(12) % 3
    before = copy.deepcopy(module.state_dict())
    adverse(functional(module), x, functional(module)(x).detach(), EPS, XI)
    with evaluating(module):
        confident(functional(module, dict(module.state_dict())), x, labels, EPS)
    assert same(dict(module.state_dict()), before)
    assert all(p.grad is None for p in module.parameters())
    assert torch.equal(functional(module)(x), module(x))  # it is the module, in its own mode
    assert not same(dict(module.state_dict()), before)  # and the module itself does write


def test_running_statistics_stay_those_of_real_images(toy: Callable[..., Encoder]) -> None:
    start = copy.deepcopy(classifier(toy()).state_dict())
    plain, guided = (visited(classifier(toy(), rate=0.0), *callbacks)[0] for callbacks in ((), (VirtualSamples(),)))
    assert same(plain, guided)
    assert not torch.equal(plain["encoder.layers.2.running_mean"], start["encoder.layers.2.running_mean"])


def test_no_one_looks_on_when_the_visit_is_over(toy: Callable[..., Encoder], monkeypatch: pytest.MonkeyPatch) -> None:
    module = classifier(toy())
    visited(module, VirtualSamples())
    assert not module._forward_pre_hooks
    monkeypatch.setattr(module, "forward", lambda images: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        visited(module, VirtualSamples())
    assert not module._forward_pre_hooks


# Whole visits


def by_the_paper(module: Classifier, how: VirtualSamples) -> Iterator[tuple[float, float]]:
    """Local training as the paper writes it: one loss a step, its virtual samples made by copies of the model."""
    sent, site = copy.deepcopy(module).eval(), hospital().images
    optimizer = module.configure_optimizers()
    module.train()
    module.on_train_epoch_start()
    order = torch.Generator().manual_seed(TURN.seed_of("a", "order"))
    for x, y in [batch for _ in range(2) for batch in loader(site, 4, True, True, "labels", order)]:
        searcher, for_local, for_global = (copy.deepcopy(module) for _ in range(3))
        answer = searcher(x).detach()
        r = (how.xi * unit(torch.randn_like(x))).requires_grad_()
        divergence(answer, searcher(x + r)).backward()
        x_l = (x + how.eps * unit(r.grad)).clamp(-1, 1)
        x_g = x.clone().requires_grad_()
        cross_entropy(sent(x_g), y).backward()
        x_g = (x_g - how.eps * unit(x_g.grad)).clamp(-1, 1).detach()
        weights = dict(module.named_parameters())
        local = divergence(answer, torch.func.functional_call(for_local, weights, (x_l,)))
        with torch.no_grad():
            wanted = sent(x_g)
        sure = divergence(wanted, torch.func.functional_call(for_global, weights, (x_g,)))
        total = cross_entropy(module(x), y) + how.lambda_l * local + how.lambda_g * sure
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
        yield float(local.detach()), float(sure.detach())


@pytest.mark.parametrize("frozen", [False, True], ids=["all of it learns", "a frozen encoder"])
def test_a_visit_equals_the_paper_written_as_a_loop(toy: Callable[..., Encoder], frozen: bool) -> None:
    how = VirtualSamples(lambda_l=0.7, lambda_g=1.3)
    ours, expected = classifier(toy(), frozen=frozen), classifier(toy(), frozen=frozen)
    found, metrics = visited(ours, how)
    with seeded(TURN.seed_of("a")):
        losses = list(by_the_paper(expected, how))
    for name, t in expected.state_dict().items():
        torch.testing.assert_close(found[name], t, rtol=1e-3, atol=1e-5, msg=lambda m, name=name: f"{name}: {m}")
    local, sure = np.mean(losses[-3:], axis=0)  # of the last epoch
    assert metrics["virtual_local"] == pytest.approx(local, rel=1e-3)
    assert metrics["virtual_global"] == pytest.approx(sure, rel=1e-3)
    plain, _ = visited(classifier(toy(), frozen=frozen))
    assert not torch.allclose(found["head.weight"], plain["head.weight"], rtol=1e-2)


def test_without_virtual_samples_it_is_fedavg_to_the_bit(toy: Callable[..., Encoder]) -> None:
    none = VirtualSamples(lambda_l=0.0, lambda_g=0.0)
    plain, reported = visited(classifier(toy(), augment=MILD))
    guided, told = visited(classifier(toy(), augment=MILD), none)
    assert same(guided, plain)
    assert told == reported


@pytest.mark.parametrize("name", ["virtual_local", "virtual_global"])
def test_one_kind_of_sample_alone(toy: Callable[..., Encoder], name: str) -> None:
    how = VirtualSamples(lambda_l=float(name == "virtual_local"), lambda_g=float(name == "virtual_global"))
    assert visited(classifier(toy()), how)[1].keys() == {"loss", name}


def test_virtual_samples_are_made_of_the_views_that_the_module_learns_from(toy: Callable[..., Encoder]) -> None:
    """A module that sees every image as its negative ends as one whose site has the negatives."""

    class Negative(Views):
        def __call__(self, images: Tensor) -> list[Tensor]:
            return [-images]

    views, _ = visited(classifier(toy(), augment=Negative()), VirtualSamples())
    images, _ = visited(classifier(toy()), VirtualSamples(), site=hospital(sign=-1.0))
    assert same(views, images)


def test_mixed_precision_ends_near_full_precision(toy: Callable[..., Encoder]) -> None:
    start = copy.deepcopy(classifier(toy()).state_dict())
    full, _ = visited(classifier(toy()), VirtualSamples())
    mixed, metrics = visited(classifier(toy()), VirtualSamples(), precision="bf16-mixed")
    for name in ("encoder.layers.1.weight", "head.weight"):
        assert (mixed[name] - full[name]).norm() < 0.1 * (full[name] - start[name]).norm()
    assert all(math.isfinite(value) for value in metrics.values())


def test_searches_are_in_full_precision_and_losses_in_the_trainer_s(
    toy: Callable[..., Encoder], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Own loss; answer, search, loss of the local samples; search, answer, loss of the global ones."""
    forward, passes = Classifier.forward, []

    def noting(self: Classifier, images: Tensor) -> Tensor:
        logits = forward(self, images)
        passes.append(logits.dtype)
        return logits

    monkeypatch.setattr(Classifier, "forward", noting)
    visited(classifier(toy()), VirtualSamples(), precision="bf16-mixed", max_steps=1)
    low, full = torch.bfloat16, torch.float32
    assert passes == [low, full, full, low, full, full, low]


@pytest.mark.parametrize("scale", [1.0, 1024.0])
def test_gradients_that_are_scaled_for_float16_are_met_at_their_scale(
    toy: Callable[..., Encoder], monkeypatch: pytest.MonkeyPatch, scale: float
) -> None:
    def trainer(visit: Visit, callbacks: list[Any]) -> Trainer:
        plugin = MixedPrecision("16-mixed", "cpu", torch.amp.GradScaler("cpu", init_scale=scale))
        return Trainer(
            max_epochs=2, accelerator="cpu", callbacks=callbacks, plugins=[plugin], logger=False, limit_val_batches=0,
            enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
        )  # fmt: skip

    full, _ = visited(classifier(toy()), VirtualSamples())
    start = copy.deepcopy(classifier(toy()).state_dict())
    monkeypatch.setattr(Visit, "trainer", trainer)
    mixed, _ = visited(classifier(toy()), VirtualSamples())
    assert (mixed["head.weight"] - full["head.weight"]).norm() < 0.02 * (
        full["head.weight"] - start["head.weight"]
    ).norm()


def test_a_site_alone_has_its_own_model_for_the_server_s(toy: Callable[..., Encoder]) -> None:
    module = classifier(toy())
    local = LocalTrainer(module, (), Visit(batch_size=4, accelerator="cpu", callbacks=(VirtualSamples(),)))
    algorithm = LocalOnly()
    metrics = algorithm.visit(hospital(), algorithm.start(local), local, TURN).metrics
    assert metrics.keys() == {"loss", "virtual_local", "virtual_global"}


@pytest.mark.parametrize("dims", [2, 3])
def test_a_stopped_finetuning_resumes_to_the_bit(tmp_path: Path, dims: int) -> None:
    whole = finetuned(tmp_path / "whole", dims)
    with killed_in(1):
        finetuned(tmp_path / "parts", dims)
    assert finetuned(tmp_path / "parts", dims, resume=True).read_bytes() == whole.read_bytes()
    assert safetensors.torch.load_file(whole)["encoder.conv1.weight"].dim() == 2 + dims


def finetuned(folder: Path, dims: int, resume: bool = False) -> Path:
    """The weights of two rounds at two small hospitals."""
    run = RunFolder(folder, "seed: 0\n", resume)
    finetune(
        run, data=Data(size=16, phantom=Phantoms(sites=2, images_per_site=16, spatial_dims=dims)),
        encoder=lambda dims, channels: ResNet(dims, channels, depth=10, stem=4), rounds=Rounds(2),
        policy=Policy(min_patients=1),
        visit=Visit(batch_size=4, accelerator="cpu", callbacks=(VirtualSamples(),)), loggers=(),
    )  # fmt: skip
    return run.path / MODEL


# What is refused


@pytest.mark.parametrize("wrong", [{"lambda_l": -1.0}, {"lambda_g": math.nan}, {"eps": 0.0}, {"xi": -0.1}])
def test_settings_out_of_range(wrong: dict[str, float]) -> None:
    with pytest.raises(
        ValueError, match=r"lambda_l and lambda_g must be >= 0, eps and xi positive, got VirtualSamples"
    ):
        VirtualSamples(**wrong)


def test_a_module_that_learns_without_labels(toy: Callable[..., Encoder], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(Classifier, "targets")
    with pytest.raises(Refused, match="virtual samples are made for labels, and Classifier trains on none"):
        visited(classifier(toy()), VirtualSamples())
