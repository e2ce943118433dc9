"""The two views of a batch, for methods that compare two."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from fedcore.errors import Refused


def pair(views: list[Float[Tensor, "n c *space"]], least: int = 2) -> tuple[Tensor, Tensor]:
    """The first and the second view of at least `least` images.

    Raises:
        Refused: There are not two views, or fewer images: of one, a batch norm or its like can learn nothing.
    """
    if len(views) != 2:
        raise Refused(
            f"the method compares 2 views of an image, got {len(views)}; set method.init_args.views.count to 2"
        )
    if len(views[0]) < least:
        raise Refused(f"the method needs at least {least} images a step, got {len(views[0])}; "
                      "leave the site out or raise visit.batch_size")  # fmt: skip
    return views[0], views[1]
