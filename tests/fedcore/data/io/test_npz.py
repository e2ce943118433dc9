from __future__ import annotations

from pathlib import Path

import numpy as np

from fedcore.data.io import npz


def test_npz_items_equal_the_array(tmp_path: Path) -> None:
    stored = np.random.default_rng(0).normal(size=(5, 3, 4))
    np.savez_compressed(tmp_path / "c.npz", a=stored, b=np.asfortranarray(stored))
    for member in "ab":
        assert all((npz.item(tmp_path / "c.npz", member, at) == stored[at]).all() for at in (4, 0, 2))
