"""A generator that memorised a few images fails its audit; the same one, trained on many images, passes."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest
from torch.optim import AdamW

from fedcore.config.recipe import read_recipe
from fedcore.data.synthetic.audit_record import AuditRecord
from fedcore.runs.folder import RunFolder
from fedcore.server.rounds import Rounds
from fedcore.training.visit import Visit
from fedgen.auditing.run import audit
from fedgen.diffusion.diffusion import Diffusion
from fedgen.diffusion.unet import UNet
from fedgen.sampling import sample
from fedgen.training import train


def audited(folder: Path, images: int, held_out: float, steps: int = 1000) -> AuditRecord:
    """Of 64 synthetic images after so many steps of 32 images each."""
    words = ["--data.size", "16", "--data.phantom.sites", "1", "--data.phantom.images_per_site", str(images)]
    recipe = read_recipe(train, "generate train", [*words, "--data.phantom.test_fraction", str(held_out)])
    generator = partial(
        Diffusion, network=partial(UNet, widths=(16, 32)), ema_halflife=1000.0, optimizer=lambda p: AdamW(p, lr=2e-3)
    )
    visit = Visit(batch_size=32, max_epochs=steps, max_steps=steps, accelerator="cpu")
    train(RunFolder(folder / "run", recipe.text), generator, data=recipe.build()["data"], visit=visit, rounds=Rounds(1))
    sample(folder / "run", folder / "set", 64, steps=20)
    return audit(folder / "run", folder / "set")


@pytest.mark.slow
def test_a_generator_that_saw_32_images_a_thousand_times_fails(tmp_path: Path) -> None:
    found = audited(tmp_path, 128, held_out=0.75)
    assert found.sites["hospital_1"]["training_images"] == 32
    assert len(found.copies) > 32
    assert any("the generator has memorised images" in text for text in found.safe.reasons)


@pytest.mark.slow
def test_a_generator_that_saw_1170_images_passes(tmp_path: Path) -> None:
    found = audited(tmp_path, 1300, held_out=0.1)
    assert found.safe.answer == "yes", found.safe
    assert found.sites["hospital_1"]["membership_auc"] == pytest.approx(0.5, abs=0.1)
