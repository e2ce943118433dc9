"""Callbacks of local training: they change how a site trains, whatever the algorithm and the module.

A recipe lists them under `visit.callbacks`; `LocalTrainer.fit` builds a Lightning callback from each for every visit.
"""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from pytorch_lightning import Callback

from fedcore.messages.round import Round
from fedcore.messages.tensors import Tensors
from fedcore.site.site import Site


@runtime_checkable
class LocalCallback(Protocol):
    """Settings from which a Lightning callback is built for each visit.

    `anchor` are the weights that the site was sent; they are empty where the algorithm sends none. A class that reads
    `turn.count`, the number of rounds of the run, has a class attribute `uses_count = True`: such a run cannot be
    resumed with another number of rounds. One whose Lightning callback reports or logs metrics declares their names in
    a class attribute `metric_names`, such as `("my_loss",)`.
    """

    def callback(self, anchor: Tensors, site: Site, turn: Round) -> Callback: ...


class MetricCallback(Protocol):
    """A Lightning callback that measures something during a visit; the site sends it as metrics, whose names are
    declared by what has built it (`LocalCallback`, or the algorithm)."""

    def report(self) -> dict[str, float]: ...


class SiteAware(Protocol):
    """A module that must know the site and the round, as one with a feature bank does."""

    def on_visit_start(self, site: str, turn: Round) -> None: ...
