"""Institutional incremental learning: the model goes from site to site (Sheller et al. 2020, Sci Rep 10:12598).

Each site trains on what the site before it left, and passes that on; nothing is averaged. How often the model comes
round is the schedule's::

    algorithm: fedcore.algorithms.incremental.Incremental
    visit: {max_epochs: 50}
    rounds: {count: 4}      # as many as sites: IIL, each site trains once, for as long as it will

    visit: {max_epochs: 1}
    rounds: {count: 80}     # 20 times as many: CIIL, cyclic, where what was learned first is not forgotten last
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from fedcore.algorithms.base import FedAvg
from fedcore.errors import InputError
from fedcore.site.site import Round


@dataclass(frozen=True)
class Incremental(FedAvg):
    """A round is the visit of one site, in the order in which the data names them.

    It is FedAvg with one site a round, whose mean is that site's own model, running statistics included: weights that
    no mean hides among others. A site that refuses in its turn ends the run with its reason, for nobody is left out
    unseen; resumed, the run asks it again.
    """

    def draw(self, names: Sequence[str], turn: Round) -> list[str]:
        """The one site of this round.

        Raises:
            InputError: The schedule ends before every site had its turn.
        """
        if turn.count < len(names):
            raise InputError(
                f"rounds.count must be at least the number of sites, {len(names)}, for each to train, got {turn.count}"
            )
        return [names[turn.index % len(names)]]
