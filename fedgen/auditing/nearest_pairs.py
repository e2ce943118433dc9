"""Nearest pairs, which a site keeps for its own page: the synthetic images that are closest to its training images,
these training images, and the distance ratios of synthetic and held-out images. None of it is sent.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int
from torch import Tensor

from fedcore.site.figures import Arrays, thumbnails
from fedgen.copies.copies import DetectedCopies, NearestTraining

FILE = "nearest_pairs.npz"
MAX_PAIRS = 6
"""Of each comparison."""


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
    """The closest synthetic images of each of `comparisons`, closest first, under names that begin with its name;
    `training` reads images of the site.

    `NAME_synthetic` and `NAME_trained` (q, c, h, w) uint8 (of a volume the middle slice), `NAME_numbers` (q,) in the
    set, `NAME_closeness` (q,), their distance ratios, `NAME_limit` below which an image is a copy, and the ratios of
    all images: `NAME_synthetic_closeness`, `NAME_held_out_closeness`. `views`: the names; `set`: digest of the set.
    """
    arrays = {"views": np.array(list(comparisons), dtype=str), "set": np.array(digest)}
    for name, found in comparisons.items():
        at = found.synthetic.ratio.argsort(stable=True)[:MAX_PAIRS]
        of_comparison = {
            "synthetic": thumbnails(synthetic[at]), "trained": thumbnails(training(found.synthetic.index[at])),
            "numbers": numbers[at].numpy(), "closeness": found.synthetic.ratio[at].numpy(),
            "limit": np.array(found.copies.limit), "synthetic_closeness": found.synthetic.ratio.numpy(),
            "held_out_closeness": found.held_out.ratio.numpy(),
        }  # fmt: skip
        arrays |= {f"{name}_{key}": array for key, array in of_comparison.items()}
    return arrays
