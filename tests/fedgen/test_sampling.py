from __future__ import annotations

import csv
import errno
import json
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from fedcore.data.source import Data
from fedcore.errors import InputError
from fedgen.diffusion.denoiser import Denoiser, DiffusionGenerator
from fedgen.diffusion.schedule import NoiseSchedule
from fedgen.diffusion.unet import UNet
from fedgen.generator import Conditions, ImageShape
from fedgen.generator_store import TENSORS, save_generator
from fedgen.latent.autoencoder import Autoencoder
from fedgen.latent.vae import VAE
from fedgen.sampling import sample
from fedgen.synthetic import synthetic_set as module
from tests.fedcore.files.test_lock import held_elsewhere
from tests.fedgen.gans import gan

CONDITIONS = Conditions(("cat", "dog"), ("a", "b", "c"))
QUICK = {"steps": 2, "batch_size": 4}


def generator(
    folder: Path, size: tuple[int, ...] = (8, 8), conditions: Conditions = CONDITIONS, channels: int = 1
) -> Path:
    """A run with an untrained generator whose predictions are not 0."""
    torch.manual_seed(0)
    denoiser = Denoiser(UNet(len(size), channels, widths=(8, 16)), conditions)
    for parameter in denoiser.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    save_generator(
        folder / "generator", DiffusionGenerator(denoiser, conditions, ImageShape(channels, size), NoiseSchedule(), 0.1)
    )
    return folder


def rows(manifest: Path) -> list[dict[str, str]]:
    with manifest.open(newline="") as file:
        return list(csv.DictReader(file))


def pixels(folder: Path) -> dict[str, np.ndarray]:
    return {p.name: np.asarray(Image.open(p)).astype(int) for p in sorted((folder / "images").iterdir())}


@pytest.mark.parametrize(("size", "channels"), [((8, 8), 1), ((8, 8), 3), ((8, 8, 8), 1)])
def test_the_kit_reads_the_set_as_a_site(tmp_path: Path, size: tuple[int, ...], channels: int) -> None:
    manifest = sample(generator(tmp_path / "run", size, channels=channels), tmp_path / "set", 12, **QUICK)
    cohort = Data(manifest=str(manifest), size=8, cache=tmp_path / "cache").load()
    assert list(cohort.sites) == ["synthetic"]
    assert (cohort.classes, cohort.channels, cohort.size) == (("cat", "dog"), channels, size)
    assert len(cohort.split("train")["synthetic"]) == 12


def test_classes_and_sites_alternate(tmp_path: Path) -> None:
    found = rows(sample(generator(tmp_path / "run"), tmp_path / "set", 13, **QUICK))
    assert [(row["label"], row["site_style"]) for row in found[:6]] == [
        (label, site) for site in "abc" for label in ("cat", "dog")
    ]
    assert found[6:12] == [{**row, "image": f"images/{i:06d}.png"} for i, row in enumerate(found[:6], start=6)]
    only = rows(sample(tmp_path / "run", tmp_path / "only", 4, classes=["dog"], sites=["c", "a"], **QUICK))
    assert [(row["label"], row["site_style"]) for row in only] == [("dog", "c"), ("dog", "a")] * 2


def test_a_generator_without_classes_gives_no_label(tmp_path: Path) -> None:
    found = rows(sample(generator(tmp_path / "run", conditions=Conditions((), ("a",))), tmp_path / "set", 3, **QUICK))
    assert {(row["label"], row["site_style"]) for row in found} == {("", "a")}


@pytest.mark.parametrize("batch_size", [1, 5])
def test_an_image_depends_on_seed_and_number_alone(tmp_path: Path, batch_size: int) -> None:
    run = generator(tmp_path / "run")
    sample(run, tmp_path / "one", 7, **QUICK)
    sample(run, tmp_path / "two", 9, **QUICK | {"batch_size": batch_size})
    sample(run, tmp_path / "three", 7, seed=1, **QUICK)
    one, two, three = (pixels(tmp_path / name) for name in ("one", "two", "three"))
    assert all(np.abs(one[name] - two[name]).max() <= 1 for name in one)
    assert all(np.abs(one[name] - three[name]).max() > 10 for name in one)


def test_an_interrupted_set_is_continued_to_the_same_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run, write, written = generator(tmp_path / "run"), module.write_atomically, []

    def full(path: Path, data: bytes, durable: bool = False) -> None:
        written.append(path)
        if len(written) == 7:
            raise InputError("the disk is full")
        write(path, data)

    sample(run, tmp_path / "whole", 10, **QUICK)
    monkeypatch.setattr(module, "write_atomically", full)
    with pytest.raises(InputError, match="the disk is full"):
        sample(run, tmp_path / "set", 10, **QUICK)
    monkeypatch.undo()
    assert len(rows(tmp_path / "set" / "manifest.csv")) == 4  # one whole batch; the image of a row always exists
    with (tmp_path / "set" / "manifest.csv").open("a") as file:
        file.write("images/0000")  # killed while writing
    sample(run, tmp_path / "set", 10, resume=True, **QUICK)
    assert (tmp_path / "set" / "manifest.csv").read_bytes() == (tmp_path / "whole" / "manifest.csv").read_bytes()
    one, two = pixels(tmp_path / "set"), pixels(tmp_path / "whole")
    assert one.keys() == two.keys()
    assert all(np.array_equal(one[name], two[name]) for name in one)


def test_a_set_can_grow_and_a_complete_one_is_not_changed(tmp_path: Path) -> None:
    run = generator(tmp_path / "run")
    sample(run, tmp_path / "set", 4, **QUICK)
    assert len(rows(sample(run, tmp_path / "set", 8, resume=True, **QUICK))) == 8
    assert len(rows(sample(run, tmp_path / "set", 6, resume=True, **QUICK))) == 8


def test_invalid_requests_are_refused(tmp_path: Path) -> None:
    run, there = generator(tmp_path / "run"), tmp_path / "set"
    sample(run, there, 2, **QUICK)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "note.txt").write_text("mine")
    cases: list[tuple[str, dict[str, Any]]] = [
        ("holds a set already; continue it with --resume true", {"out": there}),
        ("the set in .* has another guidance and seed", {"out": there, "resume": True, "seed": 3, "guidance": 2.0}),
        ("is not empty and holds no synthetic set", {"out": tmp_path / "full"}),
        ("has no class 'cow'; its classes: cat, dog", {"classes": ["cow"]}),
        ("has no site 'd'; its sites: a, b, c", {"sites": ["d"]}),
        ("count and batch_size must be at least 1, got 0 and 4", {"count": 0}),
        (r"steps must lie in 1\.\.1000", {"steps": 0}),
        ("holds no generator", {"run": tmp_path / "full"}),
    ]  # fmt: skip
    for message, changed in cases:
        arguments: dict[str, Any] = {"run": run, "out": tmp_path / "new", "count": 2, **QUICK, **changed}
        with pytest.raises(InputError, match=message):
            sample(**arguments)
    assert not (tmp_path / "new").exists()
    assert (tmp_path / "full" / "note.txt").read_text() == "mine"


@pytest.mark.parametrize("broken", ["json", "kind", "weights", "network"])
def test_a_damaged_generator_is_refused(tmp_path: Path, broken: str) -> None:
    folder = generator(tmp_path / "run") / "generator"
    config = json.loads((folder / "generator.json").read_text())
    if broken == "weights":
        (folder / TENSORS).write_bytes(b"nonsense")
    else:
        changed = {
            "json": {"settings": None},
            "kind": {"kind": "os.system"},
            "network": {"settings": config["settings"] | {"unet": config["settings"]["unet"] | {"widths": [8, 24]}}},
        }[broken]
        (folder / "generator.json").write_text(json.dumps(config | changed))
    with pytest.raises(InputError, match=r"corrupted|damaged|another architecture"):
        sample(tmp_path / "run", tmp_path / "set", 2, **QUICK)


def test_a_full_disk_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = generator(tmp_path / "run")

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(InputError, match="the disk is full"):
        sample(run, tmp_path / "set", 2, **QUICK)


def test_a_set_that_another_process_writes_is_not_changed(tmp_path: Path) -> None:
    run = generator(tmp_path / "run")
    with held_elsewhere(tmp_path / "set"), pytest.raises(InputError, match="set is being written by process"):
        sample(run, tmp_path / "set", 4, steps=1)
    sample(run, tmp_path / "set", 4, steps=1)
    (tmp_path / "set" / "images" / "x").symlink_to(tmp_path)
    with pytest.raises(InputError, match="x is a symbolic link"):
        sample(run, tmp_path / "set", 8, steps=1, resume=True)


def run_of(folder: Path, kind: str) -> Path:
    """A run with an untrained generator of some kind."""
    conditions = Conditions((), ()) if kind == "unconditional" else CONDITIONS
    if kind in ("gan", "vae"):
        vae = VAE(ImageShape(1, (8, 8)), CONDITIONS, partial(Autoencoder, widths=(8, 8)))
        save_generator(folder / "generator", gan().generator if kind == "gan" else vae.generator)
        return folder
    denoiser = Denoiser(UNet(2, 1, widths=(8, 16)), conditions)
    schedule, condition_dropout = (
        NoiseSchedule(prediction_type="flow" if kind == "flow" else "v"),
        0.0 if kind == "no dropout" else 0.1,
    )
    save_generator(
        folder / "generator",
        DiffusionGenerator(denoiser, conditions, ImageShape(1, (8, 8)), schedule, condition_dropout),
    )
    return folder


@pytest.mark.parametrize(
    ("kind", "arguments", "recorded"),
    [
        ("diffusion", {"steps": 2}, {"steps": 2, "guidance": 1.0, "solver": "dpm"}),
        ("diffusion", {"steps": 2, "solver": "ddim", "guidance": 2.0}, {"steps": 2, "guidance": 2.0, "solver": "ddim"}),
        ("flow", {"steps": 3, "guidance": 2.0}, {"steps": 3, "guidance": 2.0}),
        ("unconditional", {"steps": 2, "guidance": 1.0}, {"steps": 2, "guidance": 1.0, "solver": "dpm"}),
        ("gan", {}, {}),
        ("vae", {}, {}),
    ],
)
def test_a_set_records_the_settings_that_its_images_depend_on(
    tmp_path: Path, kind: str, arguments: dict[str, Any], recorded: dict[str, Any]
) -> None:
    sample(run_of(tmp_path / "run", kind), tmp_path / "set", 2, **arguments)
    found = json.loads((tmp_path / "set" / "set.json").read_text())
    assert {key: of for key, of in found.items() if key in ("steps", "guidance", "solver")} == recorded


@pytest.mark.parametrize(
    ("kind", "arguments", "message"),
    [
        ("gan", {"steps": 50}, "--steps: only for a diffusion; a GANGenerator has no sampler"),
        (
            "vae",
            {"solver": "dpm", "guidance": 1.0},
            "--solver and --guidance: only for a diffusion; a VAEGenerator has",
        ),
        ("flow", {"solver": "dpm"}, "--solver: only for diffusions that predict v or epsilon; this one predicts flow"),
        ("unconditional", {"guidance": 2.0}, "--guidance needs classes or sites, and this generator has none"),
        (
            "no dropout",
            {"guidance": 2.0},
            "trained on images without class and site, and this one was.*condition_dropout above",
        ),
    ],
)
def test_settings_without_effect_are_refused(
    tmp_path: Path, kind: str, arguments: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        sample(run_of(tmp_path / "run", kind), tmp_path / "set", 2, **arguments)
    assert not (tmp_path / "set").exists()


@pytest.mark.parametrize(("size", "channels"), [((8, 8, 8), 5), ((8, 8), 2), ((8, 8), 4)])
def test_images_without_a_file_format_are_refused_before_anything_is_written(
    tmp_path: Path, size: tuple[int, ...], channels: int
) -> None:
    run = generator(tmp_path / "run", size, channels=channels)
    with pytest.raises(InputError, match=rf"the generator's have {channels}; train one on images of fewer channels"):
        sample(run, tmp_path / "set", 2, **QUICK)
    assert not (tmp_path / "set").exists()
