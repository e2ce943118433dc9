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
from fedcore.messages.message import Reveals
from fedcore.models.encoder_store import save_encoder
from fedcore.models.resnet import ResNet
from fedcore.privacy.policy import Policy
from fedcore.runs.classifiers import SEGMENTER
from fedcore.runs.folder import RunFolder
from fedcore.server.rounds import Rounds
from fedcore.training.visit import Visit
from fedtune.evaluation.segmentation import spacing
from fedtune.segmentation.networks import SegResNet, UShaped
from fedtune.segmentation.training import segment, structures_of, with_masks
from tests.stopping import killed_in

DATA = Data(size=32, phantom=Phantoms(sites=2, images_per_site=32))
ENCODER = partial(ResNet, depth=10, stem=8)
NETWORK = partial(UShaped, encoder=ENCODER, widths=(16, 16, 8, 8, 8))


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


def test_a_run_leaves_scores_of_every_structure_and_the_network(tmp_path: Path) -> None:
    run = ran(tmp_path / "run", rounds=Rounds(8))
    told = json.loads((run.path / "scores.json").read_text())
    assert set(told["sites"]) == {"hospital_1", "hospital_2"}
    assert {"dice", "hd95", "surface_dice"} <= set(told["pooled"])
    assert told["pooled"]["images"] == sum(site["images"] for site in told["sites"].values())
    assert told["pooled"]["dice"]["value"] > 0.25
    assert "network.segmentation_head.0.weight" in weights(run)
    about = run.about()
    assert (about["command"], about["status"], about["carried"]) == ("segment", "finished", 0.0)


def test_it_resumes_to_the_bit(tmp_path: Path) -> None:
    whole = weights(ran(tmp_path / "whole", rounds=Rounds(3)))
    with killed_in(1):
        ran(tmp_path / "half", rounds=Rounds(3))
    resumed = weights(ran(tmp_path / "half", rounds=Rounds(3), resume=True))
    assert all(torch.equal(t, resumed[name]) for name, t in whole.items())


def test_an_encoder_is_carried_over_and_its_part_told(tmp_path: Path) -> None:
    torch.manual_seed(1)
    encoder = ENCODER(2, 1)
    save_encoder(tmp_path / "encoder", encoder, {}, "card")
    still = Visit(max_steps=0, accelerator="cpu")
    run = ran(tmp_path / "run", start=str(tmp_path / "encoder"), visit=still, rounds=Rounds(1))
    found = weights(run)
    assert all(torch.equal(found[f"network.encoder.{k}"], t) for k, t in encoder.state_dict().items())
    counts = [sum(p.numel() for p in net.parameters()) for net in (encoder, NETWORK(2, 1, run.about()["structures"]))]
    assert run.about()["carried"] == pytest.approx(counts[0] / counts[1], abs=1e-4)
    told = f"{counts[0] / counts[1]:.0%} of the parameters came with that encoder"
    assert told in (run.path / "segmenter" / "README.md").read_text()


def test_a_network_without_an_encoder_takes_none(tmp_path: Path) -> None:
    save_encoder(tmp_path / "encoder", ENCODER(2, 1), {}, "card")
    with pytest.raises(InputError, match="SegResNet has none of ours"):
        ran(tmp_path / "run", start=str(tmp_path / "encoder"), network=partial(SegResNet, width=8))


def test_masks_are_looked_at_before_training() -> None:
    cohort = DATA.load()
    train, test = (with_masks(cohort, split) for split in ("train", "test"))

    def changed(images: Images, number: int) -> Images:
        assert images.masks is not None
        return replace(images, masks=np.full_like(images.masks, number))

    known = structures_of(train, test)
    with pytest.raises(InputErrors, match=rf"site 'hospital_2': structure {known} in its test masks"):
        structures_of(train, test | {"hospital_2": changed(test["hospital_2"], known)})
    with pytest.raises(InputError, match="nothing but background"):
        structures_of({site: changed(images, 0) for site, images in train.items()}, test)


def test_images_without_a_label_in_their_mask_are_left_out() -> None:
    cohort = DATA.load()
    images = cohort.sites["hospital_1"]
    assert images.masks is not None
    masks = images.masks.copy()
    masks[images.splits == "test"] = 255
    found = with_masks(replace(cohort, sites=cohort.sites | {"hospital_1": replace(images, masks=masks)}), "test")
    assert list(found) == ["hospital_2"]


def test_distances_are_in_mm_where_files_say_it() -> None:
    images = DATA.load().sites["hospital_1"]
    assert spacing(images, 0) == (1.0, 1.0)
    told = replace(images, spacing=np.array([[0.5, 2.0]] * len(images), np.float32))
    assert spacing(told, 0) == (0.5, 2.0)
    mixed = replace(told, spacing=np.array([[0.5, 2.0], [np.nan, np.nan]] * (len(images) // 2), np.float32))
    assert spacing(mixed, 1) == (1.0, 1.0)


def test_what_cannot_be_done_is_told(tmp_path: Path) -> None:
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
    assert alone.about()["labelled"] == joined.about()["labelled"]
    assert any(not torch.equal(t, weights(joined)[name]) for name, t in weights(alone).items())
    rows = [",".join(line.split(",")[:2]) for line in manifest.read_text().splitlines()]
    manifest.write_text("\n".join(rows))
    with pytest.raises(InputError, match=r"data\.synthetic has no masks; draw a set from a generator of pairs"):
        ran(tmp_path / "bare", both)
