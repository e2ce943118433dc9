from __future__ import annotations

import pytest
import torch
from torch import Tensor

from fedgen.gan.server_generator import ServerGenerator
from fedgen.generator import UNCONDITIONED
from tests.fedcore.federating import same
from tests.fedgen.gans import gan

CPU = torch.device("cpu")


def test_classes_are_generated_as_often_as_at_the_site() -> None:
    module = gan(condition_dropout=0.25)
    state = ServerGenerator.of(module, module.state_dict())
    generator = state.generator(CPU)
    counted = ServerGenerator(state.weights, {}, state.config, {"b": torch.tensor([90, 30, 40])})

    def parts(values: Tensor, of: tuple[int, ...]) -> list[float]:
        return [float((values == value).float().mean()) for value in of]

    request = counted.request(generator, "b", 5, 4000)
    kept = 0.75**2  # not dropped, together with the site or alone
    expected = [90 / 160 * kept, 30 / 160 * kept, 40 / 160 * kept + 1 - kept]
    assert parts(request.labels, (0, 1, UNCONDITIONED)) == pytest.approx(expected, abs=0.03)
    assert parts(request.sites, (1, UNCONDITIONED)) == pytest.approx([kept, 1 - kept], abs=0.03)
    assert parts(counted.request(generator, "a", 5, 4000).labels, (0, 1)) == pytest.approx([kept / 2] * 2, abs=0.03)
    again = counted.request(generator, "b", 5, 4000)
    assert torch.equal(again.noise, request.noise)
    assert torch.equal(again.labels, request.labels)


def test_building_the_generator_uses_no_random_numbers_and_shares_no_memory() -> None:
    module = gan()
    state = ServerGenerator.of(module, module.state_dict())
    before = torch.get_rng_state()
    made = state.generator(CPU)
    assert torch.equal(torch.get_rng_state(), before)
    assert same(dict(made.network.state_dict()), dict(module.generator_network.state_dict()))
    with torch.no_grad():
        next(made.network.parameters()).zero_()
    assert same(dict(state.generator(CPU).network.state_dict()), dict(module.generator_network.state_dict()))
