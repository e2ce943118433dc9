"""Nearest pairs, which a site keeps for its own page: the synthetic images that are closest to its training images,
these training images, and the distance ratios of synthetic and held-out images. None of it is sent.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int
from torch import Tensor

from fedcore.site.figure_files import MOST_PAIRS, NearestPairsFile, ViewPairs
from fedcore.site.figures import Arrays, thumbnails
from fedgen.copies.copies import DetectedCopies, NearestTraining


@dataclass(frozen=True)
class Comparison:
    """The result of one comparison, by pixels or by features."""

    synthetic: NearestTraining
    held_out: NearestTraining
    copies: DetectedCopies


def nearest_pairs(
    comparisons: Mapping[str, Comparison],
    synthetic: Float[Tensor, "n c *space"],
    numbers: Int[Tensor, " n"],
    training: Callable[[Int[Tensor, " q"]], Float[Tensor, "q c *space"]],
    digest: str,
) -> Arrays:
    """The arrays of a NearestPairsFile: the closest synthetic images of each of `comparisons`, closest first.

    `training` reads images of the site, `digest` is that of the set.
    """
    pairs = {}
    for name, found in comparisons.items():
        at = found.synthetic.ratio.argsort(stable=True)[:MOST_PAIRS]
        pairs[name] = ViewPairs(
            synthetic=thumbnails(synthetic[at]), trained=thumbnails(training(found.synthetic.index[at])),
            numbers=numbers[at].numpy(), closeness=found.synthetic.ratio[at].numpy(),
            limit=np.array(found.copies.limit), synthetic_closeness=found.synthetic.ratio.numpy(),
            held_out_closeness=found.held_out.ratio.numpy(),
        )  # fmt: skip
    return NearestPairsFile(digest, pairs).arrays()
