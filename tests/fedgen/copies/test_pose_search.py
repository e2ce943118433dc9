from __future__ import annotations

import torch

from fedcore.data.phantom.phantoms import Phantoms
from fedgen.copies.pose_search import WHOLE, Posed, Search


def test_the_same_image_is_wholly_similar_in_any_pose() -> None:
    images = next(iter(Phantoms(1, 120, test_fraction=0.0).cohort(32).sites.values())).batch(range(120))
    patients = torch.arange(120) // 2
    posed = Posed.of(images, patients, WHOLE[2])
    turned = torch.cat([images[:8], images[:8].transpose(-1, -2).flip(-1).flip(-2).transpose(-1, -2), -images[:8]])
    found = posed(turned)
    best = found.similarity.max(1)
    assert found.at.gather(1, best.indices[:, None])[:, 0].tolist() == [*range(8)] * 3
    assert best.values.min() > 0.999


def test_a_search_tries_every_shift_zoom_and_turn() -> None:
    assert len(Search().start(2)) == 1
    assert len(WHOLE[2].start(2)) == 25 * 5
    assert len(WHOLE[3].start(3)) == 27 * 3
    assert len(WHOLE[2].start(2).unique(dim=0)) == 25 * 5
