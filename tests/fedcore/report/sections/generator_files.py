"""Files that sites and audits of a generator's run write for its page."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fedcore.site.figure_files import GeneratorSamplesFile, NearestPairsFile

MakeRun = Callable[..., Path]


SITES = ("hospital_1", "hospital_2")


SET = "0123abcd"


def pictures(count: int, seed: int = 0, side: int = 16) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, 1, side, side), dtype=np.uint8)


def write_samples(run: Path, site: str, side: int = 16, **other: np.ndarray) -> None:
    arrays = {
        "real": pictures(5, 1, side), "real_labels": np.array([0, 0, 0, 1, 1]),
        "synthetic": pictures(8, 2, side), "synthetic_labels": np.arange(8) // 4,
        "denoised": pictures(3, 3, side), "steps": np.array([1, 25, 50]), "step_count": np.array(50),
    }  # fmt: skip
    np.savez(run / "sites" / site / GeneratorSamplesFile.NAME, **(arrays | other))


def write_pairs(run: Path, site: str, side: int = 16, **other: Any) -> None:
    arrays: dict[str, Any] = {"views": np.array(["pixels", "features"]), "set": np.array(SET)}
    for view in ("pixels", "features"):
        of = {
            "synthetic": pictures(6, 4, side), "trained": pictures(6, 5, side), "numbers": np.arange(6) * 7,
            "closeness": np.linspace(0.05, 0.6, 6), "limit": np.array(0.3),
            "synthetic_closeness": np.linspace(0.05, 1, 64), "held_out_closeness": np.linspace(0.4, 1, 30),
        }  # fmt: skip
        arrays |= {f"{view}_{key}": array for key, array in of.items()}
    np.savez(run / "sites" / site / NearestPairsFile.NAME, **(arrays | other))


def verdict(answer: str, *because: str, not_measured: Sequence[str] = ()) -> dict[str, Any]:
    return {"answer": answer, "reasons": list(because), "not_measured": list(not_measured)}


def audit(**other: Any) -> dict[str, Any]:
    figures_of_site = {
        "training_images": 90.0,
        "held_out_images": 30.0,
        "copies_by_pixels": 1.0,
        "membership_auc": 0.512,
        "kid": 0.012,
        "held_out_kid": -1e-9,
        "tstr": 0.31,
        "trtr": 0.62,
        "ms_ssim": 0.7,
        "real_ms_ssim": 0.5,
    }
    figures = {"fid": 12.34, "held_out_fid": 4.0}
    return {
        "name": "my_set", "set": SET, "images": 64, "left_out": [], "encoder": "ab",
        "safe": verdict("no", "1 of 64 images are copies of patients' images (drop them)"),
        "useful": verdict("no", "precision is 0.10", not_measured=["classes"]),
        "copies": {"000007.png": ["hospital_1"]}, "sites": dict.fromkeys(SITES, figures_of_site),
        "quality": {"all": figures, "class normal": {"fid": None, "held_out_fid": None}, "site hospital_1": figures},
    } | other  # fmt: skip
