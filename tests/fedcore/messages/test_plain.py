from __future__ import annotations

from typing import Any

import pytest
import torch

from fedcore.messages.plain import is_plain, to_plain, to_tensor

VALUES: list[tuple[Any, Any]] = [
    (True, bool), (-3, int), (0.1, float), (2, float), ("Röntgen \x00 \U0001f9ea", str), ("", str),
    ((), tuple[str, ...]), (("a", "b"), tuple[str, ...]), ((1, 2), tuple[int, ...]), ((0.5, 1e300), tuple[float, ...]),
]  # fmt: skip


@pytest.mark.parametrize(("value", "hint"), VALUES, ids=repr)
def test_a_value_returns_as_it_was(value: Any, hint: Any) -> None:
    tensor = to_tensor(value)
    assert (tensor.dtype, tensor.dim()) == (torch.uint8, 1)
    assert to_plain(tensor, hint) == value


@pytest.mark.parametrize(
    ("value", "hint"),
    [(1, bool), (True, int), (True, float), ("1", int), (1.0, int), (1, str), ("a", tuple[str, ...]),
     (("a", 1), tuple[str, ...]), ((True,), tuple[int, ...]), ((1,), int), (1, None), ("a", dict[str, int])],
    ids=repr,
)  # fmt: skip
def test_a_value_of_another_type_is_refused(value: Any, hint: Any) -> None:
    with pytest.raises(ValueError, match="of the declared type"):
        to_plain(to_tensor(value), hint)


@pytest.mark.parametrize("tensor", [torch.zeros(3), torch.zeros(1, 3).byte(), torch.tensor(3).byte()], ids=str)
def test_what_is_no_vector_of_bytes_is_refused(tensor: torch.Tensor) -> None:
    with pytest.raises(ValueError, match="vector of bytes"):
        to_plain(tensor, int)


@pytest.mark.parametrize("data", [b"", b"{", b"\xff", b"nul"], ids=repr)
def test_what_is_no_json_is_refused(data: bytes) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - of several kinds
        to_plain(torch.tensor(list(data), dtype=torch.uint8), str)


def test_tensors_and_dicts_are_no_plain_values() -> None:
    assert not any(map(is_plain, (torch.zeros(1), {}, [1], None, ((1,),), b"a")))
    assert all(map(is_plain, (True, 1, 0.5, "a", (), ("a", 1))))
