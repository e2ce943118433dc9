from __future__ import annotations

import torch

from fedcore.data.phantom.phantoms import Phantoms
from fedgen.copies.pose_search import WHOLE_IMAGE_POSES, PoseGrid, PoseSearch


def test_the_same_image_has_similarity_1_in_any_pose() -> None:
    images = next(iter(Phantoms(1, 120, test_fraction=0.0).cohort(32).sites.values())).batch(range(120))
    patients = torch.arange(120) // 2
    posed = PoseSearch.fit(images, patients, WHOLE_IMAGE_POSES[2])
    turned = torch.cat([images[:8], images[:8].transpose(-1, -2).flip(-1).flip(-2).transpose(-1, -2), -images[:8]])
    found = posed(turned)
    best = found.similarity.max(1)
    assert found.index.gather(1, best.indices[:, None])[:, 0].tolist() == [*range(8)] * 3
    assert best.values.min() > 0.999


def test_a_pose_grid_holds_every_shift_zoom_and_rotation() -> None:
    assert len(PoseGrid().transforms(2)) == 1
    assert len(WHOLE_IMAGE_POSES[2].transforms(2)) == 25 * 5
    assert len(WHOLE_IMAGE_POSES[3].transforms(3)) == 27 * 3
    assert len(WHOLE_IMAGE_POSES[2].transforms(2).unique(dim=0)) == 25 * 5
