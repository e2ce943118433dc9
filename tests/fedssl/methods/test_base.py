from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.optim import SGD

from fedcore.augment.views import Views
from fedcore.data.dataset import Images
from fedcore.messages.round import Round
from fedcore.site.site import Site
from fedcore.training.local_trainer import LocalTrainer
from fedcore.training.visit import Visit
from fedssl.methods.base import Method

NO_CHANGE = Views(
    count=3, crop=(1.0, 1.0), aspect=(1.0, 1.0), flip=0.0, rotate=0.0, gamma=0.0, contrast=0.0, brightness=0.0,
    blur_probability=0.0, noise=0.0,
)  # fmt: skip


class NegativeNorm(Method):
    """-sum of squares of the features; stores the views that it gets."""

    share = ("encoder.",)

    def loss(self, views: list[Tensor]) -> Tensor:
        self.received = views
        return -sum((self.encoder(v) ** 2).sum(1).mean() for v in views)


def train_one_visit(module: Method, images: Images) -> dict[str, float]:
    local = LocalTrainer(module, module.share, Visit(batch_size=4, accelerator="cpu"))
    return local.fit(Site(images.site, images), Round(0, 1, seed=0), {})


def test_the_training_step_is_the_loss_of_the_views_of_a_batch(
    toy: Callable[..., nn.Module], images: Callable[..., Images]
) -> None:
    module, site = NegativeNorm(toy(norm=False), NO_CHANGE, lambda p: SGD(p, lr=0.0)), images(n=12)
    metrics = train_one_visit(module, site)
    assert [v.shape for v in module.received] == [(4, 1, 8, 8)] * 3
    batches = [site.batch(range(i, i + 4)) for i in (0, 4, 8)]
    # At learning rate 0 nothing changes, and all batches have equal size: the logged loss is the mean over the batches.
    expected = sum(float(module.loss(NO_CHANGE(batch)).detach()) for batch in batches) / 3
    assert metrics["loss"] == pytest.approx(expected, rel=1e-4)


def test_a_visit_lowers_the_loss_and_keeps_frozen_parameters(
    toy: Callable[..., nn.Module], images: Callable[..., Images]
) -> None:
    module, site = NegativeNorm(toy(norm=False), NO_CHANGE, lambda p: SGD(p, lr=0.01)), images(n=12)
    frozen = module.encoder.layers[1].bias.requires_grad_(False)
    copy, before = frozen.clone(), module.loss(NO_CHANGE(site.batch(range(12))))
    train_one_visit(module, site)
    assert module.loss(NO_CHANGE(site.batch(range(12)))) < before
    assert torch.equal(frozen, copy)


def test_the_optimizer_gets_the_trainable_parameters(toy: Callable[..., nn.Module]) -> None:
    module = NegativeNorm(toy())
    module.encoder.layers[1].bias.requires_grad_(False)
    optimizer = module.configure_optimizers()
    given = {id(p) for group in optimizer.param_groups for p in group["params"]}
    assert given == {id(p) for p in module.parameters() if p.requires_grad}
