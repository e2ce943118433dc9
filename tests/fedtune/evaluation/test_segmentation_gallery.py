"""What a site keeps of a segmenter: the images that loops over Dice find, in its own folder, and never a failed run."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from torch import Tensor

from fedcore.data.dataset import Images
from fedcore.data.phantom.phantoms import Phantoms
from fedcore.data.source import Data
from fedcore.messages.request import FAREWELL
from fedcore.messages.round import Round
from fedcore.models.resnet import ResNet
from fedcore.privacy.policy import Policy
from fedcore.report import write_report
from fedcore.runs.folder import RunFolder
from fedcore.server.farewell import say_farewell
from fedcore.server.rounds import Rounds
from fedcore.site.farewell import Farewell
from fedcore.site.figure_files import SegmentationGalleryFile
from fedcore.training.local_trainer import LocalTrainer
from fedcore.training.visit import Visit
from fedtune.evaluation.segmentation_gallery import SegmentationGallery
from fedtune.segmentation.networks import EncoderUNet
from fedtune.segmentation.training import segment
from tests.fedcore.toys import Hospitals, images

FILE = SegmentationGalleryFile.NAME


class Bright(pl.LightningModule):
    """Takes for structure what is brighter than its threshold."""

    share = ("threshold",)

    def __init__(self) -> None:
        super().__init__()
        self.threshold = torch.nn.Parameter(torch.zeros(()))

    def forward(self, pixels: Tensor) -> Tensor:
        bright = pixels.mean(1) - self.threshold
        return torch.stack([-bright, bright], 1)


def masked(name: str, n: int, space: tuple[int, ...] = (8, 8)) -> Images:
    """Images of noise; the true mask of the k-th is what is bright, but for the pixels that k of n hides."""
    draw = np.random.default_rng(list(name.encode()))
    pixels = draw.uniform(-1, 1, (n, 1, *space)).astype(np.float16)
    hidden = draw.random((n, *space)) < (np.arange(n) / n).reshape(-1, *[1] * len(space))
    return replace(images(name, n), pixels=pixels, masks=((pixels[:, 0] > 0) & ~hidden).astype(np.uint8))


def in_process(folder: Path, test: dict[str, Images]) -> Hospitals:
    return Hospitals({}, LocalTrainer(Bright(), ("threshold",), Visit(accelerator="cpu")), test, folder=folder)


def notes_of(hospitals: Hospitals, **settings: int) -> list[str]:
    """What could not be kept when the sites are asked for galleries of two classes."""
    asked = hospitals.sites(**{FAREWELL: Farewell((SegmentationGallery(2, **settings),))})
    return say_farewell(asked, hospitals.local.shared(), asked.testing, Round(1, 1, seed=0)).notes


def kept(folder: Path, site: str) -> dict[str, np.ndarray]:
    with np.load(folder / site / FILE, allow_pickle=False) as held:
        return {**held}


def dice(site: Images, at: int) -> float:
    assert site.masks is not None
    predicted, mask = site.pixels[at, 0] > 0, site.masks[at] == 1
    return float(2 * (predicted & mask).sum() / (predicted.sum() + mask.sum()))


def test_best_median_and_worst_equal_loops(tmp_path: Path) -> None:
    site = masked("a", 9)
    assert notes_of(in_process(tmp_path, {"a": site})) == []
    ranked = sorted(range(9), key=lambda at: -dice(site, at))
    found = kept(tmp_path, "a")
    for row, at in enumerate((ranked[0], ranked[4], ranked[8])):
        assert found["dice"][row] == pytest.approx(dice(site, at))
        assert np.array_equal(found["predicted_masks"][row], site.pixels[at, 0] > 0)
        assert site.masks is not None
        assert np.array_equal(found["true_masks"][row], site.masks[at])
        assert np.abs(found["images"][row] - (site.pixels[at].astype(np.float64) + 1) * 127.5).max() <= 0.51


@pytest.mark.parametrize(("n", "rows"), [(1, 1), (2, 2), (3, 3), (60, 3)])
def test_a_bounded_number_of_images_is_searched(
    tmp_path: Path, n: int, rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked: list[int] = []
    forward = Bright.forward
    monkeypatch.setattr(Bright, "forward", lambda self, pixels: looked.append(1) or forward(self, pixels))
    assert notes_of(in_process(tmp_path, {"a": masked("a", n)}), max_searched=20) == []
    assert len(looked) == min(n, 20)
    assert len(kept(tmp_path, "a")["dice"]) == rows


def test_the_fullest_slice_of_a_volume_is_kept(tmp_path: Path) -> None:
    site = masked("a", 1, (6, 8, 10))
    assert site.masks is not None
    site.masks[:] = 0
    site.masks[:, 1:5, 2:7, 4] = site.masks[:, 3, 3, 1] = 1
    notes_of(in_process(tmp_path, {"a": site}))
    found = kept(tmp_path, "a")
    assert np.array_equal(found["true_masks"][0], site.masks[0, ::-1, ::-1, 4].T)
    assert found["dice"][0] == pytest.approx(dice(site, 0))  # of the whole volume
    site.masks[:] = 0
    notes_of(in_process(tmp_path, {"a": site}))
    fullest = int((site.pixels[0, 0] > 0).sum((0, 1)).argmax())
    assert np.array_equal(kept(tmp_path, "a")["predicted_masks"][0], site.pixels[0, 0, ::-1, ::-1, fullest].T > 0)


def test_large_images_are_shrunk_with_their_masks_and_unlabelled_is_background(tmp_path: Path) -> None:
    site = masked("a", 2, (200, 100))
    assert site.masks is not None
    site.masks[:, :100] = 255
    notes_of(in_process(tmp_path, {"a": site}), max_side=50)
    found = kept(tmp_path, "a")
    assert found["images"].shape == (2, 1, 50, 25)
    assert found["true_masks"].shape == found["predicted_masks"].shape == (2, 50, 25)
    assert not found["true_masks"][:, :25].any()
    assert not found["predicted_masks"][:, :25].any()
    assert found["predicted_masks"][:, 25:].any()


def test_a_personal_model_predicts_at_its_site_only(tmp_path: Path) -> None:
    sites = in_process(tmp_path, {"a": masked("a", 3), "b": masked("b", 3)})
    sites.memories.put("a", {"personal/threshold": torch.tensor(9.0)}, Round(0, 1, seed=0))
    notes_of(sites)
    assert not kept(tmp_path, "a")["predicted_masks"].any()
    assert kept(tmp_path, "b")["predicted_masks"].any()


def test_an_error_at_a_site_is_a_note_without_its_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    forward = Bright.forward

    def secretive(self: Bright, pixels: Tensor) -> Tensor:
        if pixels.shape[-1] == 7:
            raise RuntimeError("out of memory at /clinic/Jane Doe")
        return forward(self, pixels)

    monkeypatch.setattr(Bright, "forward", secretive)
    empty = masked("c", 3)
    assert empty.masks is not None
    empty.pixels[:], empty.masks[:] = -1, 0
    test = {"a": masked("a", 3), "b": masked("b", 3, (7, 7)), "c": empty}
    assert notes_of(in_process(tmp_path, test)) == [
        "no segmentation gallery of b: RuntimeError",
        "no segmentation gallery of c: no test image has a structure, in its mask or in the prediction",
    ]
    assert [path.parent.name for path in tmp_path.glob(f"*/{FILE}")] == ["a"]


@pytest.mark.parametrize("dims", [2, 3])
def test_a_run_writes_a_gallery_at_every_site_and_sends_none(tmp_path: Path, dims: int) -> None:
    run = RunFolder(tmp_path / "run")
    network = partial(EncoderUNet, encoder=partial(ResNet, depth=10, stem=4), decoder_channels=(8, 8, 4, 4, 4))
    segment(
        run, network=network, data=Data(size=16, phantom=Phantoms(sites=2, images_per_site=12, spatial_dims=dims)),
        visit=Visit(batch_size=8, accelerator="cpu"), rounds=Rounds(1), loggers=(),
        policy=Policy(min_patients=1),
    )  # fmt: skip
    assert run.about()["notes"] == []
    assert {path.parent for path in run.path.rglob(FILE)} == {run.site(site) for site in run.about()["sites"]}
    assert all("gallery" not in path.read_text() for path in run.path.glob("sites/*/audit.jsonl"))
    page = write_report(run.path).read_text()
    assert "True and predicted masks" in page
    assert ("Of each volume the axial slice" in page) == (dims == 3)
    assert "True and predicted masks" not in write_report(run.path, images=False).read_text()
