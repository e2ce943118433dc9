"""Synthetic run folders, as the kit writes them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedcore.site.figure_files import AugmentedViewsFile, FeatureGalleryFile

SITES = ("hospital_1", "hospital_2", "hospital_3", "hospital_4")


def write_run(
    folder: Path,
    *,
    sites: tuple[str, ...] = SITES,
    rounds: int = 12,
    planned: int | None = None,
    space: tuple[int, ...] = (64, 64),
    channels: int = 1,
    **about: Any,
) -> Path:
    """A pretraining run: `rounds` of `planned` done, an evaluation every third round, figures at every site."""
    folder.mkdir(parents=True)
    (folder / "recipe.yaml").write_text(
        "# ours\nmanifest: /clinic/Jane Doe/manifest.csv\nmethod:\n  class_path: fedssl.SimCLR\n"
    )
    _write(
        folder / "environment.json",
        {"fedpretrain": "0.1.0", "python": "3.12", "device": "cpu", "git_commit": None},
    )
    _write(
        folder / "run.json",
        {
            "command": "pretrain",
            "status": "finished",
            "rounds": planned or rounds,
            "seconds": 81.2,
            "sites": {site: {"train": 300, "test": 100} for site in sites},
            "classes": ["normal", "pneumonia"],
            "size": list(space),
            "channels": channels,
            "parameters": 123456,
            "notes": ["hospital_2 holds 3 duplicates"],
            "skipped": [],
        }
        | about,
    )
    lines = [_round(at, sites) for at in range(rounds)]
    (folder / "rounds.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    for at, site in enumerate(sites):
        _write_site(folder / "sites" / site, seed=at, rounds=rounds, shape=(channels, *space))
    return folder


def _round(at: int, sites: tuple[str, ...]) -> dict[str, Any]:
    evaluation = {
        site: {
            "knn": 0.9 - 0.4 * 0.9**at - 0.02 * n,
            "feature_std": 0.85 - 0.1 * n / (1 + at),
            "effective_rank": 20.0 + at + n,
        }
        for n, site in enumerate(sites)
    }
    return {
        "round": at,
        "seconds": 2.0,
        "sites": {site: _visit(loss=5.2 * 0.93**at + 0.15 * n, seconds=0.5 + 0.1 * n) for n, site in enumerate(sites)},
        "refused": {},
        "evaluation": evaluation if at % 3 == 2 else {},
    }


def _visit(*, loss: float, seconds: float) -> dict[str, Any]:
    return {
        "examples": 300,
        "seconds": seconds,
        "metrics": {"loss": loss, "lr": 0.05},
        "up": {"weights": 1_200_000, "exchange": 300_000, "metrics": 16},
        "down": {"weights": 1_200_000, "exchange": 900_000},
        "reveals": "FEATURES",
    }


def _write_site(folder: Path, *, seed: int, rounds: int, shape: tuple[int, ...]) -> None:
    folder.mkdir(parents=True)
    entries = [
        {"round": at, "what": what, "field": field, "reveals": reveals, "bytes": size}
        for at in range(rounds)
        for what, field, reveals, size in (
            ("weights", "weights/tensors", "WEIGHTS", 1_200_000),
            ("exchange", "exchange/features", "FEATURES", 300_000),
        )
    ]
    (folder / "audit.jsonl").write_text("".join(json.dumps(entry) + "\n" for entry in entries))
    noise = np.random.default_rng(seed).normal(scale=0.1, size=(6, 3, *shape))
    axes = np.meshgrid(*(np.linspace(-1.2, 1.2, side) for side in shape[1:]), indexing="ij")
    images = np.cos(3 * np.sqrt(sum(axis**2 for axis in axes)) + seed) + noise
    write_gallery(folder, seed)
    AugmentedViewsFile(images[:, 0].astype("float16"), images[:, 1:].astype("float16")).save(folder)


def write_gallery(folder: Path, seed: int = 0, **other: Any) -> None:
    """40 features of two separated classes; 4 queries of class 0, 0, 1, 1 with 5 neighbours of class 1."""
    rng = np.random.default_rng(seed)
    labels = np.arange(40) % 2
    features = rng.normal(scale=0.05, size=(40, 8)) + np.eye(8)[labels]
    arrays = {
        "features": features.astype(np.float16),
        "labels": labels,
        "queries": rng.integers(0, 256, (4, 1, 16, 16), dtype=np.uint8),
        "query_labels": np.array([0, 0, 1, 1]),
        "neighbours": rng.integers(0, 256, (4, 5, 1, 16, 16), dtype=np.uint8),
        "neighbour_labels": np.ones((4, 5), dtype=np.int64),
        "cosines": np.linspace(0.9, 0.5, 20).reshape(4, 5).astype(np.float16),
        "encoder_checksum": np.array(7),
    }
    np.savez(folder / FeatureGalleryFile.NAME, **(arrays | other))


def _write(path: Path, found: Any) -> None:
    path.write_text(json.dumps(found))


def write_scores(
    folder: Path,
    sites: tuple[str, ...] = SITES,
    *,
    fraction: float = 0.1,
    encoder: str | None = "checkpoints/x/encoder",
    pooled: float = 0.88,
) -> None:
    def score(at: float) -> dict[str, Any]:
        return {
            name: {"value": at - down, "low": at - down - 0.05, "high": at - down + 0.04}
            for name, down in _DOWN.items()
        }

    found = {site: score(0.92 - 0.03 * n) | {"images": 100} for n, site in enumerate(sites)}
    _write(
        folder / "scores.json",
        {"label_fraction": fraction, "pretrained": encoder, "sites": found, "pooled": score(pooled)},
    )


_DOWN = {"auroc": 0.0, "balanced_accuracy": 0.08, "f1": 0.1}


@pytest.fixture
def make_run(tmp_path: Path) -> Callable[..., Path]:
    """`make_run(**options)` writes a pretraining run into a fresh folder and returns it."""
    return lambda name="run", **options: write_run(tmp_path / name, **options)


@pytest.fixture
def full_run(make_run: Callable[..., Path]) -> Path:
    """A run with every section: failed visits, scores."""
    folder = make_run("shared-bank-simclr", skipped=["hospital_4: 2 images could not be read"])
    lines = [json.loads(line) for line in (folder / "rounds.jsonl").read_text().splitlines()]
    for at in (4, 5):
        del lines[at]["sites"]["hospital_3"]
        lines[at]["refused"] = {"hospital_3": "the loss became NaN"}
    (folder / "rounds.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    write_scores(folder)
    return folder


@pytest.fixture(name="write_gallery")
def write_gallery_fixture() -> Callable[..., None]:
    return write_gallery


@pytest.fixture(name="write_scores")
def write_scores_fixture() -> Callable[..., None]:
    return write_scores
