"""Train on synthetic images, test on real ones (TSTR): do the classes of the synthetic images mean what they say?

The classifier is linear on features, so a site computes it within seconds. The same classifier trained on as many real
images of the site (TRTR) shows what can be reached at all.
"""

from __future__ import annotations

from collections.abc import Iterator
from statistics import fmean

import torch
from jaxtyping import Float, Int
from torch import Tensor

TSTR_METRICS = ("tstr", "trtr", "tstr_classes", "tstr_images")
MIN_PER_CLASS = 5
"""Images of a class: synthetic, real and held-out ones; smaller classes are left out."""
MAX_PER_CLASS = 100
"""Training images of a class."""
REPEATS = 10
RIDGE = 0.1


def tstr(
    synthetic: Float[Tensor, "n d"], synthetic_labels: Int[Tensor, " n"],
    real: Float[Tensor, "m d"], real_labels: Int[Tensor, " m"],
    held_out: Float[Tensor, "h d"], held_out_labels: Int[Tensor, " h"],
) -> dict[str, float]:  # fmt: skip
    """Balanced accuracy on held-out images after training on synthetic images (`tstr`) and on real ones (`trtr`), with
    the number of classes (`tstr_classes`) and of held-out images (`tstr_images`) that both are measured on.

    Both train on equally many random images of every class; the figures are means over ten repeats. Negative labels
    mean no class. Empty where fewer than two classes have enough images.
    """
    parts = (synthetic_labels, real_labels, held_out_labels)
    classes = [
        c
        for c in synthetic_labels.unique().tolist()
        if c >= 0 and min(int((labels == c).sum()) for labels in parts) >= MIN_PER_CLASS
    ]
    if len(classes) < 2:
        return {}
    counts = {c: min(MAX_PER_CLASS, int((synthetic_labels == c).sum()), int((real_labels == c).sum())) for c in classes}
    tested = torch.isin(held_out_labels, torch.tensor(classes))
    test = held_out[tested], held_out_labels[tested]
    scores = {
        name: fmean(_accuracy(features[at], labels[at], *test) for at in _subsets(labels, counts))
        for name, features, labels in (("tstr", synthetic, synthetic_labels), ("trtr", real, real_labels))
    }
    return scores | {"tstr_classes": float(len(classes)), "tstr_images": float(tested.sum())}


def _subsets(labels: Int[Tensor, " n"], counts: dict[int, int]) -> Iterator[Int[Tensor, " k"]]:
    """Indices of that many random images of each class; the same for the same labels."""
    random = torch.Generator().manual_seed(0)
    for _ in range(REPEATS):
        order = torch.randperm(len(labels), generator=random)
        yield torch.cat([order[labels[order] == c][:count] for c, count in counts.items()])


def _accuracy(
    features: Float[Tensor, "n d"], labels: Int[Tensor, " n"],
    held_out: Float[Tensor, "h d"], held_out_labels: Int[Tensor, " h"],
) -> float:  # fmt: skip
    """Balanced accuracy of ridge regression onto the classes; features are standardised by the training images."""
    classes = labels.unique()
    mean, deviation = features.double().mean(0), features.double().std(0).clamp_min(1e-6)
    x, z = ((part.double() - mean) / deviation for part in (features, held_out))
    targets = (labels[:, None] == classes).double()
    eye = torch.eye(x.shape[1], dtype=torch.float64)
    weights = torch.linalg.solve(x.T @ x + RIDGE * len(x) * eye, x.T @ (targets - targets.mean(0)))
    predicted = classes[(z @ weights + targets.mean(0)).argmax(1)]
    return fmean(float((predicted[held_out_labels == c] == c).double().mean()) for c in classes)
