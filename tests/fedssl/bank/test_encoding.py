from __future__ import annotations

import pytest
import torch
from torch.nn.functional import cosine_similarity, normalize

from fedssl.bank.encoding import Encoding, clip_norms, decode, encode

FEATURES = normalize(torch.randn(500, 128, generator=torch.Generator().manual_seed(0)), dim=1)


def test_fp32_is_exact() -> None:
    assert torch.equal(decode(*encode(FEATURES, "fp32")), FEATURES)


@pytest.mark.parametrize("encoding", ["fp16", "int8"])
def test_fp16_and_int8_keep_the_direction_of_every_row(encoding: Encoding) -> None:
    assert cosine_similarity(decode(*encode(FEATURES, encoding)), FEATURES).min() > 0.9999


@pytest.mark.parametrize(("encoding", "size", "scales"), [("fp32", 4, 0), ("fp16", 2, 0), ("int8", 1, 500)])
def test_bytes_per_number_and_number_of_scales(encoding: Encoding, size: int, scales: int) -> None:
    rows, scale = encode(FEATURES, encoding)
    assert (rows.element_size(), rows.shape, len(scale), scale.dtype) == (
        size,
        FEATURES.shape,
        scales,
        torch.float32,
    )


def test_int8_by_hand() -> None:
    rows, scale = encode(torch.tensor([[1.27, -0.64, 0.0], [0.0, 0.0, 0.0]]), "int8")
    assert rows.tolist() == [[127, -64, 0], [0, 0, 0]]
    assert decode(rows, scale)[1].tolist() == [0, 0, 0]
    torch.testing.assert_close(decode(rows, scale)[0], torch.tensor([1.27, -0.64, 0.0]))


@pytest.mark.parametrize("encoding", ["fp32", "fp16", "int8"])
def test_an_empty_bank_can_be_encoded(encoding: Encoding) -> None:
    assert decode(*encode(torch.zeros(0, 4), encoding)).shape == (0, 4)


def test_clip_norms_shortens_long_rows_and_keeps_the_others() -> None:
    rows = FEATURES * torch.linspace(0, 3, 500)[:, None]
    clipped = clip_norms(rows, max_norm=1.5)
    short = rows.norm(dim=1) <= 1.5
    torch.testing.assert_close(clipped[short], rows[short])
    torch.testing.assert_close(clipped[~short].norm(dim=1), torch.full((int((~short).sum()),), 1.5))
    torch.testing.assert_close(normalize(clipped[~short], dim=1), FEATURES[~short])
