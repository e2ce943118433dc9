from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.optim import SGD

from fedcore.algorithms.fedavg import FedAvg
from fedcore.augment.views import Views
from fedcore.data.dataset import Images
from fedcore.errors import Refused
from fedcore.models.resnet import ResNet
from fedcore.models.vit import ViT
from fedcore.server.rounds import Rounds
from fedcore.training.local_trainer import LocalTrainer
from fedcore.training.visit import Visit
from fedssl.methods import mae as mae_module
from fedssl.methods.mae import CROP_AND_FLIP, MAE
from fedssl.methods.masking import gather_tokens, patchify, random_masking
from tests.fedcore.federating import assert_resumes, federate
from tests.fedcore.toys import Hospitals

BOTH = pytest.mark.parametrize("space", [(8, 12), (8, 4, 8)], ids=["2d", "3d"])


def mae(dims: int = 2, channels: int = 1, **more: Any) -> MAE:
    encoder = ViT(dims, channels, patch=4, width=24, depth=1, heads=2, mlp_ratio=2.0)
    return MAE(encoder, **{"decoder_width": 12, "decoder_depth": 1, "decoder_heads": 2} | more)


def random_images(*shape: int) -> Tensor:
    return torch.rand(*shape) * 2 - 1


def masked_patches(visible: Tensor, patches: int) -> list[list[int]]:
    return [[p for p in range(patches) if p not in row] for row in visible.tolist()]


def fix_mask(visible: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mae_module, "random_masking", lambda *_: visible)


@BOTH
@pytest.mark.parametrize("norm_pix_loss", [True, False])
def test_the_loss_equals_the_papers_written_as_loops(
    space: tuple[int, ...], norm_pix_loss: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    module, images = mae(len(space), 2, norm_pix_loss=norm_pix_loss), random_images(3, 2, *space)
    patches = images[0, 0].numel() // 4 ** len(space)
    visible = random_masking(3, patches, 0.5, images.device)
    fix_mask(visible, monkeypatch)
    total, count = 0.0, 0
    encoded = module.encoder.encode(gather_tokens(module.encoder.tokens(images), visible))
    prediction = module.decoder(encoded, visible, module.encoder.grid(images))
    for i, masked in enumerate(masked_patches(visible, patches)):
        pieces = [images[i]]
        for axis in range(1, 1 + len(space)):
            pieces = [patch for piece in pieces for patch in piece.split(4, dim=axis)]
        for index in masked:
            pixels = pieces[index].flatten().double()
            if norm_pix_loss:
                mean = sum(pixels) / len(pixels)
                variance = sum((x - mean) ** 2 for x in pixels) / len(pixels)
                pixels = (pixels - mean) / (variance + 1e-6) ** 0.5
            for x, y in zip(pixels.tolist(), prediction[i, index].tolist(), strict=True):
                total, count = total + (x - y) ** 2, count + 1
    assert module.loss([images]).item() == pytest.approx(total / count, rel=1e-5)


def test_the_target_by_hand() -> None:
    image = torch.full((1, 1, 4, 8), 0.5)
    image[0, 0, :2, :4], image[0, 0, 2:, :4] = -0.2, 0.6  # the left patch is half dark, half bright; the right is flat
    left, right = mae().target(image)[0]
    torch.testing.assert_close(left, torch.tensor([-1.0] * 8 + [1.0] * 8), rtol=0, atol=1e-4)
    assert not right.any()
    brighter = mae().target(image * 0.5 + 0.1)[0]
    torch.testing.assert_close(brighter[0], left, rtol=0, atol=1e-3)
    torch.testing.assert_close(mae(norm_pix_loss=False).target(image)[0, 1], torch.full((16,), 0.5))


@BOTH
def test_masked_pixels_do_not_affect_the_prediction(space: tuple[int, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    module, images = mae(len(space)), random_images(2, 1, *space)
    patches = patchify(images, 4).shape[1]
    visible = random_masking(2, patches, 0.5, images.device)
    fix_mask(visible, monkeypatch)
    predictions: list[Tensor] = []
    module.decoder.register_forward_hook(lambda *call: predictions.append(call[2]))
    masked = torch.ones(2, patches, dtype=torch.bool).scatter(1, visible, False)
    grid = module.encoder.grid(images)
    mask = masked.view(2, 1, *grid)
    for axis in range(len(space)):
        mask = mask.repeat_interleave(4, dim=axis + 2)
    for changed in (
        images,
        torch.where(mask, random_images(*images.shape), images),
        torch.where(mask, images, -images),
    ):
        module.loss([changed])
    assert torch.equal(predictions[0], predictions[1])
    assert not torch.allclose(predictions[0], predictions[2], atol=1e-3)


def test_the_decoder_does_not_depend_on_the_order_of_the_visible_patches() -> None:
    module, images = mae(), random_images(2, 1, 12, 12)
    tokens, visible, grid = module.encoder.tokens(images), random_masking(2, 9, 0.5, images.device), (3, 3)
    one, other = (
        module.decoder(module.encoder.encode(gather_tokens(tokens, v)), v, grid) for v in (visible, visible.flip(1))
    )
    torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


def test_wrong_encoders_views_and_mask_ratios_are_rejected() -> None:
    with pytest.raises(ValueError, match=r"ResNet does not; set .*fedcore\.models\.vit\.ViT"):
        MAE(ResNet(depth=10, stem=4))
    with pytest.raises(ValueError, match=r"one view of an image, got 2; set method\.init_args\.views\.count to 1"):
        mae(views=Views())
    with pytest.raises(ValueError, match=r"mask_ratio must lie in \(0, 1\), got 1\.0"):
        mae(mask_ratio=1.0)
    with pytest.raises(Refused, match="an image is one patch, so none can be masked"):
        mae().loss([random_images(1, 1, 4, 4)])


def test_the_default_view_is_a_crop_and_a_flip() -> None:
    images = torch.linspace(-1, 1, 16).expand(8, 1, 16, 16)
    (view,) = CROP_AND_FLIP(images)
    rows = view[:, 0]
    assert (rows - rows[:, :1]).abs().max() < 1e-5  # neither rotation nor noise
    assert {float(row[0, -1] > row[0, 0]) for row in rows} == {0.0, 1.0}


@BOTH
def test_all_state_is_trained_in_bf16_and_sent(space: tuple[int, ...]) -> None:
    module = mae(len(space))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = module.training_step(random_images(2, 1, *space), 0)
    loss.backward()
    assert loss.dtype == torch.float32
    assert all(p.grad is not None and p.grad.isfinite().all() for p in module.parameters())
    assert all(name.startswith(module.share) for name in module.state_dict())


def federation(images: Callable[..., Images], names: str, size: int = 4, **more: Any) -> Hospitals:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        module = mae(**more)
    visit = Visit(batch_size=size, accelerator="cpu", keep_optimizer=True)
    return Hospitals({name: images(name) for name in names}, LocalTrainer(module, module.share, visit))


def test_one_site_equals_central_training(images: Callable[..., Images], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mae_module, "random_masking", lambda n, *_: torch.tensor([[0, 3]]).expand(n, 2))
    settings: dict[str, Any] = {"optimizer": lambda p: SGD(p, lr=0.1, momentum=0.9), "views": NoTransform()}
    sites = federation(images, "a", 12, **settings)
    alone = federation(images, "a", 12, **settings).local.module
    state = federate(FedAvg(), sites, FedAvg().start(sites.local), Rounds(3), 0)

    optimizer, batch = alone.configure_optimizers(), images("a").batch(range(12))
    for _ in range(3):
        optimizer.zero_grad()
        alone.training_step(batch, 0).backward()
        optimizer.step()
    for name, t in state.tensors.items():
        torch.testing.assert_close(t, alone.state_dict()[name], rtol=1e-4, atol=1e-5)


class NoTransform(Views):
    """One view: the image."""

    def __init__(self) -> None:
        super().__init__(count=1)

    def __call__(self, images: Tensor) -> list[Tensor]:
        return [images]


def test_a_resumed_run_equals_an_uninterrupted_one_exactly(images: Callable[..., Images], tmp_path: Path) -> None:
    assert_resumes(FedAvg(), lambda: federation(images, "ab"), tmp_path)


def test_it_learns_to_reconstruct() -> None:
    """Stripes whose phase the visible patches determine."""
    module = mae(
        norm_pix_loss=False, mask_ratio=0.5, views=NoTransform(), optimizer=lambda p: torch.optim.AdamW(p, lr=3e-3)
    )
    phase = torch.rand(16, 1, 1, 1) * 6.28
    batch = torch.sin(torch.arange(8) * 0.8 + phase).expand(16, 1, 8, 8)
    optimizer, losses = module.configure_optimizers(), []
    for _ in range(100):
        optimizer.zero_grad()
        loss = module.training_step(batch, 0)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert sum(losses[-10:]) / 10 < 0.15 < 0.4 < losses[0]  # the best constant prediction has 0.5
