"""Institutional incremental learning: the model goes from site to site (Sheller et al. 2020, Sci Rep 10:12598).

Each site trains the weights that the site before it sent; nothing is averaged. The number of cycles follows from the
schedule::

    algorithm: fedcore.algorithms.incremental.Incremental
    visit: {max_epochs: 50}
    rounds: {count: 4}      # number of sites: IIL, each site trains once, to convergence

    visit: {max_epochs: 1}
    rounds: {count: 80}     # 20 times the number of sites: CIIL, cyclic, which forgets less of the first sites
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from fedcore.algorithms.fedavg import FedAvg
from fedcore.errors import InputError
from fedcore.messages.round import Round


@dataclass(frozen=True)
class Incremental(FedAvg):
    """A round is the visit of one site; the sites follow each other in the order of the data.

    It is FedAvg with one site per round. The mean is this site's model, running statistics included, so no mean hides
    it among others. If a site declines, the run ends with its reason, because no site may be skipped; when the run is
    resumed, this site is asked again.
    """

    def choose(self, state: Any, names: Sequence[str], turn: Round) -> list[str]:
        """The site of this round.

        Raises:
            InputError: The schedule is too short for all sites to train.
        """
        if turn.count < len(names):
            raise InputError(
                f"rounds.count must be at least the number of sites, {len(names)}, for each to train, got {turn.count}"
            )
        return [names[turn.index % len(names)]]
