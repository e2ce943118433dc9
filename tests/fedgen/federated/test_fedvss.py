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
from torch import Tensor
from torch.nn.functional import cross_entropy

from fedcore.algorithms.local_only import LocalOnly
from fedcore.augment.views import Views
from fedcore.data.loader import loader
from fedcore.data.phantom.phantoms import Phantoms
from fedcore.data.source import Data
from fedcore.errors import Refused
from fedcore.models.base import Encoder
from fedcore.models.resnet import ResNet
from fedcore.privacy.policy import Policy
from fedcore.runs.classifiers import MODEL
from fedcore.runs.folder import RunFolder
from fedcore.seeds import seeded
from fedcore.server.rounds import Rounds
from fedcore.training.local_trainer import LocalTrainer
from fedcore.training.visit import Visit
from fedgen.federated.fedvss import FedVSS
from fedgen.federated.virtual_samples import kl_divergence, unit_rms
from fedtune.classification.classifier import DEFAULT_AUGMENTATION, Classifier
from fedtune.classification.finetuning import finetune
from tests.fedgen.visits import TURN, classifier, hospital, same, visited
from tests.stopping import killed_in

# Side effects


def test_running_statistics_stay_those_of_real_images(toy: Callable[..., Encoder]) -> None:
    start = copy.deepcopy(classifier(toy()).state_dict())
    plain, guided = (visited(classifier(toy(), rate=0.0), *callbacks)[0] for callbacks in ((), (FedVSS(),)))
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
    ours, expected = classifier(toy(), freeze_encoder=frozen), classifier(toy(), freeze_encoder=frozen)
    found, metrics = visited(ours, settings)
    with seeded(TURN.seed_of("a")):
        losses = list(by_the_paper(expected, settings))
    for name, t in expected.state_dict().items():
        torch.testing.assert_close(found[name], t, rtol=1e-3, atol=1e-5, msg=lambda m, name=name: f"{name}: {m}")
    local, confident = np.mean(losses[-3:], axis=0)  # of the last epoch
    assert metrics["adversarial_kl"] == pytest.approx(local, rel=1e-3)
    assert metrics["confident_kl"] == pytest.approx(confident, rel=1e-3)
    plain, _ = visited(classifier(toy(), freeze_encoder=frozen))
    assert not torch.allclose(found["head.weight"], plain["head.weight"], rtol=1e-2)


def test_with_both_weights_0_it_is_fedavg_to_the_bit(toy: Callable[..., Encoder]) -> None:
    none = FedVSS(lambda_l=0.0, lambda_g=0.0)
    plain, reported = visited(classifier(toy(), augment=DEFAULT_AUGMENTATION))
    guided, metrics = visited(classifier(toy(), augment=DEFAULT_AUGMENTATION), none)
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
    local = LocalTrainer(module, (), Visit(batch_size=4, accelerator="cpu", callbacks=(FedVSS(),)))
    algorithm = LocalOnly()
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
        visit=Visit(batch_size=4, accelerator="cpu", callbacks=(FedVSS(),)), loggers=(),
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
