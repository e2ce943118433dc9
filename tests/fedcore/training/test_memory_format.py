from __future__ import annotations

import pytest
import torch

from fedcore.messages.round import Round
from tests.fedcore.toys import Toy, local

TURN = Round(0, 2, 0)


@pytest.mark.parametrize("dims", [2, 3])
def test_a_convolution_of_one_channel_returns_channels_last_too(dims: int) -> None:
    class Convolution(Toy):
        def __init__(self) -> None:
            super().__init__()
            self.layer = (torch.nn.Conv2d if dims == 2 else torch.nn.Conv3d)(1, 4, 3)

    module = Convolution()
    weight = module.layer.weight.detach().clone()
    trainer = local(module=module)
    answer = module.layer(torch.zeros(2, 1, *[8] * dims))
    last = torch.channels_last if dims == 2 else torch.channels_last_3d
    assert answer.is_contiguous(memory_format=last)
    assert torch.equal(module.layer.weight, weight)
    assert trainer.shared()["layer.weight"].is_contiguous()
