"""What a site keeps of an audit for its own page: the drawn images that come nearest to its patients' images, beside
these, and how near drawn and held-out images come. Nothing of it is sent.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int
from torch import Tensor

from fedcore.site.figure_files import MOST_PAIRS, NearestPairsFile, ViewPairs
from fedcore.site.figures import Arrays, thumbnails
from fedgen.copies.copies import Copies, Near


@dataclass(frozen=True)
class View:
    """What one view of the images (pixels, or features) says."""

    drawn: Near
    held: Near
    judged: Copies


def lookalikes(
    views: Mapping[str, View],
    shown: Float[Tensor, "n c *space"],
    numbers: Int[Tensor, " n"],
    trained: Callable[[Int[Tensor, " q"]], Float[Tensor, "q c *space"]],
    digest: str,
) -> Arrays:
    """The arrays of a NearestPairsFile; `trained` reads the site's images, `digest` is that of the set."""
    pairs = {}
    for name, view in views.items():
        at = view.drawn.closeness.argsort(stable=True)[:MOST_PAIRS]
        pairs[name] = ViewPairs(
            synthetic=thumbnails(shown[at]), trained=thumbnails(trained(view.drawn.nearest[at])),
            numbers=numbers[at].numpy(), closeness=view.drawn.closeness[at].numpy(),
            limit=np.array(view.judged.limit), synthetic_closeness=view.drawn.closeness.numpy(),
            held_out_closeness=view.held.closeness.numpy(),
        )  # fmt: skip
    return NearestPairsFile(digest, pairs).arrays()
