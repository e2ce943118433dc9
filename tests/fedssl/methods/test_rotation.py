from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from fedcore.augment.views import Views
from fedcore.errors import Refused
from fedcore.models.resnet import ResNet
from fedssl.methods.rotation import NUM_ROTATIONS, Rotation, all_rotations


@pytest.mark.parametrize("shape", [(3, 2, 5, 5), (2, 1, 4, 6, 6)])
def test_rotations_equal_numpys(shape: tuple[int, ...]) -> None:
    images = torch.randn(shape)
    rotated, rotation = all_rotations(images)
    n = len(images)
    assert rotation.tolist() == [t for t in range(NUM_ROTATIONS) for _ in range(n)]
    for at in range(NUM_ROTATIONS * n):
        expected = np.rot90(images[at % n].numpy(), k=at // n, axes=(-2, -1))
        assert np.array_equal(rotated[at].numpy(), expected)


def test_rotations_by_hand() -> None:
    rotated, _ = all_rotations(torch.tensor([[[[1.0, 2.0], [3.0, 4.0]]]]))
    assert rotated[1, 0].tolist() == [[2, 4], [1, 3]]
    assert rotated[2, 0].tolist() == [[4, 3], [2, 1]]


@pytest.mark.parametrize("count", [1, 2])
def test_the_loss_is_the_mean_over_images_and_rotations(toy: Callable[..., nn.Module], count: int) -> None:
    module = Rotation(toy(norm=False))
    views = [torch.randn(3, 1, 8, 8) for _ in range(count)]
    losses = [
        cross_entropy(module.head(module.encoder(torch.rot90(image[None], turn, (2, 3)))), torch.tensor([turn]))
        for view in views for image in view for turn in range(4)
    ]  # fmt: skip
    torch.testing.assert_close(module.loss(views), torch.stack(losses).mean())


def test_the_order_of_images_does_not_matter(toy: Callable[..., nn.Module]) -> None:
    module, images, order = Rotation(toy()), torch.randn(6, 1, 8, 8), torch.randperm(6)
    torch.testing.assert_close(module.loss([images[order]]), module.loss([images]))


def test_the_loss_of_a_constant_image_is_at_least_log_4(toy: Callable[..., nn.Module]) -> None:
    """The four rotations are equal, so no head can do better."""
    flat = torch.full((5, 1, 8, 8), 0.3)
    assert Rotation(toy(norm=False)).loss([flat]) >= torch.log(torch.tensor(4.0))


def test_a_pose_can_be_learned(toy: Callable[..., nn.Module]) -> None:
    module = Rotation(toy(), optimizer=lambda p: torch.optim.SGD(p, lr=0.5))
    bright_above = torch.cat([torch.ones(16, 1, 4, 8), torch.zeros(16, 1, 4, 8)], dim=2)
    optimizer = module.configure_optimizers()
    for _ in range(40):
        optimizer.zero_grad()
        loss = module.loss([bright_above + 0.1 * torch.randn(16, 1, 8, 8)])
        loss.backward()
        optimizer.step()
    assert loss < 0.1


def test_images_that_are_not_square_are_rejected(toy: Callable[..., nn.Module]) -> None:
    with pytest.raises(Refused, match=r"last two axes of equal length, got 8 and 6; give data\.size two equal"):
        Rotation(toy()).loss([torch.randn(2, 1, 8, 6)])


@pytest.mark.parametrize("views", [Views(flip=0.5, rotate=0.0), Views(flip=0.0, rotate=5.0), Views()])
def test_views_that_rotate_or_flip_are_rejected(toy: Callable[..., nn.Module], views: Views) -> None:
    with pytest.raises(ValueError, match=r"views\.rotate and views\.flip must be 0"):
        Rotation(toy(), views)


@pytest.mark.parametrize("dims", [2, 3])
def test_it_trains_on_images_and_on_volumes(dims: int) -> None:
    module = Rotation(ResNet(dims, 1, depth=10, stem=8))
    loss = module.loss([torch.rand(4, 1, *(16,) * dims)])
    loss.backward()
    assert loss.isfinite()
    assert all(p.grad.isfinite().all() for p in module.parameters() if p.grad is not None)


@pytest.mark.parametrize("space", [(8, 8), (4, 4, 4)], ids=["2d", "3d"])
def test_bfloat16_is_finite_and_close_to_float32(toy: Callable[..., nn.Module], space: tuple[int, ...]) -> None:
    """Without convolutions: on CPUs torch 2.15 (oneDNN) gets bf16 weight gradients wrong on maps of 1 or 2 pixels."""
    module, twin = Rotation(toy()), Rotation(toy())
    twin.load_state_dict(module.state_dict())
    batch = ([torch.rand(4, 1, *space)],)
    with torch.autocast("cpu", torch.bfloat16):
        loss = module.loss(*batch)
    loss.backward()
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(twin.loss(*batch).item(), rel=0.05)
    assert all(p.grad.isfinite().all() for p in module.parameters() if p.grad is not None)


def test_all_trained_state_is_sent(toy: Callable[..., nn.Module]) -> None:
    assert all(name.startswith(Rotation.share) for name in Rotation(toy()).state_dict())
