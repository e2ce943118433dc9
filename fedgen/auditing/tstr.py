"""Train on synthetic images, test on real ones (TSTR): is a class what the synthetic images say it is?

A linear classifier of features, so that a site answers within seconds. The same classifier of as many real images of
the site says what can be reached at all.
"""

from __future__ import annotations

from collections.abc import Iterator
from statistics import fmean

import torch
from jaxtyping import Float, Int
from torch import Tensor

LEAST = 5
"""Images of a class, synthetic and real ones to train on and held-out ones to test on; smaller classes are left out."""
MOST = 100
"""Images of a class that are trained on."""
DRAWS = 10
RIDGE = 0.1


def tstr(
    synthetic: Float[Tensor, "n d"], said: Int[Tensor, " n"], real: Float[Tensor, "m d"], labels: Int[Tensor, " m"],
    held: Float[Tensor, "h d"], truth: Int[Tensor, " h"],
) -> dict[str, float]:  # fmt: skip
    """Balanced accuracy on held-out images, trained on synthetic ones (`tstr`) and on real ones (`trtr`), with the
    number of classes that stand behind both (`tstr_classes`) and that of the held-out images (`tstr_images`).

    Both train on equally many images of every class, drawn at random; the mean of ten draws. Negative labels are none.
    Empty where fewer than two classes have enough images.
    """
    parts = (said, labels, truth)
    classes = [c for c in said.unique().tolist() if c >= 0 and min(int((p == c).sum()) for p in parts) >= LEAST]
    if len(classes) < 2:
        return {}
    counts = {c: min(MOST, int((said == c).sum()), int((labels == c).sum())) for c in classes}
    tested = torch.isin(truth, torch.tensor(classes))
    scores = {
        name: fmean(_accuracy(features[at], of[at], held[tested], truth[tested]) for at in _draws(of, counts))
        for name, features, of in (("tstr", synthetic, said), ("trtr", real, labels))
    }
    return scores | {"tstr_classes": float(len(classes)), "tstr_images": float(tested.sum())}


def _draws(labels: Int[Tensor, " n"], counts: dict[int, int]) -> Iterator[Int[Tensor, " k"]]:
    """Places of so many images of each class, the same for the same labels."""
    random = torch.Generator().manual_seed(0)
    for _ in range(DRAWS):
        order = torch.randperm(len(labels), generator=random)
        yield torch.cat([order[labels[order] == c][:count] for c, count in counts.items()])


def _accuracy(
    features: Float[Tensor, "n d"], labels: Int[Tensor, " n"], held: Float[Tensor, "h d"], truth: Int[Tensor, " h"]
) -> float:
    """Balanced accuracy of ridge regression onto the classes, features scaled by those trained on."""
    classes = labels.unique()
    mean, deviation = features.double().mean(0), features.double().std(0).clamp_min(1e-6)
    x, z = ((part.double() - mean) / deviation for part in (features, held))
    wanted = (labels[:, None] == classes).double()
    eye = torch.eye(x.shape[1], dtype=torch.float64)
    weights = torch.linalg.solve(x.T @ x + RIDGE * len(x) * eye, x.T @ (wanted - wanted.mean(0)))
    guessed = classes[(z @ weights + wanted.mean(0)).argmax(1)]
    return fmean(float((guessed[truth == c] == c).double().mean()) for c in classes)
