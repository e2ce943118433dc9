from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.optim import SGD

from fedcore.data.dataset import Images
from fedcore.messages.round import Round
from fedcore.models.base import Encoder
from fedcore.site.site import Site
from fedcore.training.local_trainer import LocalTrainer
from fedcore.training.visit import Visit
from fedtune.classification.classifier import Classifier


def visited(module: Classifier, site: Images, **visit: int) -> dict[str, float]:
    how = Visit(batch_size=4, accelerator="cpu", **visit)  # type: ignore[arg-type]
    local = LocalTrainer(module, module.share, how)
    return local.fit(Site(site.site, site), Round(0, 1, seed=0), {})


def state(module: nn.Module) -> dict[str, Tensor]:
    return {k: t.clone() for k, t in module.state_dict().items()}


def test_a_classifier_is_a_linear_layer_with_cross_entropy(
    toy: Callable[[], Encoder], images: Callable[..., Images]
) -> None:
    site = images([0, 1, 2, 1, 0, 2, 2, 1])
    module = Classifier(toy(), 3, freeze_encoder=True, augment=None, optimizer=lambda p: SGD(p, lr=0.0))
    logged = visited(module, site)["loss"]
    with torch.no_grad():
        features = module.encoder.eval()(site.batch(range(8)))
        logits = features @ module.head.weight.T + module.head.bias
    torch.testing.assert_close(module(site.batch(range(8))), logits)
    assert logged == pytest.approx(cross_entropy(logits, site.labels).item(), rel=1e-5)


@pytest.mark.parametrize("freeze_encoder", [True, False])
def test_training_learns_labels_that_are_in_the_images(
    toy: Callable[[], Encoder], images: Callable[..., Images], freeze_encoder: bool
) -> None:
    site = images([0, 1] * 8)
    site.pixels[(site.labels == 1).numpy()] *= -1
    site.pixels[:] = abs(site.pixels) * (1 - 2 * site.labels.numpy()[:, None, None, None])
    module = Classifier(toy(), 2, freeze_encoder, optimizer=lambda p: SGD(p, lr=0.3))
    visited(module, site, max_epochs=10)
    assert torch.equal(module.eval()(site.batch(range(16))).argmax(1), site.labels)


def test_a_frozen_encoder_keeps_every_bit_batch_norm_included(
    toy: Callable[[], Encoder], images: Callable[..., Images]
) -> None:
    module = Classifier(toy(), 2, freeze_encoder=True)
    encoder, head = state(module.encoder), state(module.head)
    visited(module, images([0, 1] * 8), max_epochs=3)
    assert all(torch.equal(t, encoder[k]) for k, t in module.encoder.state_dict().items())
    assert not torch.equal(module.head.weight, head["weight"])


def test_an_encoder_that_is_not_frozen_is_trained(toy: Callable[[], Encoder], images: Callable[..., Images]) -> None:
    module = Classifier(toy(), 2)
    before = state(module)
    visited(module, images([0, 1] * 8))
    assert all(not torch.equal(t, before[k]) for k, t in module.state_dict().items())


def test_a_frozen_encoder_is_neither_shared_nor_optimized(toy: Callable[[], Encoder]) -> None:
    for freeze_encoder, travels in ((True, {"head"}), (False, {"encoder", "head"})):
        module = Classifier(toy(), 2, freeze_encoder)
        assert {k.split(".")[0] for k in module.state_dict() if k.startswith(module.share)} == travels
        given = {id(p) for group in module.configure_optimizers().param_groups for p in group["params"]}
        assert given == {id(p) for name, p in module.named_parameters() if name.split(".")[0] in travels}
