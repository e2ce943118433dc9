"""Our ViT for timm, where the positions, which our ViT computes for each size, are weights for one size."""

from __future__ import annotations

import torch

from fedcore.errors import InputError
from fedcore.export.portable import Library, Portable
from fedcore.messages.tensors import Tensors
from fedcore.models.vit import ViT, positions

_NAMES = {
    "norm1.": "norm1.", "self_attn.in_proj_": "attn.qkv.", "self_attn.out_proj.": "attn.proj.",
    "norm2.": "norm2.", "linear1.": "mlp.fc1.", "linear2.": "mlp.fc2.",
}  # fmt: skip
"""Prefixes in a block: ours -> timm's. Both stack queries, keys and values in this order."""


def portable_vit(encoder: ViT, to: Library, size: tuple[int, ...]) -> Portable:
    """Weights and code for `to`; `size` of the images is in pixels.

    Raises:
        InputError: `to` has no such network, or the size is unknown.
    """
    if encoder.config["spatial_dims"] != 2:
        raise InputError(
            "no library has this ViT for volumes; in Python, fedcore.models.encoder_store.build_encoder loads it"
        )
    if to == "monai":
        raise InputError("MONAI's ViT has another epsilon and no class token without a classifier; use `--to timm`")
    if to == "torchvision":
        raise InputError("torchvision's ViT returns the class token, not the mean of the patches; use `--to timm`")
    if len(size) != 2:
        raise InputError(
            "timm's ViT has a fixed image size, and encoder.json names none; add `size`: [height, width] to it"
        )
    return _timm(encoder, size)


def _timm(encoder: ViT, size: tuple[int, ...]) -> Portable:
    c = encoder.config
    build = (
        "model = VisionTransformer(",
        f"    img_size={tuple(size)}, patch_size={c['patch']}, in_chans={c['channels']}, num_classes=0,",
        f"    embed_dim={c['width']}, depth={c['depth']}, num_heads={c['heads']}, mlp_ratio={c['mlp_ratio']},",
        '    global_pool="avg", fc_norm=False,', ")",
    )  # fmt: skip
    notes = ("Positions are weights of this size; for another, change `size` in encoder.json and export again.",)
    imports = ("from timm.models.vision_transformer import VisionTransformer",)
    return Portable(_renamed(encoder) | _position_weights(encoder, size), imports, build, encoder.width, notes)


def _renamed(encoder: ViT) -> Tensors:
    return {_renamed_one(name): t for name, t in encoder.state_dict().items()}


def _renamed_one(name: str) -> str:
    if name == "token":
        return "cls_token"
    if not name.startswith("blocks."):
        return name.replace("patches.", "patch_embed.proj.")
    blocks, number, rest = name.split(".", 2)
    ours = next(prefix for prefix in _NAMES if rest.startswith(prefix))
    return f"{blocks}.{number}.{_NAMES[ours]}{rest.removeprefix(ours)}"


def _position_weights(encoder: ViT, size: tuple[int, ...]) -> Tensors:
    """timm's position embedding; the class token has no position, so its row is zero."""
    grid = tuple(side // encoder.patch for side in size)
    patches = positions(grid, encoder.width, torch.device("cpu"))
    return {"pos_embed": torch.cat([torch.zeros(1, encoder.width), patches])[None]}
