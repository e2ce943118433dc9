"""The two views of a batch, for methods that compare two views."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from fedcore.errors import Refused


def two_views(views: list[Float[Tensor, "n c *space"]], min_images: int = 2) -> tuple[Tensor, Tensor]:
    """The first and the second view of a batch.

    Raises:
        Refused: There are not exactly two views, or fewer than `min_images` images: batch norm cannot train on one.
    """
    if len(views) != 2:
        raise Refused(
            f"the method compares 2 views of an image, got {len(views)}; set method.init_args.views.count to 2"
        )
    if len(views[0]) < min_images:
        raise Refused(f"the method needs at least {min_images} images per step, got {len(views[0])}; "
                      "omit the site or raise visit.batch_size")  # fmt: skip
    return views[0], views[1]
