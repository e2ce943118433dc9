from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from fedcore.algorithms.local_only import LocalOnly
from fedcore.errors import InputError
from fedgen.auditing.audit import BATCH
from fedgen.auditing.run import audit
from fedgen.diffusion.denoiser import Denoiser, DiffusionGenerator
from fedgen.diffusion.sampler import Sampler, noise_of
from fedgen.diffusion.schedule import NoiseSchedule
from fedgen.diffusion.unet import UNet
from fedgen.generator import UNCONDITIONED, Conditions, Generator, ImageShape
from fedgen.generator_store import load_generator, save_generator
from fedgen.oneshot.joint_generator import JointGenerator, load_run_generator
from fedgen.releases.release import release
from fedgen.sampling import sample
from fedgen.synthetic import synthetic_set as module
from fedgen.synthetic.synthetic_set import SyntheticSet
from tests.fedgen.test_training import phantoms, trained

KNOWN = Conditions(("cat", "dog"), ("b", "a", "never_trained"))
QUICK = {"steps": 2, "batch_size": 4}


def own(seed: int) -> Generator:
    """A site's generator, untrained, with outputs other than 0."""
    torch.manual_seed(seed)
    denoiser = Denoiser(UNet(2, 1, widths=(8, 16)), KNOWN)
    for parameter in denoiser.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    return DiffusionGenerator(denoiser.eval(), KNOWN, ImageShape(1, (8, 8)), NoiseSchedule(), 0.1)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    for seed, site in enumerate("ab"):
        save_generator(tmp_path / "run" / "sites" / site / "generator", own(seed))
    return tmp_path / "run"


def names(folder: Path) -> list[tuple[str, str]]:
    with (folder / "manifest.csv").open(newline="") as file:
        return [(row["label"], row["site_style"]) for row in csv.DictReader(file)]


def pixels(folder: Path) -> dict[str, np.ndarray]:
    return {p.name: np.asarray(Image.open(p)).astype(int) for p in sorted((folder / "images").iterdir())}


def test_each_image_is_as_its_sites_own_generator_draws_it(run: Path) -> None:
    joint, each = load_run_generator(run), {site: own(seed) for seed, site in enumerate("ab")}
    assert joint.conditions == Conditions(
        ("cat", "dog"), ("b", "a")
    )  # the run's order; a site that never trained has none
    noise, sampler = noise_of(0, range(6), joint.noise_shape), Sampler(2)
    labels, sites = torch.tensor([0, 1, 0, 1, 0, UNCONDITIONED]), torch.tensor([0, 0, 1, 1, 0, 1])
    with torch.inference_mode():
        drawn = joint.sample(noise, labels, sites, sampler)
        for i, site in enumerate("bbaaba"):
            look = torch.tensor([KNOWN.site_index(site)])
            alone = each[site].sample(noise[i : i + 1], labels[i : i + 1], look, sampler)
            torch.testing.assert_close(drawn[i : i + 1], alone)
    with pytest.raises(
        ValueError, match="generators of single sites need a site for each image, got an image without a site"
    ):
        joint.sample(noise, labels, torch.full((6,), UNCONDITIONED), sampler)


def test_a_joint_generator_is_stored_like_any_other(run: Path, tmp_path: Path) -> None:
    joint = load_run_generator(run)
    save_generator(tmp_path / "joint", joint)
    again = load_generator(tmp_path / "joint")
    assert isinstance(again, JointGenerator)
    assert (again.conditions, again.image_shape) == (joint.conditions, joint.image_shape)
    asked = noise_of(0, range(2), joint.noise_shape), torch.tensor([0, 1]), torch.tensor([0, 1]), Sampler(2)
    with torch.inference_mode():
        assert torch.equal(joint.sample(*asked), again.sample(*asked))


def test_the_set_takes_sites_in_turn_and_names_its_generators(run: Path, tmp_path: Path) -> None:
    sample(run, tmp_path / "set", 6, **QUICK)
    assert names(tmp_path / "set") == [(c, s) for s in "ba" for c in ("cat", "dog")] + [("cat", "b"), ("dog", "b")]
    settings = SyntheticSet.open(tmp_path / "set").settings
    assert set(settings["generators"]) == {"a", "b"}
    assert len({settings["generator"], *settings["generators"].values()}) == 3
    sample(run / "sites" / "a", tmp_path / "alone", 6, sites=["a"], **QUICK)
    assert "generators" not in SyntheticSet.open(tmp_path / "alone").settings


def test_a_generator_that_leaves_its_site_is_in_the_audit_log(run: Path, tmp_path: Path) -> None:
    sample(run / "sites" / "a", tmp_path / "at_the_site", 2, sites=["a"], **QUICK)
    sample(run, tmp_path / "set", 2, sites=["b"], **QUICK)
    assert not (run / "sites" / "a" / "audit.jsonl").exists()
    line = json.loads((run / "sites" / "b" / "audit.jsonl").read_text().splitlines()[0])
    network = own(1).network.state_dict()
    assert (line["reveals"], line["tensors"]) == ("WEIGHTS", len(network))
    assert line["bytes"] == sum(t.numel() * t.element_size() for t in network.values())


def test_an_interrupted_set_resumes_to_the_same_result(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sample(run, tmp_path / "whole", 10, **QUICK)
    write, written = module.write_atomically, []

    def full(path: Path, data: bytes, durable: bool = False) -> None:
        written.append(path)
        if len(written) == 7:
            raise InputError("the disk is full")
        write(path, data)

    with monkeypatch.context() as patch:
        patch.setattr(module, "write_atomically", full)
        with pytest.raises(InputError, match="the disk is full"):
            sample(run, tmp_path / "set", 10, **QUICK)
    sample(run, tmp_path / "set", 10, resume=True, **QUICK)
    one, two = pixels(tmp_path / "set"), pixels(tmp_path / "whole")
    assert names(tmp_path / "set") == names(tmp_path / "whole")
    assert all(np.array_equal(one[name], two[name]) for name in two)
    save_generator(run / "sites" / "a" / "generator", own(5))
    with pytest.raises(InputError, match="has another generator and generators"):
        sample(run, tmp_path / "set", 12, resume=True, **QUICK)


def test_images_in_the_style_of_a_site_need_its_generator(run: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="has no site 'never_trained'; its sites: b, a"):
        sample(run, tmp_path / "set", 2, sites=["never_trained"], **QUICK)
    assert not (tmp_path / "set").exists()


def test_sites_with_separate_generators_sample_audit_and_release_one_set(tmp_path: Path) -> None:
    run = trained(tmp_path / "run", algorithm=LocalOnly(), data=phantoms())
    sample(run.path, tmp_path / "set", 16, **QUICK)
    # The run was started without a recipe: its algorithm and images are given here.
    small = ["--data.size", "16", "--data.phantom.sites", "2", "--data.phantom.images_per_site", "8"]
    found = audit(run.path, tmp_path / "set", None, small)
    assert set(found.sites) == {"hospital_1", "hospital_2"}
    assert found.images == 16 < BATCH
    release(tmp_path / "set", tmp_path / "out", force=True)
    sheet = " ".join((tmp_path / "out" / "README.md").read_text().split())
    assert "Generated by the separate generators of 2 hospitals" in sheet
    assert "every hospital sent its own generator" in sheet
