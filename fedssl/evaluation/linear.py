"""The linear probe: how well one linear layer tells the classes apart on frozen features."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import cross_entropy


@torch.inference_mode(False)
@torch.enable_grad()
def linear_probe(
    train: Float[Tensor, "n d"], labels: Int[Tensor, "n"], test: Float[Tensor, "m d"],
    penalty: float = 1e-3, steps: int = 100,
) -> Int[Tensor, "m"]:  # fmt: skip
    """Labels of `test` by multinomial logistic regression on standardised features.

    Solved in double precision by L-BFGS from zero: no seed, no learning rate and no schedule to be tuned, so
    encoders differ by their features alone. (The papers train the layer by SGD with a rate searched for.)

    Args:
        train: Features of the training images.
        labels: Their classes.
        test: Features to be classified.
        penalty: Weight of half the squared weights beside the mean cross entropy; biases go free.
        steps: Iterations at most.
    """
    # A probe measures in inference mode, whose tensors cannot be trained on: each is copied first.
    known, asked = train.clone().double(), test.clone().double()
    mean, spread = known.mean(0), known.std(0, correction=0).clamp_min(1e-6)
    known, asked = (known - mean) / spread, (asked - mean) / spread
    classes, target = labels.clone().unique(return_inverse=True)
    weight = torch.zeros(known.shape[1], len(classes), dtype=torch.float64, requires_grad=True)
    bias = torch.zeros(len(classes), dtype=torch.float64, requires_grad=True)
    solver = torch.optim.LBFGS([weight, bias], max_iter=steps, line_search_fn="strong_wolfe")

    def objective() -> Tensor:
        solver.zero_grad()
        loss = cross_entropy(known @ weight + bias, target) + penalty / 2 * weight.square().sum()
        loss.backward()
        return loss

    solver.step(objective)
    return classes[(asked @ weight + bias).detach().argmax(1)]
