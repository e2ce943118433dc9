"""The linear probe: how well a linear classifier on frozen features separates the classes."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import cross_entropy


@torch.inference_mode(False)
@torch.enable_grad()
def linear_probe(
    train: Float[Tensor, "n d"], labels: Int[Tensor, "n"], test: Float[Tensor, "m d"],
    l2_penalty: float = 1e-3, max_iter: int = 100,
) -> Int[Tensor, "m"]:  # fmt: skip
    """Labels of `test` by multinomial logistic regression on standardised features.

    Solved in double precision by L-BFGS from zero: no seed, no learning rate and no schedule to be tuned, so
    encoders differ by their features alone. (The papers train the layer by SGD with a learning rate searched for.)

    Args:
        train: Features of the training images.
        labels: Their classes.
        test: Features to be classified.
        l2_penalty: Weight of half the squared weights, added to the mean cross entropy; biases are not penalised.
        max_iter: Maximum number of iterations.
    """
    # A probe runs in inference mode, whose tensors cannot be trained on: each is copied first.
    x_train, x_test = train.clone().double(), test.clone().double()
    mean, std = x_train.mean(0), x_train.std(0, correction=0).clamp_min(1e-6)
    x_train, x_test = (x_train - mean) / std, (x_test - mean) / std
    classes, target = labels.clone().unique(return_inverse=True)
    weight = torch.zeros(x_train.shape[1], len(classes), dtype=torch.float64, requires_grad=True)
    bias = torch.zeros(len(classes), dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([weight, bias], max_iter=max_iter, line_search_fn="strong_wolfe")

    def objective() -> Tensor:
        optimizer.zero_grad()
        loss = cross_entropy(x_train @ weight + bias, target) + l2_penalty / 2 * weight.square().sum()
        loss.backward()
        return loss

    optimizer.step(objective)
    return classes[(x_test @ weight + bias).detach().argmax(1)]
