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
from fedcore.runs.checkpoint import Checkpoint
from fedcore.server.rounds import Rounds, federate
from fedcore.training.local_trainer import LocalTrainer
from fedcore.training.visit import Visit
from fedcore.transport.in_process import InProcess
from fedssl.methods import mae as source
from fedssl.methods.mae import CROP, MAE, draw, hidden_error, patchify, spread, take
from tests.fedcore.toys import same

BOTH = pytest.mark.parametrize("space", [(8, 12), (8, 4, 8)], ids=["2d", "3d"])


def mae(dims: int = 2, channels: int = 1, **more: Any) -> MAE:
    encoder = ViT(dims, channels, patch=4, width=24, depth=1, heads=2, mlp_ratio=2.0)
    return MAE(encoder, **{"width": 12, "depth": 1, "heads": 2} | more)


def noise(*shape: int) -> Tensor:
    return torch.rand(*shape) * 2 - 1


def hidden_of(seen: Tensor, patches: int) -> list[list[int]]:
    return [[p for p in range(patches) if p not in row] for row in seen.tolist()]


def drawn(seen: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(source, "draw", lambda *_: seen)


@BOTH
@pytest.mark.parametrize("norm_pix", [True, False])
def test_the_loss_equals_the_papers_written_as_loops(
    space: tuple[int, ...], norm_pix: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    module, images = mae(len(space), 2, norm_pix=norm_pix), noise(3, 2, *space)
    patches = images[0, 0].numel() // 4 ** len(space)
    seen = draw(3, patches, 0.5, images.device)
    drawn(seen, monkeypatch)
    total, count = 0.0, 0
    encoded = module.encoder.encode(take(module.encoder.tokens(images), seen))
    guess = module.decoder(encoded, seen, module.encoder.grid(images))
    for i, places in enumerate(hidden_of(seen, patches)):
        pieces = [images[i]]
        for axis in range(1, 1 + len(space)):
            pieces = [part for piece in pieces for part in piece.split(4, dim=axis)]
        for place in places:
            pixels = pieces[place].flatten().double()
            if norm_pix:
                mean = sum(pixels) / len(pixels)
                variance = sum((x - mean) ** 2 for x in pixels) / len(pixels)
                pixels = (pixels - mean) / (variance + 1e-6) ** 0.5
            for x, y in zip(pixels.tolist(), guess[i, place].tolist(), strict=True):
                total, count = total + (x - y) ** 2, count + 1
    assert module.loss([images]).item() == pytest.approx(total / count, rel=1e-5)


def test_an_error_of_hand_size() -> None:
    guess, target = torch.zeros(1, 3, 2), torch.tensor([[[9.0, 9.0], [1.0, 3.0], [2.0, 0.0]]])
    assert hidden_error(guess, target, torch.tensor([[0]])).item() == pytest.approx((1 + 9 + 4 + 0) / 4)
    assert hidden_error(guess, target, torch.tensor([[2, 0]])).item() == pytest.approx((1 + 9) / 2)


def test_a_target_of_hand_size() -> None:
    image = torch.full((1, 1, 4, 8), 0.5)
    image[0, 0, :2, :4], image[0, 0, 2:, :4] = -0.2, 0.6  # the left patch is half dark, half bright; the right is flat
    left, right = mae().target(image)[0]
    torch.testing.assert_close(left, torch.tensor([-1.0] * 8 + [1.0] * 8), rtol=0, atol=1e-4)
    assert not right.any()
    brighter = mae().target(image * 0.5 + 0.1)[0]
    torch.testing.assert_close(brighter[0], left, rtol=0, atol=1e-3)
    torch.testing.assert_close(mae(norm_pix=False).target(image)[0, 1], torch.full((16,), 0.5))


@BOTH
def test_only_hidden_patches_count(space: tuple[int, ...]) -> None:
    target = patchify(noise(2, 1, *space), 4)
    seen, guess = draw(2, target.shape[1], 0.5, target.device), torch.randn_like(target)
    before = hidden_error(guess, target, seen)
    for i in range(2):
        others = target.clone()
        others[i, seen[i]] += torch.randn_like(others[i, seen[i]])
        assert hidden_error(guess, others, seen).equal(before)
        others = target.clone()
        others[i, hidden_of(seen, target.shape[1])[i][0], 0] += 1
        assert not hidden_error(guess, others, seen).equal(before)


@BOTH
def test_what_is_hidden_reaches_neither_encoder_nor_decoder(
    space: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    module, images = mae(len(space)), noise(2, 1, *space)
    patches = patchify(images, 4).shape[1]
    seen = draw(2, patches, 0.5, images.device)
    drawn(seen, monkeypatch)
    guesses: list[Tensor] = []
    module.decoder.register_forward_hook(lambda *call: guesses.append(call[2]))
    hidden = torch.ones(2, patches, dtype=torch.bool).scatter(1, seen, False)
    grid = module.encoder.grid(images)
    mask = hidden.view(2, 1, *grid)
    for axis in range(len(space)):
        mask = mask.repeat_interleave(4, dim=axis + 2)
    for changed in (images, torch.where(mask, noise(*images.shape), images), torch.where(mask, images, -images)):
        module.loss([changed])
    assert torch.equal(guesses[0], guesses[1])
    assert not torch.allclose(guesses[0], guesses[2], atol=1e-3)


def test_tokens_return_to_their_places() -> None:
    tokens, nowhere = torch.randn(3, 7, 5), torch.full((3, 7, 5), 9.0)
    seen = draw(3, 7, 0.5, tokens.device)
    back = spread(take(tokens, seen), seen, nowhere)
    for i, places in enumerate(hidden_of(seen, 7)):
        assert torch.equal(back[i, seen[i]], tokens[i, seen[i]])
        assert (back[i, places] == 9).all()
    every = torch.stack([torch.randperm(7) for _ in range(3)])
    assert torch.equal(spread(take(tokens, every), every, nowhere), tokens)


def test_the_decoder_does_not_depend_on_the_order_of_the_seen() -> None:
    module, images = mae(), noise(2, 1, 12, 12)
    tokens, seen, grid = module.encoder.tokens(images), draw(2, 9, 0.5, images.device), (3, 3)
    one, other = (module.decoder(module.encoder.encode(take(tokens, s)), s, grid) for s in (seen, seen.flip(1)))
    torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("patches", "ratio", "stay"), [(64, 0.6, 25), (64, 0.75, 16), (2, 0.01, 1), (2, 0.99, 1), (9, 0.999, 1)]
)
def test_every_image_draws_its_own_patches(patches: int, ratio: float, stay: int) -> None:
    seen = draw(500, patches, ratio, torch.device("cpu"))
    assert seen.shape == (500, stay)
    assert all(len(set(row)) == stay for row in seen.tolist())
    counts = seen.flatten().bincount(minlength=patches) / 500
    torch.testing.assert_close(counts, torch.full((patches,), stay / patches), rtol=0, atol=0.12)
    torch.manual_seed(5)
    again = draw(500, patches, ratio, torch.device("cpu"))
    torch.manual_seed(5)
    assert torch.equal(draw(500, patches, ratio, torch.device("cpu")), again)
    assert not torch.equal(seen, again)


@BOTH
def test_patches_are_those_that_the_encoder_embeds(space: tuple[int, ...]) -> None:
    encoder, images = mae(len(space), 2).encoder, noise(2, 2, *space)
    pixels = patchify(images, encoder.patch)
    embedded = pixels @ encoder.patches.weight.flatten(1).T + encoder.patches.bias
    torch.testing.assert_close(embedded, encoder.patches(images).flatten(2).mT, rtol=1e-4, atol=1e-5)


def test_it_wants_a_transformer_and_one_view() -> None:
    with pytest.raises(ValueError, match=r"ResNet cannot leave out; set .*fedcore\.models\.vit\.ViT"):
        MAE(ResNet(depth=10, stem=4))
    with pytest.raises(ValueError, match=r"one view of an image, got 2; set method\.init_args\.views\.count to 1"):
        mae(views=Views())
    with pytest.raises(ValueError, match=r"ratio must lie in \(0, 1\), got 1\.0"):
        mae(ratio=1.0)
    with pytest.raises(Refused, match="an image is one patch, so none can be hidden"):
        mae().loss([noise(1, 1, 4, 4)])


def test_its_view_is_the_papers_crop_and_mirror() -> None:
    images = torch.linspace(-1, 1, 16).expand(8, 1, 16, 16)
    (view,) = CROP(images)
    rows = view[:, 0]
    assert (rows - rows[:, :1]).abs().max() < 1e-5  # neither rotation nor noise
    assert {float(row[0, -1] > row[0, 0]) for row in rows} == {0.0, 1.0}


@BOTH
def test_all_of_it_learns_and_travels_in_bf16_too(space: tuple[int, ...]) -> None:
    module = mae(len(space))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = module.training_step(noise(2, 1, *space), 0)
    loss.backward()
    assert loss.dtype == torch.float32
    assert all(p.grad is not None and p.grad.isfinite().all() for p in module.parameters())
    assert all(name.startswith(module.share) for name in module.state_dict())


def federation(images: Callable[..., Images], names: str, size: int = 4, **more: Any) -> InProcess:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        module = mae(**more)
    visit = Visit(batch_size=size, accelerator="cpu", keep_optimizer=True)
    return InProcess({name: images(name) for name in names}, LocalTrainer(module, module.share, visit))


def test_one_site_equals_central_training(images: Callable[..., Images], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(source, "draw", lambda n, *_: torch.tensor([[0, 3]]).expand(n, 2))
    still: dict[str, Any] = {"optimizer": lambda p: SGD(p, lr=0.1, momentum=0.9), "views": Still()}
    sites = federation(images, "a", 12, **still)
    alone = federation(images, "a", 12, **still).local.module
    state = federate(FedAvg(), sites, FedAvg().start(sites.local), Rounds(3), 0)

    optimizer, batch = alone.configure_optimizers(), images("a").batch(range(12))
    for _ in range(3):
        optimizer.zero_grad()
        alone.training_step(batch, 0).backward()
        optimizer.step()
    for name, t in state.tensors.items():
        torch.testing.assert_close(t, alone.state_dict()[name], rtol=1e-4, atol=1e-5)


class Still(Views):
    """A view that draws nothing: the image."""

    def __init__(self) -> None:
        super().__init__(count=1)

    def __call__(self, images: Tensor) -> list[Tensor]:
        return [images]


def test_resumed_equals_uninterrupted_to_the_bit(images: Callable[..., Images], tmp_path: Path) -> None:
    whole = federation(images, "ab")
    expected = federate(FedAvg(), whole, FedAvg().start(whole.local), Rounds(3), 0)
    first = federation(images, "ab")
    first.memories = checkpoint = Checkpoint(tmp_path)
    federate(
        FedAvg(), first, FedAvg().start(first.local), Rounds(3), 0,
        finished=lambda record, state: checkpoint.commit(record.round, state) if record.round < 1 else None,
    )  # fmt: skip
    second = federation(images, "ab")
    second.memories = reopened = Checkpoint.open(tmp_path)
    begin = reopened.restore(FedAvg().start(second.local))
    found = federate(
        FedAvg(), second, begin, Rounds(3), 0, begin=reopened.rounds,
        finished=lambda record, state: reopened.commit(record.round, state),
    )  # fmt: skip
    assert same(found.tensors, expected.tensors)
    assert all(same(reopened.get(name), whole.memories.get(name)) for name in "ab")


def test_it_learns_to_guess() -> None:
    """Stripes whose phase the seen patches tell."""
    module = mae(norm_pix=False, ratio=0.5, views=Still(), optimizer=lambda p: torch.optim.AdamW(p, lr=3e-3))
    phase = torch.rand(16, 1, 1, 1) * 6.28
    batch = torch.sin(torch.arange(8) * 0.8 + phase).expand(16, 1, 8, 8)
    optimizer, losses = module.configure_optimizers(), []
    for _ in range(100):
        optimizer.zero_grad()
        loss = module.training_step(batch, 0)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert sum(losses[-10:]) / 10 < 0.15 < 0.4 < losses[0]  # the best constant guess has 0.5
