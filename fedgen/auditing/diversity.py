"""Do drawn images differ from one another as real ones do? The mean structural similarity of pairs (Odena et al. 2017,
arXiv 1610.09585): a generator that fell into few modes draws pairs that are more alike than real ones. And are there
images twice in a set, or empty ones? That takes no real image.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import interpolate

PAIRS = 200
WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
"""Of scales, fine to coarse (Wang et al. 2003)."""
KERNEL = 7
LEAST = 20
"""Images below which a site gives no likeness: the pairs of few are pairs of single patients."""
EQUAL = 1 / 255
"""Root mean square difference, of the whole range of brightness, below which two images are nearly equal."""
SIDE = 16
VOXELS = 1 << 22
"""Of the images that are compared at once, and pairs of images whose distances are."""


def likenesses(
    drawn: Float[Tensor, "n c *space"], labels: Int[Tensor, " n"],
    real: Float[Tensor, "m c *space"], truth: Int[Tensor, " m"],
) -> dict[str, float]:  # fmt: skip
    """`likeness` of drawn images and `real_likeness` of real ones; none where either has too few images."""
    if min(len(labels), len(truth)) < LEAST:
        return {}
    found = {"likeness": likeness(drawn, labels), "real_likeness": likeness(real, truth)}
    return {name: value for name, value in found.items() if value is not None}


def emptiness(images: Float[Tensor, "n c *space"]) -> dict[str, float]:
    """Parts of a set: `repeated`, images nearly equal to another one; `constant`, images of one brightness.

    Images are reduced to 16 pixels a side for that, so noise of single pixels makes none another one.
    """
    small = interpolate(images.float(), [min(SIDE, n) for n in images.shape[2:]], mode="area").flatten(1) / 2
    limit = EQUAL * small.shape[1] ** 0.5
    # Each is near itself.
    near = [(torch.cdist(part, small) < limit).sum(1) > 1 for part in small.split(max(1, VOXELS // len(small)))]
    repeated = torch.cat(near)
    constant = (small - small.mean(1, keepdim=True)).norm(dim=1) < limit
    return {"repeated": float(repeated.double().mean()), "constant": float(constant.double().mean())}


def likeness(images: Float[Tensor, "n c *space"], labels: Int[Tensor, " n"], pairs: int = PAIRS) -> float | None:
    """Mean multi-scale similarity of pairs of one class, in [-1, 1]; near 1, all are the same. None without a pair.

    Always the same pairs for as many images; as many scales as the images can be halved to.
    """
    chosen = _pairs(labels, pairs)
    if not len(chosen):
        return None
    from torchmetrics.functional.image import multiscale_structural_similarity_index_measure as similarity

    scales = next(n for n in range(len(WEIGHTS), 0, -1) if min(images.shape[2:]) >= KERNEL * 2 ** (n - 1) or n == 1)
    weights = tuple(w / sum(WEIGHTS[:scales]) for w in WEIGHTS[:scales])
    total = 0.0
    for part in chosen.split(max(1, VOXELS // images[0].numel())):
        left, right = ((images[side].float() + 1) / 2 for side in part.T)
        told: Tensor = similarity(
            left, right, gaussian_kernel=False, kernel_size=KERNEL, data_range=1.0, betas=weights, normalize="relu"
        )
        total += float(told) * len(part)
    return total / len(chosen)


def _pairs(labels: Int[Tensor, " n"], count: int) -> Int[Tensor, "pairs 2"]:
    """Random pairs of different images of one class, in whole shares of the classes' sizes."""
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
    found = []
    for label in labels.unique():
        of_class = order[labels[order] == label]
        half = len(of_class) // 2
        found.append(torch.stack([of_class[:half], of_class[half : 2 * half]], dim=1))
    together = torch.cat(found) if found else torch.empty(0, 2, dtype=torch.int64)
    return together[torch.linspace(0, len(together) - 1, min(count, len(together))).long()]
