"""The gallery of a site: its images, nearest neighbours as loops find them, and errors that do not end a run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from fedcore.algorithms.local_only import LocalOnly
from fedcore.data.dataset import Images
from fedcore.data.phantom.phantoms import Phantoms
from fedcore.data.source import Data
from fedcore.messages.request import FAREWELL
from fedcore.messages.round import Round
from fedcore.models.base import Encoder
from fedcore.models.resnet import ResNet
from fedcore.privacy.policy import Policy
from fedcore.report import write_report
from fedcore.runs.folder import RunFolder
from fedcore.server.farewell import say_farewell
from fedcore.server.rounds import Rounds
from fedcore.site.farewell import Farewell
from fedcore.site.figure_files import FeatureGalleryFile
from fedcore.training.local_trainer import LocalTrainer
from fedcore.training.visit import Visit
from fedssl.evaluation.gallery import Gallery
from fedssl.methods.simclr import SimCLR
from fedssl.pretraining import pretrain
from tests.fedcore.toys import Hospitals

MakeImages = Callable[..., Images]
FILE = FeatureGalleryFile.NAME
CPU = torch.device("cpu")


class Flat(Encoder):
    """Returns the pixels plus a parameter, by which encoders differ."""

    width = 64

    def __init__(self) -> None:
        super().__init__()
        self.config = {}
        self.shift = nn.Parameter(torch.zeros(()))

    def forward(self, images: Tensor) -> Tensor:
        return images.flatten(1) + self.shift


@torch.no_grad()
def arrays(train: Images, test: Images | None = None, gallery: Gallery | None = None) -> dict[str, np.ndarray]:
    return {**(gallery or Gallery()).arrays(Flat(), train, test, CPU)}


def load_arrays(path: Path) -> dict[str, np.ndarray]:
    with np.load(path, allow_pickle=False) as file:
        return {**file}


def test_neighbours_equal_those_of_loops_over_cosines(images: MakeImages) -> None:
    train, test = images("train", 30), replace(images("test", 9), patients=np.arange(100, 109))
    found = arrays(train, test)

    def unit(site: Images, at: int) -> np.ndarray:
        pixels = site.pixels[at].astype(np.float64).ravel()
        return pixels / np.linalg.norm(pixels)

    features = np.stack([unit(test, at) for at in range(9)])
    assert np.allclose(found["features"], features, atol=1e-3)
    assert found["labels"].tolist() == test.labels.tolist()
    for row, query in enumerate(found["queries"]):
        levels = (test.pixels.astype(np.float64) + 1) * 127.5
        at = int(np.abs(levels - query).max((1, 2, 3)).argmin())
        cosines = [float(unit(test, at) @ unit(train, other)) for other in range(30)]
        best = sorted(range(30), key=lambda other: -cosines[other])[:5]
        assert found["neighbour_labels"][row].tolist() == train.labels[best].tolist()
        assert found["cosines"][row] == pytest.approx([cosines[other] for other in best], abs=1e-3)
        assert np.abs(found["neighbours"][row] - (train.pixels[best].astype(np.float64) + 1) * 127.5).max() <= 0.51


def test_neighbours_are_of_other_patients(images: MakeImages) -> None:
    train = images("a", 12)
    assert arrays(train)["cosines"].max() < 0.99
    slices = replace(train, patients=np.arange(12) // 6)  # two volumes of six slices
    found = arrays(slices, gallery=Gallery(queries=12, neighbours=9))
    assert found["cosines"].shape == (12, 6)


def test_features_are_taken_at_even_steps_and_queries_from_all_classes(images: MakeImages) -> None:
    train = replace(images("a", 500), labels=torch.tensor([0] * 400 + [1] * 100))
    found = arrays(train)
    assert found["features"].shape == (200, 64)
    assert found["features"].dtype == np.float16
    assert found["labels"].sum() == pytest.approx(40, abs=1)
    few = arrays(replace(images("a", 12), labels=torch.tensor([0] * 6 + [1] * 2 + [2] * 2 + [-1] * 2)))
    assert set(few["query_labels"].tolist()) >= {0, 1}


def test_the_gallery_is_deterministic(images: MakeImages) -> None:
    one, other = arrays(images("a", 40)), arrays(images("a", 40))
    assert all((one[name] == other[name]).all() for name in one)


@pytest.mark.parametrize("n", [1, 2, 3])
@pytest.mark.parametrize("labelled", [True, False])
def test_a_site_with_few_images_has_a_smaller_gallery(images: MakeImages, n: int, labelled: bool) -> None:
    found = arrays(images("a", n, labelled))
    assert len(found["features"]) == len(found["queries"]) == n
    assert found["neighbours"].shape[:2] == found["neighbour_labels"].shape == (n, n - 1)


def test_an_empty_test_split_is_replaced_by_training_images(images: MakeImages) -> None:
    train = images("a", 12)
    assert (arrays(train, images("b", 0))["features"] == arrays(train)["features"]).all()


def test_large_images_are_reduced_and_volumes_shown_by_the_middle_slice(images: MakeImages) -> None:
    volumes = np.full((3, 1, 200, 6, 4), -1, np.float16)
    volumes[..., 2] = 1  # axial; rows run along y, columns along x
    site = replace(images("a", 3), pixels=volumes)
    found = arrays(site)
    assert found["queries"].shape == (3, 1, 3, 96)
    assert (found["queries"] == 255).all()


def test_the_checksum_differs_between_encoders(images: MakeImages) -> None:
    def checksum(shift: float) -> int:
        encoder = Flat()
        nn.init.constant_(encoder.shift, shift)
        with torch.no_grad():
            return int(Gallery().arrays(encoder, images("a", 3), None, CPU)["encoder_checksum"])

    assert checksum(0.0) == checksum(0.0) != checksum(1.0)


def at_sites(folder: Path, encoder: Encoder, train: dict[str, Images]) -> Hospitals:
    local = LocalTrainer(SimCLR(encoder), ("encoder.",), Visit(accelerator="cpu"))
    return Hospitals(train, local, folder=folder)


def notes_of(hospitals: Hospitals) -> list[str]:
    """What could not be saved when the sites are asked for their galleries."""
    asked = hospitals.sites(**{FAREWELL: Farewell((Gallery(),))})
    return say_farewell(asked, hospitals.local.shared(), asked.training, Round(1, 1, seed=0)).notes


def test_an_error_at_a_site_becomes_a_note_without_its_message(tmp_path: Path, images: MakeImages) -> None:
    class Secret(Flat):
        def forward(self, images: Tensor) -> Tensor:
            if len(images) == 7:
                raise RuntimeError("out of memory at /clinic/Jane Doe")
            return super().forward(images)

    train = {"a": images("a", 6), "b": images("b", 7), "c": images("c", 5)}
    assert notes_of(at_sites(tmp_path, Secret(), train)) == ["no gallery of b: RuntimeError"]
    assert sorted(path.parent.name for path in tmp_path.glob(f"*/{FILE}")) == ["a", "c"]


def test_features_that_are_not_finite_are_not_saved(tmp_path: Path, images: MakeImages) -> None:
    encoder = Flat()
    nn.init.constant_(encoder.shift, torch.nan)
    notes = notes_of(at_sites(tmp_path, encoder, {"a": images("a")}))
    assert notes == ["no gallery of a: the encoder's features are not finite"]


@pytest.mark.parametrize("local_only", [False, True])
@pytest.mark.parametrize("dims", [2, 3])
def test_a_run_saves_a_gallery_of_the_encoder_at_every_site(tmp_path: Path, local_only: bool, dims: int) -> None:
    run = RunFolder(tmp_path / "run")
    data = Data(size=16, phantom=Phantoms(sites=2, images_per_site=12, spatial_dims=dims))
    pretrain(
        run, lambda d, c: ResNet(d, c, depth=10, stem=4), SimCLR, data, LocalOnly() if local_only else None,
        visit=Visit(batch_size=8, accelerator="cpu"), rounds=Rounds(1), loggers=(),
    )  # fmt: skip
    galleries = [load_arrays(run.site(site) / FILE) for site in run.about()["sites"]]
    for one, counts in zip(galleries, run.about()["sites"].values(), strict=True):
        assert one["features"].shape == (counts["test"], 32)
        assert one["queries"].shape == (min(4, counts["test"]), 1, 16, 16)
    assert (galleries[0]["encoder_checksum"] == galleries[1]["encoder_checksum"]) == (not local_only)
    assert run.about()["notes"] == []
    page = write_report(run.path).read_text()
    assert "Nearest neighbours" in page
    assert ("The sites have different encoders" in page) == local_only


def test_the_gallery_is_not_sent(tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "run")
    pretrain(
        run, lambda d, c: ResNet(d, c, depth=10, stem=4), SimCLR,
        Data(size=16, phantom=Phantoms(sites=1, images_per_site=12)),
        visit=Visit(batch_size=8, accelerator="cpu"), rounds=Rounds(1), loggers=(),
        policy=Policy(min_patients=1),
    )  # fmt: skip
    (audit,) = run.path.glob("sites/*/audit.jsonl")
    assert "gallery" not in audit.read_text()
    assert set(run.rounds()[0]["evaluation"]["hospital_1"]) >= {"feature_std"}
    assert [path.name for path in run.path.rglob(FILE)] == [FILE]
