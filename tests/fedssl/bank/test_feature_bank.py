from __future__ import annotations

from collections import deque

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from lightly.models.modules.memory_bank import MemoryBankModule
from torch import Tensor

from fedssl.bank.feature_bank import UNKNOWN_BIN, FeatureBank, site_id


def rows(first: int, n: int) -> Tensor:
    """n features of 2 numbers; the value is the index in the stream."""
    return torch.arange(first, first + n).float()[:, None].expand(n, 2)


def filled(capacity: int, sizes: list[int]) -> FeatureBank:
    bank, at = FeatureBank(capacity, 2), 0
    for turn, n in enumerate(sizes):
        bank.push(rows(at, n), site_id=turn % 3, round_index=turn)
        at += n
    return bank


@settings(deadline=None, max_examples=80)
@given(capacity=st.integers(1, 7), sizes=st.lists(st.integers(0, 16), max_size=8))
def test_a_bank_equals_a_deque_with_maxlen(capacity: int, sizes: list[int]) -> None:
    bank, expected, at = FeatureBank(capacity, 2), deque[tuple[int, int, int, int]](maxlen=capacity), 0
    for turn, n in enumerate(sizes):
        bank.push(rows(at, n), site_id=turn % 3, round_index=turn, position_bin=torch.arange(at, at + n) % 4)
        expected.extend((at + i, turn % 3, turn, (at + i) % 4) for i in range(n))
        at += n

        features, round_index, bins = bank.newest(capacity)
        assert features[:, 0].tolist() == [index for index, *_ in expected]
        assert round_index.tolist() == [turn for *_, turn, _ in expected]
        assert bins.tolist() == [position_bin for *_, position_bin in expected]
        stored = bank.round_index >= 0
        columns = (bank.entries()[:, 0], bank.site_id[stored], bank.round_index[stored], bank.entry_bins())
        assert sorted(zip(*(column.tolist() for column in columns), strict=True)) == sorted(expected)
        assert len(bank) == len(expected)
        assert sorted(bank.ages(current_round=turn).tolist()) == sorted(turn - b for *_, b, _ in expected)


@given(sizes=st.lists(st.integers(1, 9), min_size=1, max_size=6), n=st.integers(1, 12))
def test_newest_returns_the_last_features_pushed(sizes: list[int], n: int) -> None:
    stored = min(sum(sizes), 5)
    features, *_ = filled(5, sizes).newest(n)
    assert features[:, 0].tolist() == list(range(sum(sizes) - min(n, stored), sum(sizes)))


def test_a_bank_starts_empty_and_clear_empties_it() -> None:
    bank = FeatureBank(4, 2)
    assert (len(bank), bank.entries().shape, bank.newest(3)[0].shape) == (0, (0, 2), (0, 2))
    bank.push(rows(0, 6), site_id=1, round_index=0)
    bank.clear()
    assert (len(bank), bank.entries().shape) == (0, (0, 2))
    bank.push(rows(7, 1), site_id=1, round_index=2)
    assert bank.entries().tolist() == [[7, 7]]


def test_the_position_bin_is_unknown_by_default() -> None:
    bank = FeatureBank(4, 2)
    bank.push(rows(0, 2), site_id=1, round_index=0)
    bank.push(rows(2, 1), site_id=1, round_index=0, position_bin=3)
    assert bank.entry_bins().tolist() == [UNKNOWN_BIN, UNKNOWN_BIN, 3]


def test_sites_and_rounds_may_differ_within_a_push_larger_than_the_bank() -> None:
    bank = FeatureBank(3, 2)
    bank.push(rows(0, 5), site_id=torch.tensor([9, 8, 7, 6, 5]), round_index=torch.tensor([0, 1, 2, 3, 4]))
    by_feature = dict(
        zip(
            bank.features[:, 0].tolist(),
            zip(bank.site_id.tolist(), bank.round_index.tolist(), strict=True),
            strict=True,
        )
    )
    assert by_feature == {2: (7, 2), 3: (6, 3), 4: (5, 4)}


def test_a_restored_bank_continues_like_the_saved_one() -> None:
    bank, restored = filled(5, [3, 4]), FeatureBank(5, 2)
    restored.load_state_dict(bank.state_dict())
    for b in (bank, restored):
        b.push(rows(100, 2), site_id=4, round_index=9)
    for name, value in bank.state_dict().items():
        assert torch.equal(restored.state_dict()[name], value)
    assert restored.newest(5)[0][:, 0].tolist() == [4, 5, 6, 100, 101]


def test_the_size_follows_what_is_written_into_the_state() -> None:
    bank, other = filled(5, [3, 4]), filled(5, [2])
    state = bank.state_dict()
    for name, value in other.state_dict().items():
        state[name].copy_(value)
    assert len(bank) == 2
    assert bank.entries().tolist() == other.entries().tolist()


def test_pushing_and_reading_need_no_device_synchronisation() -> None:
    """Meta tensors have no values, so a boolean mask or a read of a value would fail."""
    bank = FeatureBank(4, 2).to("meta")
    for _ in range(3):
        bank.push(torch.empty(2, 2, device="meta"), site_id=1, round_index=0)
        assert bank.entries().shape == (len(bank), 2)
    assert bank.newest(3)[0].shape == (3, 2)


def test_wrapping_loses_no_rows_unlike_lightlys_memory_bank() -> None:
    """Four batches of four in a bank of ten: the last ten features are 6 to 15."""
    lightly = MemoryBankModule(size=(10, 2))
    for batch in range(4):
        lightly(rows(4 * batch, 4), update=True)
    assert set(range(6, 16)) - set(lightly.bank[:, 0].tolist()) == {10, 11}
    assert filled(10, [4, 4, 4, 4]).newest(10)[0][:, 0].tolist() == list(range(6, 16))


def test_stored_features_have_no_gradient_and_the_banks_dtype() -> None:
    bank = FeatureBank(4, 2)
    bank.push(torch.ones(2, 2, dtype=torch.float16, requires_grad=True), site_id=0, round_index=0)
    assert not bank.entries().requires_grad
    assert bank.entries().dtype == torch.float32


def test_a_capacity_of_0_is_rejected() -> None:
    with pytest.raises(ValueError, match="at least 1, got 0"):
        FeatureBank(0, 2)


def test_site_id_is_the_crc32_of_the_name() -> None:
    assert site_id("123456789") == 0xCBF43926  # the check value of CRC-32
    assert site_id("hospital_1") != site_id("hospital_2")


def test_an_empty_bank_is_true() -> None:
    bank = FeatureBank(4, 2)
    assert len(bank) == 0
    assert bank
