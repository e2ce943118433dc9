from __future__ import annotations

from typing import ClassVar

import pytest
import torch
from torch import nn

from fedcore.errors import InputError
from fedcore.messages.reveals import Levels, Reveals
from fedcore.privacy.buffers import levels_of
from fedcore.training.local_trainer import LocalTrainer
from tests.fedcore.toys import Toy, local


class Moments(nn.Module):
    reveals: ClassVar[Levels] = {"mean": Reveals.STATISTICS, "constant_*": Reveals.WEIGHTS}

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.norm = nn.Linear(2, 2), nn.BatchNorm1d(2)
        self.register_buffer("mean", torch.zeros(2))
        self.register_buffer("constant_grid", torch.arange(4))
        self.register_buffer("scratch", torch.zeros(2), persistent=False)


def everything(name: str) -> bool:
    return True


def test_parameters_norms_and_what_is_declared_may_travel() -> None:
    outer = nn.Sequential(Moments(), nn.InstanceNorm2d(2, track_running_stats=True))
    assert levels_of(outer, everything) == {"0.mean": Reveals.STATISTICS}
    assert levels_of(outer, lambda name: name.startswith("1.")) == {}


def test_a_module_may_declare_for_those_below_it() -> None:
    outer = nn.Module()
    outer.inner = nn.Module()
    outer.inner.register_buffer("center", torch.zeros(3))
    with pytest.raises(InputError, match=r"the buffer 'inner\.center' of Module would be sent as weights, .*'center':"):
        levels_of(outer, everything)
    outer.reveals = {"inner.center": Reveals.FEATURES}
    assert levels_of(outer, everything) == {"inner.center": Reveals.FEATURES}


@pytest.mark.parametrize("share", [(*Toy.share, "seen"), (*Toy.share, "s")], ids=["by name", "by a bare letter"])
def test_what_a_site_has_seen_does_not_travel_as_weights(share: tuple[str, ...]) -> None:
    """`seen` is a sum over a site's images; a prefix without a dot catches it as well."""
    with pytest.raises(InputError, match="the buffer 'seen' of Toy would be sent as weights"):
        LocalTrainer(Toy(), share)
    assert local().levels == {}
