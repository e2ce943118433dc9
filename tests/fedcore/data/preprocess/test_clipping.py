from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from fedcore.data.preprocess.clipping import UNCLIPPED, clipping_of, clipping_warnings
from fedcore.data.preprocess.scaling import FullRange, Percentiles, Scaling, Window
from fedcore.data.source import Data

RNG = np.random.default_rng(0)
AIR = np.full((1, 40, 40), -1000, np.float32)
BODY = np.where(np.indices((40, 40)).sum(0) > 30, RNG.normal(40, 30, (1, 40, 40)), -1000).astype(np.float32)


def warnings_for(scaling: Scaling, image: np.ndarray) -> str:
    return "; ".join(clipping_warnings("a", [clipping_of(image, scaling(image))]))


def test_fractions_equal_those_of_a_loop() -> None:
    raw, scaling = np.array([[[0, 0, 1, 2, 3, 9, 9, 8, 4, 5]]], np.float32), Window(2.0, 7.0)
    scaled, found = scaling(raw), clipping_of(raw, scaling(raw))
    foreground = [(r, s) for r, s in zip(raw.ravel(), scaled.ravel(), strict=True) if r > 0]
    assert found.low == sum(s == -1 for _, s in foreground) / len(foreground)
    assert found.high == sum(s == 1 and r < 9 for r, s in foreground) / len(foreground)
    assert found.span == 2
    assert clipping_of(AIR, Percentiles()(AIR)) == UNCLIPPED


def test_fitting_windows_have_no_warning() -> None:
    assert not warnings_for(Window(-1000.0, 400.0), BODY)
    assert not warnings_for(Window(-160.0, 240.0), BODY)
    assert not warnings_for(Percentiles(), BODY)
    white = -BODY  # a flat background at the greatest value
    assert not warnings_for(Window(-400.0, 900.0), white)


@pytest.mark.parametrize("scaling", [Percentiles(), FullRange()])
def test_images_of_eight_bits_have_no_warning(scaling: Scaling) -> None:
    assert not warnings_for(scaling, RNG.integers(0, 256, (1, 40, 40)).astype(np.float32))


def test_windows_in_wrong_units_have_a_warning() -> None:
    deep = RNG.integers(0, 65536, (1, 40, 40)).astype(np.float32)
    assert "99% of the foreground is above the upper end" in warnings_for(FullRange(8), deep)
    assert "an image covers 0% of the range" in warnings_for(FullRange(16), deep / 256 / 2)
    assert "is above the upper end" in warnings_for(Window(-1000.0, 400.0), BODY + 1024)
    assert "100% of the foreground is below the lower end" in warnings_for(Window(3000.0, 4000.0), BODY)


def test_a_cohort_has_a_warning_for_the_site(tmp_path: Path) -> None:
    lines = ["image,site,split"]
    for at in range(6):
        np.save(tmp_path / f"{at}.npy", BODY[0] + 1024 * (at % 2))
        lines.append(f"{at}.npy,{'ab'[at % 2]},train")
    (tmp_path / "manifest.csv").write_text("\n".join(lines))
    data = Data(str(tmp_path / "manifest.csv"), size=16, cache=tmp_path / "cache", scaling=Window(-1000.0, 400.0))
    for _ in range(2):  # decoded, and from the cache
        warnings = [text for text in data.load().warnings if "data.scaling" in text]
        assert len(warnings) == 1
        assert warnings[0].startswith("site 'b', data.scaling: ")
