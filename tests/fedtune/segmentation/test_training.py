from __future__ import annotations

import json
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch

from fedcore.data.dataset import Images
from fedcore.data.phantom.phantoms import Phantoms
from fedcore.data.source import Data
from fedcore.data.synthetic.synthetic_set import Synthetic
from fedcore.errors import InputError, InputErrors
from fedcore.messages.reveals import Reveals
from fedcore.models.encoder_store import save_encoder
from fedcore.models.resnet import ResNet
from fedcore.privacy.policy import Policy
from fedcore.report.read.reader import read_run
from fedcore.runs.classifiers import SEGMENTER
from fedcore.runs.folder import RunFolder
from fedcore.server.rounds import Rounds
from fedcore.training.visit import Visit
from fedtune.evaluation.segmentation import pixel_spacing
from fedtune.segmentation.networks import EncoderUNet, SegResNet
from fedtune.segmentation.training import segment
from fedtune.segmentation.training_masks import count_mask_classes, with_masks
from tests.stopping import killed_in

DATA = Data(size=32, phantom=Phantoms(sites=2, images_per_site=32))
ENCODER = partial(ResNet, depth=10, stem=8)
NETWORK = partial(EncoderUNet, encoder=ENCODER, decoder_channels=(16, 16, 8, 8, 8))


def ran(folder: Path, data: Data = DATA, resume: bool = False, **more: Any) -> RunFolder:
    run, visit = RunFolder(folder, resume=resume), Visit(batch_size=8, accelerator="cpu")
    more = {
        "network": NETWORK,
        "rounds": Rounds(2),
        "loggers": (),
        "policy": Policy(min_patients=1),
        "visit": visit,
        **more,
    }
    segment(run, data=data, **more)
    return run


def weights(run: RunFolder) -> dict[str, torch.Tensor]:
    return safetensors.torch.load_file(run.path / SEGMENTER)


def test_a_run_writes_scores_and_the_network(tmp_path: Path) -> None:
    run = ran(tmp_path / "run", rounds=Rounds(8))
    scores = json.loads((run.path / "scores.json").read_text())
    assert set(scores["sites"]) == {"hospital_1", "hospital_2"}
    assert {"dice", "hd95", "surface_dice"} <= set(scores["pooled"])
    assert scores["pooled"]["images"] == sum(site["images"] for site in scores["sites"].values())
    assert scores["pooled"]["dice"]["value"] > 0.25
    assert "network.segmentation_head.0.weight" in weights(run)
    about = run.about()
    assert (about["command"], about["status"], about["pretrained_fraction"]) == ("segment", "finished", 0.0)
    read = read_run(run.path).scores
    assert read is not None
    assert read.pooled is not None
    assert read.pooled.metrics["dice"].value == scores["pooled"]["dice"]["value"]
    assert (read.label_fraction, read.pretrained, read.distance_unit) == (1.0, None, scores["distance_unit"])
    assert read.grid == scores["grid"] == "32 x 32"


def test_a_resumed_run_is_bit_identical(tmp_path: Path) -> None:
    whole = weights(ran(tmp_path / "whole", rounds=Rounds(3)))
    with killed_in(1):
        ran(tmp_path / "half", rounds=Rounds(3))
    resumed = weights(ran(tmp_path / "half", rounds=Rounds(3), resume=True))
    assert all(torch.equal(t, resumed[name]) for name, t in whole.items())


def test_a_pretrained_encoder_is_loaded_and_its_fraction_reported(tmp_path: Path) -> None:
    torch.manual_seed(1)
    encoder = ENCODER(2, 1)
    save_encoder(tmp_path / "encoder", encoder, {}, "card")
    still = Visit(max_steps=0, accelerator="cpu")
    run = ran(tmp_path / "run", pretrained=str(tmp_path / "encoder"), visit=still, rounds=Rounds(1))
    found = weights(run)
    assert all(torch.equal(found[f"network.encoder.{k}"], t) for k, t in encoder.state_dict().items())
    counts = [sum(p.numel() for p in net.parameters()) for net in (encoder, NETWORK(2, 1, run.about()["mask_classes"]))]
    assert run.about()["pretrained_fraction"] == pytest.approx(counts[0] / counts[1], abs=1e-4)
    text = f"{counts[0] / counts[1]:.0%} of the parameters are pretrained"
    assert text in (run.path / "segmenter" / "README.md").read_text()


def test_a_network_without_encoder_cannot_be_pretrained(tmp_path: Path) -> None:
    save_encoder(tmp_path / "encoder", ENCODER(2, 1), {}, "card")
    with pytest.raises(InputError, match="SegResNet has none"):
        ran(tmp_path / "run", pretrained=str(tmp_path / "encoder"), network=partial(SegResNet, width=8))


def test_masks_are_checked_before_training() -> None:
    cohort = DATA.load()
    train, test = (with_masks(cohort, split) for split in ("train", "test"))

    def changed(images: Images, number: int) -> Images:
        assert images.masks is not None
        return replace(images, masks=np.full_like(images.masks, number))

    known = count_mask_classes(train, test)
    with pytest.raises(InputErrors, match=rf"site 'hospital_2': structure {known} in its test masks"):
        count_mask_classes(train, test | {"hospital_2": changed(test["hospital_2"], known)})
    with pytest.raises(InputError, match="only background"):
        count_mask_classes({site: changed(images, 0) for site, images in train.items()}, test)


def test_images_without_a_label_in_their_mask_are_left_out() -> None:
    cohort = DATA.load()
    images = cohort.sites["hospital_1"]
    assert images.masks is not None
    masks = images.masks.copy()
    masks[images.splits == "test"] = 255
    found = with_masks(replace(cohort, sites=cohort.sites | {"hospital_1": replace(images, masks=masks)}), "test")
    assert list(found) == ["hospital_2"]


def test_distances_are_in_mm_where_files_state_the_spacing() -> None:
    images = DATA.load().sites["hospital_1"]
    assert pixel_spacing(images, 0) == (1.0, 1.0)
    stated = replace(images, spacing=np.array([[0.5, 2.0]] * len(images), np.float32))
    assert pixel_spacing(stated, 0) == (0.5, 2.0)
    mixed = replace(stated, spacing=np.array([[0.5, 2.0], [np.nan, np.nan]] * (len(images) // 2), np.float32))
    assert pixel_spacing(mixed, 1) == (1.0, 1.0)


def test_invalid_settings_are_errors(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"label_fraction must lie in \(0, 1\], got 0"):
        ran(tmp_path / "a", label_fraction=0.0)
    with pytest.raises(InputError, match="no score could be computed"):
        ran(tmp_path / "b", policy=Policy(Reveals.WEIGHTS, min_patients=1))
    with pytest.raises(InputError, match="tolerance must be positive"):
        ran(tmp_path / "c", tolerance=0.0)


def test_a_synthetic_set_with_masks_joins_the_batches(tmp_path: Path) -> None:
    manifest = Phantoms(sites=1, images_per_site=16, test_fraction=0.0, seed=3).write(tmp_path / "more", 32)
    manifest.write_text(manifest.read_text().replace(",hospital_1,", ",elsewhere,"))
    data = replace(DATA, cache=tmp_path / "cache")
    both = replace(data, synthetic=Synthetic(str(manifest)))
    alone, joined = ran(tmp_path / "alone", data), ran(tmp_path / "joined", both)
    assert alone.about()["labelled_images"] == joined.about()["labelled_images"]
    assert any(not torch.equal(t, weights(joined)[name]) for name, t in weights(alone).items())
    rows = [",".join(line.split(",")[:2]) for line in manifest.read_text().splitlines()]
    manifest.write_text("\n".join(rows))
    with pytest.raises(InputError, match=r"data\.synthetic has no masks; sample a set from a generator of pairs"):
        ran(tmp_path / "bare", both)
