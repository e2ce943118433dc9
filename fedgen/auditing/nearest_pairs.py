"""What a site keeps of an audit for its own page: the drawn images that come nearest to its patients' images, beside
these, and how near drawn and held-out images come. Nothing of it is sent.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int
from torch import Tensor

from fedcore.site.figures import Arrays, thumbnails
from fedgen.copies.copies import Copies, Near

FILE = "lookalikes.npz"
SHOWN = 6
"""Drawn images of each view."""


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
    """For each of `views` the closest drawn images, closest first, named `VIEW_...`; `trained` reads the site's images.

    `drawn` and `trained` (q, c, h, w) uint8 (of a volume the middle slice), `numbers` (q,) in the set, `closeness`
    (q,) of them, `limit` below which it is a copy's, and all closenesses: `all` of the drawn, `held` of the held-out
    images. `set` says of which set.
    """
    arrays = {"views": np.array(list(views), dtype=str), "set": np.array(digest)}
    for name, view in views.items():
        at = view.drawn.closeness.argsort(stable=True)[:SHOWN]
        of = {
            "drawn": thumbnails(shown[at]), "trained": thumbnails(trained(view.drawn.nearest[at])),
            "numbers": numbers[at].numpy(), "closeness": view.drawn.closeness[at].numpy(),
            "limit": np.array(view.judged.limit), "all": view.drawn.closeness.numpy(),
            "held": view.held.closeness.numpy(),
        }  # fmt: skip
        arrays |= {f"{name}_{key}": array for key, array in of.items()}
    return arrays
