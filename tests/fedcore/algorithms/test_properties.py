from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from fedcore.aggregation.mean import Mean
from fedcore.aggregation.robust import Median
from fedcore.algorithms.fedavg import FedAvg
from fedcore.algorithms.fedprox import ProximalTerm
from fedcore.algorithms.local_only import LocalOnly
from fedcore.algorithms.properties import chooser_of, message_types, metric_weight_of, round_count_user, share_of
from fedcore.algorithms.quantised import Quantised
from fedcore.exchanges.base import Combined, WithExchange
from fedcore.messages.answer import Contribution
from fedcore.messages.message import Empty, Weights
from fedcore.site.site import Site
from fedcore.training.lr_schedule import Cosine
from fedcore.training.visit import Visit
from tests.fedcore.toy_exchanges import ShareTotals, Total
from tests.fedcore.toys import Toy


def with_totals(algorithm: Any) -> WithExchange:
    return WithExchange(algorithm, exchange=ShareTotals())


def test_an_algorithm_may_narrow_what_travels() -> None:
    @dataclass(frozen=True)
    class Wide(FedAvg):
        def share(self, module: Toy) -> tuple[str, ...]:
            return tuple(name for name, t in module.state_dict().items() if t.numel() > 3)

    assert share_of(FedAvg(), Toy()) == ("layer.", "norm.")
    assert share_of(Wide(), Toy()) == ("layer.weight",)
    assert share_of(Quantised(with_totals(Wide())), Toy()) == ("layer.weight",)
    assert share_of(LocalOnly(), Toy()) == ()


def test_message_types_are_the_annotated_results_of_visit_and_collect() -> None:
    assert set(message_types(FedAvg())) == {Weights}
    assert set(message_types(LocalOnly())) == {Empty}
    assert set(message_types(ShareTotals())) == {Total}
    assert set(message_types(None)) == set()


def test_message_types_include_those_of_wrapped_algorithms_and_exchanges() -> None:
    assert set(message_types(with_totals(FedAvg()))) == {Combined, Weights, Total}
    assert set(message_types(with_totals(Quantised(LocalOnly())))) == {Combined, Empty, Total}
    assert set(message_types(Quantised(with_totals(LocalOnly())))) == {Combined, Empty, Total}


def test_without_annotations_there_are_no_message_types() -> None:
    class Local: ...

    class NotAnnotated(FedAvg):
        def visit(self, site, down, local, turn):  # type: ignore[no-untyped-def]
            return super().visit(site, down, local, turn)

    class Unresolvable(FedAvg):
        def visit(self, site: Local, *_: Any) -> Contribution[Weights]:  # type: ignore[override]
            raise NotImplementedError

    assert set(message_types(NotAnnotated())) == set(message_types(Unresolvable())) == set()


def test_a_field_named_choose_chooses_no_sites() -> None:
    @dataclass(frozen=True)
    class Sampled(FedAvg):
        choose: int = 16

    empty = Weights({})
    assert chooser_of(with_totals(Sampled()), Combined(empty, Empty())) is None


def test_the_metric_that_weights_sites_is_found_in_wrapped_algorithms() -> None:
    assert metric_weight_of(with_totals(Quantised(FedAvg(Mean("knn"))))) == "knn"
    for algorithm in (FedAvg(), FedAvg(Mean("equal")), FedAvg(Median()), LocalOnly(), Quantised()):
        assert metric_weight_of(algorithm) is None


def test_what_depends_on_the_number_of_rounds_is_found_at_any_depth() -> None:
    @dataclass(frozen=True)
    class Annealed(FedAvg):
        uses_count = True

    visit = Visit(accelerator="cpu", callbacks=(ProximalTerm(), Cosine()))
    assert round_count_user((FedAvg(), visit)) == "Cosine"
    assert round_count_user((Quantised(with_totals(Annealed())), Visit(accelerator="cpu"))) == "Annealed"
    assert round_count_user((FedAvg(), Visit(accelerator="cpu", callbacks=(ProximalTerm(),)))) is None


def test_an_annotation_of_another_type_is_no_message_type() -> None:
    class Wrong(FedAvg):
        def visit(self, *_: Any) -> Site:  # type: ignore[override]
            raise NotImplementedError

    assert set(message_types(Wrong())) == set()
