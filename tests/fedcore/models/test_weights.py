from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from fedcore.errors import InputError
from fedcore.files.checksums import SUMS, require_sums, write_sums
from fedcore.models.weights import build_with_weights, read_weights, save_weights


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    (tmp_path / "plan.json").write_text("{}")
    save_weights(tmp_path / "net.safetensors", nn.Linear(3, 2), other_files=("plan.json",))
    return tmp_path


def test_checksums_equal_those_of_sha256sum(saved: Path) -> None:
    done = subprocess.run(["sha256sum", "--check", "--strict", SUMS], cwd=saved, capture_output=True, check=False)
    assert done.returncode == 0
    assert done.stdout.decode().split() == ["net.safetensors:", "OK", "plan.json:", "OK"]


def test_every_flipped_bit_is_found(saved: Path) -> None:
    file = saved / "net.safetensors"
    whole = file.read_bytes()
    for at in range(len(whole)):
        file.write_bytes(whole[:at] + bytes([whole[at] ^ 1 << at % 8]) + whole[at + 1 :])
        with pytest.raises(InputError, match="corrupted, truncated or not what was written"):
            read_weights(file, "copy it anew", ("plan.json",))
    file.write_bytes(whole)
    assert set(read_weights(file, "copy it anew", ("plan.json",))) == {"weight", "bias"}


def damage(folder: Path, what: str) -> None:
    file = folder / ("plan.json" if "plan" in what else "net.safetensors" if "weights" in what else SUMS)
    if "gone" in what:
        file.unlink()
    else:
        file.write_text(what)


@pytest.mark.parametrize(
    ("what", "told"),
    [
        ("plan other", "plan.json is corrupted"),
        ("plan gone", "plan.json is missing"),
        ("weights gone", "net.safetensors is missing"),
        ("gone", "SHA256SUMS is missing"),
        ("", "has no line for net.safetensors"),
        (f"{'0' * 64}  net.safetensors\n", "says 000000000000"),
        (f"{'0' * 64}  ../net.safetensors\n", "has no line"),
    ],
)
def test_missing_and_changed_files_are_errors(saved: Path, what: str, told: str) -> None:
    damage(saved, what)
    with pytest.raises(InputError, match=f"{told}.*; copy it anew"):
        read_weights(saved / "net.safetensors", "copy it anew", ("plan.json",))


def test_a_file_that_is_no_safetensors_file_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"no weights")
    write_sums(tmp_path, ["x"])
    require_sums(tmp_path, ["x"], "")
    with pytest.raises(InputError, match="is not a safetensors file"):
        read_weights(tmp_path / "x", "")


def test_a_module_is_built_with_the_given_weights() -> None:
    like = nn.Linear(3, 2)
    made = build_with_weights(like.state_dict(), lambda: nn.Linear(3, 2), lambda module: module)
    assert torch.equal(made.weight, like.weight)
    assert made.weight.device.type == "cpu"


@pytest.mark.parametrize(
    ("build", "told"),
    [
        (lambda: nn.Linear(10**9, 10**9), "another architecture"),
        (lambda: nn.Linear(3, 2, bias=False), "another architecture .*bias"),
        (lambda: nn.ModuleList(nn.Linear(1, 1) for _ in range(10**9)), "more than 72 parameters"),
        (lambda: nn.Linear(-1, 2), "RuntimeError"),
        (lambda: nn.Linear("3", 2), "TypeError"),  # type: ignore[arg-type]
        (lambda: {}["x"], "KeyError"),
    ],
)
def test_a_module_that_does_not_fit_is_never_built_in_memory(build: Callable[[], nn.Module], told: str) -> None:
    """A billion by a billion numbers, and a billion layers."""
    with pytest.raises(ValueError, match=told):
        build_with_weights(nn.Linear(3, 2).state_dict(), build, lambda module: module)


class Tied(nn.Module):
    """Two layers of one weight, a part of it under another name, and one that is not contiguous."""

    def __init__(self) -> None:
        super().__init__()
        self.inward, self.outward = nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False)
        self.outward.weight = self.inward.weight
        self.register_buffer("part", self.inward.weight.detach()[1:3])
        self.register_buffer("turned", self.inward.weight.detach().T)


def test_tensors_that_share_memory_are_saved_and_read_again(tmp_path: Path) -> None:
    module, other = Tied(), Tied()
    save_weights(tmp_path / "net.safetensors", module)
    found = read_weights(tmp_path / "net.safetensors", "copy it anew")
    assert found.keys() == module.state_dict().keys()
    assert all(torch.equal(found[name], t) for name, t in module.state_dict().items())
    other.load_state_dict(found)
    assert other.outward.weight is other.inward.weight
    assert torch.equal(other.outward.weight, module.inward.weight)
    assert torch.equal(build_with_weights(found, Tied, lambda made: made).inward.weight, module.inward.weight)
