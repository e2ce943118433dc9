from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from fedcore.aggregation.base import Aggregator
from fedcore.aggregation.mean import Mean
from fedcore.algorithms.fedavg import FedAvg
from fedcore.errors import InputError
from fedcore.messages.answer import Contribution
from fedcore.messages.message import Weights
from fedcore.messages.tensors import Tensors
from fedcore.models.resnet import ResNet
from fedssl.federation.ldawa import LDAWA, cosine, layers
from tests.fedcore.federating import same

SHAPES = {"conv.weight": (2, 1, 3, 3), "conv.bias": (2,), "bn.weight": (2,), "bn.bias": (2,)}


def model(seed: int) -> Tensors:
    g = torch.Generator().manual_seed(seed)
    tensors = {name: 0.3 * torch.randn(shape, generator=g) + 0.5 for name, shape in SHAPES.items()}
    return tensors | {
        "bn.running_mean": torch.randn(2, generator=g),
        "bn.running_var": torch.rand(2, generator=g),
        "bn.num_batches_tracked": torch.tensor(seed * 10),
    }


def sent(site: str, tensors: Tensors, examples: int = 1) -> Contribution[Weights]:
    return Contribution(site, Weights(tensors), examples)


def reference(sites: list[tuple[int, Tensors]], current: Tensors) -> dict[str, list[float]]:
    """Layer by layer and number by number; sites are (images, tensors)."""
    total, result = sum(n for n, _ in sites), {}
    for module, names in {"conv": ["weight", "bias"], "bn": ["weight", "bias"]}.items():
        g = [float(x) for name in names for x in current[f"{module}.{name}"].flatten()]
        layer = [0.0] * len(g)
        for n, tensors in sites:
            w = [float(x) for name in names for x in tensors[f"{module}.{name}"].flatten()]
            dot = sum(a * b for a, b in zip(w, g, strict=True))
            cos = dot / (sum(a * a for a in w) * sum(b * b for b in g)) ** 0.5
            for at, value in enumerate(w):
                layer[at] += n / total * max(0.0, cos) * value
        result[module] = layer
    for name in ("running_mean", "running_var"):
        columns = [[n * float(x) / total for x in tensors[f"bn.{name}"]] for n, tensors in sites]
        result[name] = [sum(column) for column in zip(*columns, strict=True)]
    return result


def flat(tensors: Tensors, module: str) -> list[float]:
    return [float(x) for name in ("weight", "bias") for x in tensors[f"{module}.{name}"].flatten()]


@pytest.mark.parametrize("count", [1, 2, 5])
def test_the_mean_equals_the_paper_written_as_loops(count: int) -> None:
    current, sites = model(99), [(3 + 4 * seed, model(seed)) for seed in range(count)]
    sites[0][1]["conv.weight"] *= -1  # a site with the opposite direction has weight 0 in that layer
    found = LDAWA().combine((sent(str(n), t, n) for n, t in sites), current)
    expected = reference(sites, current)
    assert flat(found, "conv") == pytest.approx(expected["conv"], rel=1e-5, abs=1e-6)
    assert flat(found, "bn") == pytest.approx(expected["bn"], rel=1e-5, abs=1e-6)
    for name in ("running_mean", "running_var"):
        assert found[f"bn.{name}"].tolist() == pytest.approx(expected[name], rel=1e-5, abs=1e-6)


@given(seeds=st.lists(st.integers(0, 50), min_size=1, max_size=6), order=st.randoms(use_true_random=False))
def test_the_order_of_sites_does_not_matter(seeds: list[int], order: Any) -> None:
    sites = [sent(str(seed), model(seed), seed + 1) for seed in seeds]
    a = LDAWA().combine(iter(sites), model(99))
    b = LDAWA().combine(iter(order.sample(sites, len(sites))), model(99))
    for name, t in a.items():
        torch.testing.assert_close(b[name], t, rtol=1e-4, atol=1 if name.endswith("tracked") else 1e-5)


@pytest.mark.parametrize("count", [1, 3])
def test_sites_that_send_the_servers_weights_change_nothing(count: int) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        current = dict(ResNet(depth=10, stem=4).state_dict())
    found = LDAWA().combine((sent(str(i), current, i + 1) for i in range(count)), current)
    assert same(found, current)


def test_weights_of_angles_by_hand() -> None:
    """At 45 degrees the weight of a layer is 0.707, at 90 and 180 it is 0."""
    current = {"fc.weight": torch.tensor([[1.0, 0.0]])}
    for w, expected in (([2.0, 2.0], [2**0.5, 2**0.5]), ([0.0, 3.0], [0.0, 0.0]), ([-1.0, 0.0], [0.0, 0.0])):
        found = LDAWA().combine([sent("a", {"fc.weight": torch.tensor([w])})], current)
        assert found["fc.weight"].flatten().tolist() == pytest.approx(expected)


def test_no_layer_is_longer_than_the_longest() -> None:
    current, sites = model(99), [sent(str(seed), model(seed)) for seed in range(4)]
    found, plain = LDAWA().combine(sites, current), Mean().combine(sites, current)
    longest = max(c.message.tensors["conv.weight"].norm() for c in sites)
    assert found["conv.weight"].norm() <= longest
    assert not torch.equal(found["conv.weight"], plain["conv.weight"])


def test_running_statistics_and_counters_equal_those_of_the_mean() -> None:
    sites = [sent(str(seed), model(seed), seed + 1) for seed in range(3)]
    found, plain = LDAWA().combine(sites, model(99)), Mean().combine(sites, {})
    for name in ("bn.running_mean", "bn.running_var", "bn.num_batches_tracked"):
        assert torch.equal(found[name], plain[name])
        assert found[name].dtype == plain[name].dtype
    assert (found["bn.running_var"] >= 0).all()


def test_the_bias_of_a_norm_can_leave_zero() -> None:
    """Alone the bias of a new norm has no direction; together with its weight it has."""
    current = dict(nn.BatchNorm2d(3).state_dict(prefix="bn."))
    learned = current | {"bn.bias": torch.tensor([0.1, -0.2, 0.3])}
    assert (LDAWA().combine([sent("a", learned)], current)["bn.bias"] != 0).all()


def test_a_layer_without_direction_is_averaged_without_scaling() -> None:
    current = {"fc.weight": torch.zeros(2, 2)}
    sites = [sent("a", {"fc.weight": torch.ones(2, 2)}), sent("b", {"fc.weight": -3 * torch.ones(2, 2)})]
    assert torch.equal(LDAWA().combine(sites, current)["fc.weight"], -torch.ones(2, 2))


def test_cosine_by_hand() -> None:
    a, b = [torch.tensor([3.0]), torch.tensor([4.0])], [torch.tensor([1.0]), torch.tensor([0.0])]
    assert cosine(a, b) == pytest.approx(0.6)
    assert cosine(a, [-t for t in b]) == 0
    assert cosine(a, a) == pytest.approx(1, abs=1e-15)


def test_layers_are_the_parameters_of_each_module() -> None:
    assert layers(model(0)) == [["conv.weight", "conv.bias"], ["bn.weight", "bn.bias"]]


def test_weights_of_sites_are_those_of_the_mean() -> None:
    current, a, b = model(99), model(1), model(2)
    sites = [Contribution("a", Weights(a), 5, {"knn": 0.0}), Contribution("b", Weights(b), 1, {"knn": 0.5})]
    assert same(LDAWA("knn").combine(sites, current), LDAWA().combine([sites[1]], current))


def test_half_precision_is_kept_and_no_site_is_an_error() -> None:
    current = {"fc.weight": torch.ones(2, 2, dtype=torch.float16)}
    found = LDAWA().combine(iter([sent("a", current), sent("b", current)]), current)
    assert found["fc.weight"].dtype == torch.float16
    with pytest.raises(InputError, match="no site contributed"):
        LDAWA().combine(iter([]), current)


def test_fedavg_accepts_it_as_aggregator() -> None:
    rule: Aggregator = LDAWA()
    current = Weights(model(99))
    merged = FedAvg(rule).merge(current, [sent("a", model(1))])
    assert same(merged.tensors, rule.combine([sent("a", model(1))], current.tensors))
