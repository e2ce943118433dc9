from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch

from fedcore.models.base import Encoder
from fedcore.training.functional import evaluating, functional
from fedtune.classification.classifier import Classifier
from tests.fedcore.federating import same
from tests.fedcore.toys import images


def classifier(encoder: Encoder) -> Classifier:
    for p in encoder.parameters():
        torch.nn.init.normal_(p, std=0.3)
    return Classifier(encoder, 3, augment=None)


def test_it_equals_the_module_in_its_mode_and_does_not_change_it(toy: Callable[..., Encoder]) -> None:
    module, x = classifier(toy()).train(), images().batch(range(12))
    before = copy.deepcopy(module.state_dict())
    answer = functional(module)(x)
    assert same(dict(module.state_dict()), before)
    assert torch.equal(answer, module(x))
    assert not same(dict(module.state_dict()), before)  # and the module itself does write


def test_with_other_weights_it_is_another_model(toy: Callable[..., Encoder]) -> None:
    ours, other, x = classifier(toy()).eval(), classifier(toy()).eval(), images().batch(range(12))
    for t in other.state_dict().values():
        t += torch.rand_like(t.float()).to(t.dtype)
    assert torch.equal(functional(ours, other.state_dict())(x), other(x))
    head = {k: t for k, t in other.state_dict().items() if k.startswith("head.")}
    assert torch.equal(
        functional(ours, head)(x), other.head(ours.encoder(x))
    )  # what does not travel is the module's own


def test_each_part_has_its_mode_again(toy: Callable[..., Encoder]) -> None:
    module = classifier(toy())
    module.train()
    module.encoder.eval()
    before = [part.training for part in module.modules()]

    def fail() -> None:
        with evaluating(module):
            assert not any(part.training for part in module.modules())
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert [part.training for part in module.modules()] == before
    assert len(set(before)) == 2
