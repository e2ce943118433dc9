from __future__ import annotations

from collections import deque

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from lightly.models.modules.memory_bank import MemoryBankModule
from torch import Tensor

from fedssl.bank.feature_bank import UNKNOWN, FeatureBank, site_number


def rows(first: int, n: int) -> Tensor:
    """n features of 2 numbers, each its own place in the stream."""
    return torch.arange(first, first + n).float()[:, None].expand(n, 2)


def filled(capacity: int, sizes: list[int]) -> FeatureBank:
    bank, at = FeatureBank(capacity, 2), 0
    for turn, n in enumerate(sizes):
        bank.push(rows(at, n), site=turn % 3, born=turn)
        at += n
    return bank


@settings(deadline=None, max_examples=80)
@given(capacity=st.integers(1, 7), sizes=st.lists(st.integers(0, 16), max_size=8))
def test_it_is_a_deque_with_a_greatest_length(capacity: int, sizes: list[int]) -> None:
    bank, expected, at = FeatureBank(capacity, 2), deque[tuple[int, int, int, int]](maxlen=capacity), 0
    for turn, n in enumerate(sizes):
        bank.push(rows(at, n), site=turn % 3, born=turn, part=torch.arange(at, at + n) % 4)
        expected.extend((at + i, turn % 3, turn, (at + i) % 4) for i in range(n))
        at += n

        features, born, part = bank.newest(capacity)
        assert features[:, 0].tolist() == [place for place, *_ in expected]
        assert born.tolist() == [turn for *_, turn, _ in expected]
        assert part.tolist() == [part for *_, part in expected]
        there = bank.born >= 0
        columns = (bank.entries()[:, 0], bank.site[there], bank.born[there], bank.parts())
        assert sorted(zip(*(column.tolist() for column in columns), strict=True)) == sorted(expected)
        assert len(bank) == len(expected)
        assert sorted(bank.ages(now=turn).tolist()) == sorted(turn - b for *_, b, _ in expected)


@given(sizes=st.lists(st.integers(1, 9), min_size=1, max_size=6), n=st.integers(1, 12))
def test_the_newest_are_the_end_of_the_stream(sizes: list[int], n: int) -> None:
    held = min(sum(sizes), 5)
    features, *_ = filled(5, sizes).newest(n)
    assert features[:, 0].tolist() == list(range(sum(sizes) - min(n, held), sum(sizes)))


def test_it_starts_empty_and_clearing_empties_it() -> None:
    bank = FeatureBank(4, 2)
    assert (len(bank), bank.entries().shape, bank.newest(3)[0].shape) == (0, (0, 2), (0, 2))
    bank.push(rows(0, 6), site=1, born=0)
    bank.clear()
    assert (len(bank), bank.entries().shape) == (0, (0, 2))
    bank.push(rows(7, 1), site=1, born=2)
    assert bank.entries().tolist() == [[7, 7]]


def test_an_entry_is_of_no_known_part_unless_it_is_told() -> None:
    bank = FeatureBank(4, 2)
    bank.push(rows(0, 2), site=1, born=0)
    bank.push(rows(2, 1), site=1, born=0, part=3)
    assert bank.parts().tolist() == [UNKNOWN, UNKNOWN, 3]


def test_sites_and_rounds_may_differ_within_a_push_even_one_that_is_too_large() -> None:
    bank = FeatureBank(3, 2)
    bank.push(rows(0, 5), site=torch.tensor([9, 8, 7, 6, 5]), born=torch.tensor([0, 1, 2, 3, 4]))
    by_feature = dict(
        zip(
            bank.features[:, 0].tolist(),
            zip(bank.site.tolist(), bank.born.tolist(), strict=True),
            strict=True,
        )
    )
    assert by_feature == {2: (7, 2), 3: (6, 3), 4: (5, 4)}


def test_its_state_is_saved_and_a_restored_bank_goes_on_like_the_first() -> None:
    bank, again = filled(5, [3, 4]), FeatureBank(5, 2)
    again.load_state_dict(bank.state_dict())
    for b in (bank, again):
        b.push(rows(100, 2), site=4, born=9)
    for name, value in bank.state_dict().items():
        assert torch.equal(again.state_dict()[name], value)
    assert again.newest(5)[0][:, 0].tolist() == [4, 5, 6, 100, 101]


def test_its_count_follows_what_is_written_into_its_state() -> None:
    bank, other = filled(5, [3, 4]), filled(5, [2])
    state = bank.state_dict()
    for name, value in other.state_dict().items():
        state[name].copy_(value)
    assert len(bank) == 2
    assert bank.entries().tolist() == other.entries().tolist()


def test_a_step_waits_for_no_device() -> None:
    """Tensors without numbers answer only what needs none: no boolean mask, no number read."""
    bank = FeatureBank(4, 2).to("meta")
    for _ in range(3):
        bank.push(torch.empty(2, 2, device="meta"), site=1, born=0)
        assert bank.entries().shape == (len(bank), 2)
    assert bank.newest(3)[0].shape == (3, 2)


def test_at_the_end_of_the_capacity_nothing_is_lost_as_it_is_in_lightlys() -> None:
    """Four batches of four into ten: the last ten are 6 to 15."""
    lightly = MemoryBankModule(size=(10, 2))
    for batch in range(4):
        lightly(rows(4 * batch, 4), update=True)
    assert set(range(6, 16)) - set(lightly.bank[:, 0].tolist()) == {10, 11}
    assert filled(10, [4, 4, 4, 4]).newest(10)[0][:, 0].tolist() == list(range(6, 16))


def test_what_is_pushed_carries_no_gradient_and_takes_the_banks_type() -> None:
    bank = FeatureBank(4, 2)
    bank.push(torch.ones(2, 2, dtype=torch.float16, requires_grad=True), site=0, born=0)
    assert not bank.entries().requires_grad
    assert bank.entries().dtype == torch.float32


def test_a_bank_for_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 1, got 0"):
        FeatureBank(0, 2)


def test_the_number_of_a_site_is_the_same_on_every_machine() -> None:
    assert site_number("123456789") == 0xCBF43926  # the check value of CRC-32
    assert site_number("hospital_1") != site_number("hospital_2")


def test_an_empty_bank_is_a_bank() -> None:
    bank = FeatureBank(4, 2)
    assert len(bank) == 0
    assert bank
