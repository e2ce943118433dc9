"""ViT, the vision transformer of fedcore.models.vit."""

from __future__ import annotations

import warnings
from math import cos, erf, exp, sin, sqrt
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import layer_norm

from fedcore.errors import Refused
from fedcore.models.encoder_store import build_encoder, save_encoder
from fedcore.models.vit import EPS, ViT, positions, transformer
from tests.fedcore.federating import same

CPU = torch.device("cpu")
BOTH = pytest.mark.parametrize("space", [(16, 24), (8, 16, 8)], ids=["2d", "3d"])


def vit(dims: int = 2, **more: Any) -> ViT:
    settings = {"patch": 4, "width": 24, "depth": 2, "heads": 3, "mlp_ratio": 2.0} | more
    return ViT(dims, 1, **settings)


def noise(*shape: int) -> Tensor:
    return torch.rand(*shape) * 2 - 1


def patches_of(image: Tensor, patch: int) -> list[Tensor]:
    """Patches of one image, row by row, each with the image's channels first."""
    found = [image]
    for axis in range(1, image.ndim):
        found = [part for piece in found for part in piece.split(patch, dim=axis)]
    return found


def block(layer: Any, x: Tensor, heads: int) -> Tensor:
    """A pre-norm block on (tokens, width), attention written out."""
    width = x.shape[1]
    size = width // heads
    normed = layer_norm(x, (width,), layer.norm1.weight, layer.norm1.bias, EPS)
    attended = torch.zeros_like(x)
    for h in range(heads):
        rows = [slice(part * width + h * size, part * width + (h + 1) * size) for part in range(3)]
        q, k, v = (normed @ layer.self_attn.in_proj_weight[r].T + layer.self_attn.in_proj_bias[r] for r in rows)
        for i in range(len(x)):
            ups = [exp(float(q[i] @ k[j]) / sqrt(size)) for j in range(len(x))]
            attended[i, h * size : (h + 1) * size] = sum(up / sum(ups) * v[j] for j, up in enumerate(ups))
    x = x + attended @ layer.self_attn.out_proj.weight.T + layer.self_attn.out_proj.bias
    hidden = layer.linear1(layer_norm(x, (width,), layer.norm2.weight, layer.norm2.bias, EPS))
    hidden = hidden * hidden.detach().clone().apply_(lambda u: (1 + erf(u / sqrt(2))) / 2)  # GELU
    return x + layer.linear2(hidden)


@BOTH
@torch.no_grad()
def test_a_feature_equals_the_network_written_out(space: tuple[int, ...]) -> None:
    encoder, image = vit(len(space)), noise(1, 1, *space)
    for p in encoder.parameters():  # norms and biases must matter too
        p.add_(0.1 * torch.randn_like(p))
    weight, bias = encoder.patches.weight.flatten(1), encoder.patches.bias
    x = torch.stack([weight @ part.flatten() + bias for part in patches_of(image[0], 4)])
    x = x + positions(tuple(side // 4 for side in space), 24, CPU)
    x = torch.cat([encoder.token[0], x])
    for layer in encoder.blocks:
        x = block(layer, x, 3)
    x = layer_norm(x, (24,), encoder.norm.weight, encoder.norm.bias, EPS)
    for mode in (True, False):  # torch runs different code of its layer in each
        torch.testing.assert_close(encoder.train(mode)(image)[0], x[1:].mean(0), rtol=1e-4, atol=1e-5)


@BOTH
def test_positions_are_sines_and_cosines_along_each_axis(space: tuple[int, ...]) -> None:
    grid, dims = tuple(side // 4 for side in space), len(space)
    count, told = 24 // (2 * dims), positions(grid, 24, CPU)
    for number, place in enumerate(torch.cartesian_prod(*[torch.arange(side) for side in grid])):
        expected = [
            wave(int(place[axis]) / 10_000 ** (rate / count))
            for axis in reversed(range(dims))
            for wave in (sin, cos)
            for rate in range(count)
        ]
        torch.testing.assert_close(told[number], torch.tensor(expected), rtol=1e-5, atol=1e-6)
    assert len(told.unique(dim=0)) == len(told)


def test_positions_equal_monais() -> None:
    from monai.networks.blocks.pos_embed_utils import build_sincos_position_embedding

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of its meshgrid
        theirs = build_sincos_position_embedding([3, 5], 24, 2)
    torch.testing.assert_close(positions((3, 5), 24, CPU), theirs[0].data)


def test_positions_cached_in_inference_mode_can_be_used_in_training() -> None:
    encoder, images = vit(), noise(2, 1, 20, 28)
    positions.cache_clear()
    with torch.inference_mode():
        encoder(images)
    assert positions.cache_info().currsize == 1
    encoder(images).sum().backward()
    assert not positions((5, 7), 24, CPU).is_inference()


@BOTH
def test_tokens_may_have_any_order_and_number(space: tuple[int, ...]) -> None:
    encoder = vit(len(space))
    tokens = encoder.tokens(noise(2, 1, *space))
    order = torch.randperm(tokens.shape[1])
    whole, shuffled = encoder.encode(tokens), encoder.encode(tokens[:, order])
    torch.testing.assert_close(shuffled[:, 1:], whole[:, 1:][:, order], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(shuffled[:, 0], whole[:, 0], rtol=1e-4, atol=1e-5)
    assert encoder.encode(tokens[:, :3]).shape == (2, 4, 24)


def test_without_positions_the_order_of_patches_does_not_matter() -> None:
    encoder, image = vit(), noise(1, 1, 16, 16)
    moved = image.roll(4, dims=3)  # the same patches in other places
    bag = [encoder.patches(x).flatten(2).mT for x in (image, moved)]
    torch.testing.assert_close(encoder.encode(bag[0])[:, 0], encoder.encode(bag[1])[:, 0], rtol=1e-4, atol=1e-5)
    assert not torch.allclose(encoder(image), encoder(moved), atol=1e-3)


@pytest.mark.parametrize("space", [(4, 4), (12, 40), (8, 8, 4), (4, 12, 8)])
def test_sides_may_be_any_multiples_of_the_patch(space: tuple[int, ...]) -> None:
    encoder = vit(len(space))
    assert encoder.tokens(noise(2, 1, *space)).shape == (2, torch.Size(space).numel() // 4 ** len(space), 24)
    assert encoder(noise(2, 1, *space)).shape == (2, 24) == (2, encoder.width)


@pytest.mark.parametrize("space", [(16, 18), (8, 9, 8)])
def test_a_side_that_is_no_multiple_of_the_patch_is_refused(space: tuple[int, ...]) -> None:
    told = rf"patches of 4 pixels do not tile images of {' x '.join(map(str, space))}; .* a multiple of 4: change data"
    with pytest.raises(Refused, match=told):
        vit(len(space))(noise(1, 1, *space))


@pytest.mark.parametrize(
    ("dims", "settings", "told"),
    [
        (2, {"width": 26, "heads": 2}, r"multiple of its heads \(2\) and of 4 .* got 26"),
        (3, {"width": 32, "heads": 4}, r"multiple of its heads \(4\) and of 6 .* got 32"),
        (2, {"heads": 5}, r"multiple of its heads \(5\)"),
        (2, {"heads": 0}, r"multiple of its heads \(0\)"),
        (2, {"patch": 0}, r"encoder\.patch and encoder\.depth must be at least 1 .* got 0"),
        (2, {"depth": 0}, r"got 4, 0 and 2\.0"),
        (2, {"mlp_ratio": 0.0}, r"encoder\.mlp_ratio positive"),
    ],
)
def test_settings_are_checked(dims: int, settings: dict[str, Any], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        vit(dims, **settings)


@BOTH
def test_it_is_saved_and_built_again_exactly(space: tuple[int, ...], tmp_path: Path) -> None:
    encoder = vit(len(space))
    built = build_encoder(save_encoder(tmp_path / "encoder", encoder, {}, ""))
    assert type(built) is ViT
    assert built.config == encoder.config
    assert same(built.state_dict(), encoder.state_dict())
    assert not any("position" in name for name in encoder.state_dict())


def test_norms_have_timms_eps() -> None:
    norms = [m for m in vit().modules() if isinstance(m, torch.nn.LayerNorm)]
    assert len(norms) == 2 * 2 + 1
    assert {m.eps for m in norms} == {1e-6}
    assert all(layer.norm_first and layer.self_attn.in_proj_bias is not None for layer in transformer(24, 2, 3, 2.0, 2))


@pytest.mark.filterwarnings("ignore")  # what timm's imports of others say is not ours to mend
@torch.no_grad()
def test_timms_transformer_gives_our_features_with_renamed_tensors() -> None:
    models = pytest.importorskip("timm.models.vision_transformer")
    encoder, images = vit().eval(), noise(2, 1, 16, 24)
    theirs = models.VisionTransformer(
        img_size=(16, 24), patch_size=4, in_chans=1, num_classes=0, global_pool="avg", embed_dim=24, depth=2,
        num_heads=3, mlp_ratio=2.0, fc_norm=False,
    )  # fmt: skip
    names = {
        "patches.": "patch_embed.proj.", "token": "cls_token", "self_attn.in_proj_": "attn.qkv.",
        "self_attn.out_proj.": "attn.proj.", "linear1": "mlp.fc1", "linear2": "mlp.fc2",
    }  # fmt: skip
    tensors = {"pos_embed": torch.cat([torch.zeros(1, 24), positions((4, 6), 24, CPU)])[None]}
    for name, t in encoder.state_dict().items():
        for ours, other in names.items():
            name = name.replace(ours, other)
        tensors[name] = t
    theirs.load_state_dict(tensors, strict=True)
    torch.testing.assert_close(theirs.eval()(images), encoder(images), rtol=1e-4, atol=1e-5)


@BOTH
def test_every_tensor_learns_in_bf16_too(space: tuple[int, ...]) -> None:
    encoder = vit(len(space))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        feature = encoder(noise(2, 1, *space))
    feature.float().square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in encoder.parameters())
