"""The two views of a batch, for methods that take statistics over the images of one view."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from fedcore.errors import Refused


def pair(views: list[Float[Tensor, "n c *space"]]) -> tuple[Tensor, Tensor]:
    """The first and the second view of n > 1 images.

    Raises:
        Refused: There are not two views, or one image, of which a batch norm can learn nothing.
    """
    if len(views) != 2:
        raise Refused(f"the method compares 2 views of an image, got {len(views)}; set views.count to 2")
    if len(views[0]) < 2:
        raise Refused("the method needs at least 2 images a step, got 1; leave the site out or raise visit.batch_size")
    return views[0], views[1]
