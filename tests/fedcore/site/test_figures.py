"""What sites keep for their page: small pictures in their own folders, and never the end of a run."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from fedcore.errors import Refused
from fedcore.site.figures import keep, small_masks, thumbnails
from fedcore.site.site import Site
from tests.fedcore.toys import images


def test_a_site_without_a_folder_keeps_nothing() -> None:
    with pytest.raises(Refused, match="sites have no folders"):
        keep(Site("a", images("a")), "x.npz", {})


def test_thumbnails_hold_grey_levels_and_of_a_volume_the_middle_slice() -> None:
    levels = torch.tensor([-1.0, 0.0, 1.0, 3.0]).view(1, 1, 2, 2)
    assert thumbnails(levels).tolist() == [[[[0, 128], [255, 255]]]]
    volume = torch.full((1, 1, 5, 4, 6), -1.0)
    volume[..., 3] = 1
    assert (thumbnails(volume) == np.full((1, 1, 4, 5), 255)).all()
    volume[:, :, 4, 3, 3] = 0  # most to the right, most to the front
    assert thumbnails(volume)[0, 0, 0, 0] == 128
    assert thumbnails(torch.zeros(2, 3, 30, 60), side=20).shape == (2, 3, 10, 20)


def test_small_masks_lie_on_their_thumbnails_and_hold_no_new_number() -> None:
    masks = torch.zeros(2, 30, 61, dtype=torch.int64)
    masks[:, 10:20, 20:40] = 7
    small = small_masks(masks, side=20)
    assert small.shape == (2, *thumbnails(torch.zeros(2, 1, 30, 61), side=20).shape[2:])
    assert set(np.unique(small)) == {0, 7}
    assert np.array_equal(small_masks(masks, side=61), masks.numpy())
