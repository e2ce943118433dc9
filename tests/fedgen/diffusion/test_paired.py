from __future__ import annotations

import csv
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from fedcore.data.io.masks import read_mask
from fedcore.data.mask_classes import UNLABELED
from fedcore.data.source import Data
from fedcore.errors import Refused
from fedcore.messages.round import Round
from fedgen.auditing.run import audit
from fedgen.diffusion.paired import PairedDiffusion, bit_count, from_bits, to_bits
from fedgen.diffusion.unet import UNet
from fedgen.generator import Conditions, ImageShape
from fedgen.generator_store import load_generator
from fedgen.releases.release import release
from fedgen.sampling import sample
from tests.fedgen.test_training import phantoms, stopped_and_resumed, trained, weights

CONDITIONS = Conditions(("cat", "dog"), ("a", "b"))
narrow = partial(PairedDiffusion, network=partial(UNet, widths=(8, 16)), mask_classes=3)


def module(**settings: Any) -> PairedDiffusion:
    torch.manual_seed(0)
    made = narrow(ImageShape(1, (8, 8)), CONDITIONS, **settings)
    for parameter in made.denoiser.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    made.on_visit_start("b", Round(0, 1, 0))
    return made


def batch() -> tuple[Tensor, Tensor, Tensor]:
    random = torch.Generator().manual_seed(1)
    return (
        torch.rand(4, 1, 8, 8, generator=random) * 2 - 1,
        torch.arange(4) % 2,
        torch.randint(3, (4, 8, 8), generator=random),
    )


@pytest.mark.parametrize("classes", [2, 3, 4, 5, 100, 255])
def test_bits_of_every_class_are_decoded_also_with_noise(classes: int) -> None:
    masks = torch.arange(classes).view(1, classes)
    bits = to_bits(masks, classes)
    assert bits.shape == (1, bit_count(classes), classes)
    assert 2 ** bit_count(classes) >= classes > 2 ** (bit_count(classes) - 1)
    noise = 0.9 * (torch.rand(bits.shape, generator=torch.Generator().manual_seed(0)) * 2 - 1)
    assert torch.equal(from_bits(bits, classes), masks)
    assert torch.equal(from_bits(bits + noise, classes), masks)


def test_a_pattern_of_no_class_becomes_the_nearest_class() -> None:
    """With three classes, 11 is no class; 01 and 10 differ from it by one bit."""
    assert int(from_bits(torch.tensor([[[1.0], [1.0]]]), 3)) in (1, 2)
    assert int(from_bits(torch.tensor([[[1.0], [0.2]]]), 3)) == 1


def test_a_fully_labelled_batch_has_the_loss_of_images_with_more_channels() -> None:
    made, (images, labels, masks) = module(condition_dropout=0.0), batch()
    torch.manual_seed(3)
    loss = made.training_step((images, labels, masks), 0)
    torch.manual_seed(3)
    both = torch.cat([images, to_bits(masks, 3)], dim=1)
    assert torch.allclose(loss, made.loss(both, labels, torch.ones_like(labels)), rtol=1e-5)


def test_bits_of_unlabelled_pixels_are_not_in_the_loss() -> None:
    """By loops: each image's mean of the squared errors of its pixels and labelled bits."""
    made, (images, labels, masks) = module(condition_dropout=0.0), batch()
    masks[0, :4] = UNLABELED
    masks[1] = UNLABELED
    torch.manual_seed(3)
    loss = made.training_step((images, labels, masks), 0)
    torch.manual_seed(3)
    labelled = (masks != UNLABELED)[:, None]
    both = torch.cat([images, to_bits(masks, 3) * labelled], dim=1)
    times, noise = made.schedule.sample_times(4, images.device), torch.randn_like(both)
    prediction = made.denoiser(made.schedule.add_noise(both, noise, times), times, labels, torch.ones_like(labels))
    errors = (prediction - made.schedule.target(both, noise, times)).square().detach()
    total = 0.0
    for i in range(4):
        counted = [float(errors[i, 0, y, x]) for y in range(8) for x in range(8)]
        counted += [
            float(errors[i, c, y, x]) for c in (1, 2) for y in range(8) for x in range(8) if masks[i, y, x] != UNLABELED
        ]
        total += float(made.schedule.loss_weight(times[i : i + 1])) * sum(counted) / len(counted)
    assert float(loss.detach()) == pytest.approx(total / 4, rel=1e-4)


def test_a_mask_class_out_of_range_is_refused() -> None:
    images, labels, masks = batch()
    masks[2, 3, 3] = 7
    made = module()
    made.training_step((images, labels, masks), 0)
    with pytest.raises(
        Refused, match="a mask holds class 7; the generator's mask_classes must be larger than that, got 3"
    ):
        made.on_train_epoch_end()
    with pytest.raises(ValueError, match=r"mask_classes must lie in 2\.\.255, background included, got 1"):
        PairedDiffusion(ImageShape(1, (8, 8)), CONDITIONS, mask_classes=1)


@pytest.mark.parametrize("dims", [2, 3])
def test_a_set_with_masks_is_read_by_the_kit_and_released(tmp_path: Path, dims: int) -> None:
    run = trained(tmp_path / "run", data=phantoms(dims=dims), generator=narrow)
    assert load_generator(run.path / "generator").image_shape == ImageShape(1, (16,) * dims)
    manifest = sample(run.path, tmp_path / "set", 6, steps=2, batch_size=4)
    with manifest.open(newline="") as file:
        rows = list(csv.DictReader(file))
    masks = [read_mask(tmp_path / "set" / row["mask"]) for row in rows]
    assert all(mask.shape == (16,) * dims and mask.max() <= 2 for mask in masks)
    cohort = Data(manifest=str(manifest), size=16, cache=tmp_path / "cache").load()
    assert torch.equal(cohort.sites["synthetic"].mask_batch([4])[0], torch.from_numpy(masks[4]).long())
    release(tmp_path / "set", tmp_path / "out", force=True, run=run.path)
    assert "training sets of segmenters" in (sheet := (tmp_path / "out" / "README.md").read_text())
    assert "did not check that a mask fits its image" in sheet
    assert (tmp_path / "out" / rows[0]["mask"]).read_bytes() == (tmp_path / "set" / rows[0]["mask"]).read_bytes()


def test_an_audit_checks_the_images_of_a_set_with_masks(tmp_path: Path) -> None:
    run = trained(tmp_path / "run", data=phantoms(), generator=narrow)
    sample(run.path, tmp_path / "set", 6, steps=2)
    small = ["--data.size", "16", "--data.phantom.sites", "2", "--data.phantom.images_per_site", "8"]
    assert audit(run.path, tmp_path / "set", None, small).images == 6


def test_a_resumed_run_ends_with_the_same_bits(tmp_path: Path) -> None:
    whole = weights(trained(tmp_path / "whole", generator=narrow))
    resumed = weights(stopped_and_resumed(tmp_path / "run", generator=narrow))
    assert all(torch.equal(t, resumed[k]) for k, t in whole.items())
