"""Diversity of a synthetic set: do its images differ from one another as real images do?

The mean structural similarity of pairs (Odena et al. 2017, arXiv 1610.09585): after mode collapse, pairs of synthetic
images are more similar than pairs of real ones. Near duplicates and blank images of a set are counted without any real
image.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import interpolate

PAIR_METRICS = ("ms_ssim", "real_ms_ssim")
PAIRS = 200
SCALE_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
"""Of MS-SSIM, fine to coarse (Wang et al. 2003)."""
KERNEL = 7
MIN_IMAGES = 20
"""Images below which a site sends no pair similarity: pairs of few images are pairs of single patients."""
EQUAL = 1 / 255
"""Root mean square difference, as a part of the range of brightness, below which two images are near duplicates."""
SIDE = 16
VOXELS = 1 << 22
"""Of the images compared at once, and number of distances computed at once."""


def pair_similarities(
    synthetic: Float[Tensor, "n c *space"], synthetic_labels: Int[Tensor, " n"],
    real: Float[Tensor, "m c *space"], real_labels: Int[Tensor, " m"],
) -> dict[str, float]:  # fmt: skip
    """`ms_ssim` of synthetic images and `real_ms_ssim` of real ones (`mean_pair_similarity`); empty where either has
    too few images."""
    if min(len(synthetic_labels), len(real_labels)) < MIN_IMAGES:
        return {}
    found = {
        "ms_ssim": mean_pair_similarity(synthetic, synthetic_labels),
        "real_ms_ssim": mean_pair_similarity(real, real_labels),
    }
    return {name: value for name, value in found.items() if value is not None}


def near_duplicates_and_blanks(images: Float[Tensor, "n c *space"]) -> dict[str, float]:
    """Parts of a set: `near_duplicates`, images nearly equal to another one; `blank`, images of one brightness.

    Images are compared at 16 pixels per side, so that noise of single pixels makes no difference.
    """
    small = interpolate(images.float(), [min(SIDE, n) for n in images.shape[2:]], mode="area").flatten(1) / 2
    limit = EQUAL * small.shape[1] ** 0.5
    # Each image is near itself.
    near = [(torch.cdist(part, small) < limit).sum(1) > 1 for part in small.split(max(1, VOXELS // len(small)))]
    duplicate = torch.cat(near)
    blank = (small - small.mean(1, keepdim=True)).norm(dim=1) < limit
    return {"near_duplicates": float(duplicate.double().mean()), "blank": float(blank.double().mean())}


def mean_pair_similarity(
    images: Float[Tensor, "n c *space"], labels: Int[Tensor, " n"], pairs: int = PAIRS
) -> float | None:
    """Mean MS-SSIM of pairs of one class, in [-1, 1]; near 1 all images are the same. None without a pair.

    The pairs are the same at each call for equally many images. There are as many scales as the images can be halved.
    """
    chosen = _pairs(labels, pairs)
    if not len(chosen):
        return None
    from torchmetrics.functional.image import multiscale_structural_similarity_index_measure as ms_ssim

    sizes = range(len(SCALE_WEIGHTS), 0, -1)
    scales = next(n for n in sizes if min(images.shape[2:]) >= KERNEL * 2 ** (n - 1) or n == 1)
    weights = tuple(w / sum(SCALE_WEIGHTS[:scales]) for w in SCALE_WEIGHTS[:scales])
    total = 0.0
    for part in chosen.split(max(1, VOXELS // images[0].numel())):
        left, right = ((images[side].float() + 1) / 2 for side in part.T)
        mean: Tensor = ms_ssim(
            left, right, gaussian_kernel=False, kernel_size=KERNEL, data_range=1.0, betas=weights, normalize="relu"
        )
        total += float(mean) * len(part)
    return total / len(chosen)


def _pairs(labels: Int[Tensor, " n"], count: int) -> Int[Tensor, "pairs 2"]:
    """Random pairs of different images of one class, in proportion to the sizes of the classes."""
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
    found = []
    for label in labels.unique():
        of_class = order[labels[order] == label]
        half = len(of_class) // 2
        found.append(torch.stack([of_class[:half], of_class[half : 2 * half]], dim=1))
    pairs = torch.cat(found) if found else torch.empty(0, 2, dtype=torch.int64)
    return pairs[torch.linspace(0, len(pairs) - 1, min(count, len(pairs))).long()]
