"""One answer a patient: the mean of the probabilities of the patient's images.

Probabilities and not logits, so that one image of which the classifier is absurdly sure does not outvote the others.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import one_hot

TINY = 1e-12
"""A probability below it counts as it: logits stay finite."""


def by_patient(
    logits: Float[Tensor, "n k"], truth: Tensor, patients: Int[Tensor, "n"]
) -> tuple[Float[Tensor, "m k"], Tensor, Int[Tensor, "m"]]:
    """Logits, truth and number of each patient.

    Args:
        logits: Of images.
        truth: (n,) classes, or (n, k) findings. A patient of several classes is of the most frequent, the first of
            equals; a finding of any image is the patient's.
        patients: Equal numbers are one patient.
    """
    distinct, owner = patients.unique(return_inverse=True)

    def added(rows: Tensor) -> Float[Tensor, "m k"]:
        out = torch.zeros(len(distinct), rows.shape[1], dtype=torch.float64)
        return out.index_add_(0, owner, rows.double())

    images = added(torch.ones(len(owner), 1))
    if truth.dim() == 2:
        mean = (added(logits.double().sigmoid()) / images).clamp(TINY, 1 - TINY)
        return mean.logit(), (added(truth) > 0).to(truth.dtype), distinct
    mean = (added(logits.double().softmax(1)) / images).clamp_min(TINY)
    return mean.log(), added(one_hot(truth, logits.shape[1])).argmax(1), distinct
