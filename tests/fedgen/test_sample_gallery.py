"""What sites keep of a generator: their own images and generated ones; the run itself stays the same."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from fedcore.data.dataset import Images
from fedcore.report import write_report
from fedcore.runs.folder import RunFolder
from fedcore.server.rounds import Rounds
from fedcore.site.figure_files import GeneratorSamplesFile
from fedcore.site.figures import thumbnails
from fedgen.diffusion.sampler import Sampler, noise_of
from fedgen.federated.feddiffuse import UDec
from fedgen.generator import Conditions, Generator, ImageShape
from fedgen.generator_store import load_generator
from fedgen.latent.autoencoder import Autoencoder
from fedgen.latent.vae import VAE
from fedgen.sample_gallery import SampleGallery
from tests.fedcore.toys import images
from tests.fedgen import gans
from tests.fedgen.test_training import phantoms, stopped_and_resumed, trained, weights

FILE = GeneratorSamplesFile.NAME
CPU = torch.device("cpu")


@dataclass(frozen=True)
class Plain(Generator):
    """Images that show their first noise value, their class and their site."""

    settings = {}  # noqa: RUF012

    @classmethod
    def build(cls, *_: Any) -> Generator:
        raise NotImplementedError

    def sample(self, noise: Tensor, labels: Tensor, sites: Tensor, sampler: Sampler = Sampler()) -> Tensor:
        channels = torch.stack([noise[:, 0, 0, 0].tanh(), labels / 10, sites / 10], 1)
        return channels.view(-1, 3, *[1] * (noise.dim() - 2)).expand(-1, -1, *noise.shape[2:])


def plain(classes: tuple[str, ...] = ("cat", "dog"), size: tuple[int, ...] = (4, 4)) -> Plain:
    return Plain(nn.Identity(), Conditions(classes, ("a", "b")), ImageShape(3, size))


def kept(run: RunFolder, site: str = "hospital_1") -> dict[str, np.ndarray]:
    with np.load(run.site(site) / FILE, allow_pickle=False) as held:
        return {**held}


def of(site: Images, *labels: int) -> Images:
    return replace(site, labels=torch.tensor(labels))


def test_images_of_two_sites_at_one_position_differ_by_the_site_alone() -> None:
    one = SampleGallery().arrays(plain(), "a", of(images("a", 5), 0, 0, 0, 1, 1), 50, CPU)
    other = SampleGallery().arrays(plain(), "b", of(images("b", 3), 1, 1, 1), 50, CPU)
    first = noise_of(0, [0, 1, 2, 3, 1000, 1001, 1002, 1003], (3, 4, 4))[:, 0, 0, 0]
    expected = thumbnails(torch.stack([first.tanh(), one_hot(0, 1), torch.zeros(8)], 1)[:, :, None, None])
    assert (one["synthetic"][:, :, :1, :1] == expected).all()
    assert one["synthetic_labels"].tolist() == other["synthetic_labels"].tolist() == [0] * 4 + [1] * 4
    assert (one["synthetic"][:, :2] == other["synthetic"][:, :2]).all()
    assert (one["synthetic"][:, 2] != other["synthetic"][:, 2]).all()


def one_hot(*rows: int) -> Tensor:
    return torch.tensor(rows).repeat_interleave(4) / 10


def test_real_images_have_the_class_of_their_row() -> None:
    site = of(images("a", 6), 1, 0, 1, -1, 1, 1)
    found = SampleGallery(max_per_class=2).arrays(plain(), "a", site, 50, CPU)
    assert found["real_labels"].tolist() == [0, 1, 1, -1]
    assert (found["real"] == thumbnails(site.batch([1, 0, 5, 3]))).all()
    assert found["synthetic_labels"].tolist() == [0, 0, 1, 1, -1, -1]


def test_of_many_classes_those_with_most_images_are_kept() -> None:
    site = of(images("a", 6), 5, 5, 3, 3, 3, 1)
    found = SampleGallery(max_classes=2).arrays(plain(tuple("abcdefg")), "a", site, 50, CPU)
    assert set(found["synthetic_labels"].tolist()) == {3, 5}


@pytest.mark.parametrize(("limit", "rows", "per_class"), [(1, 1, 1), (2, 2, 1), (5, 2, 2), (50, 2, 4)])
def test_a_run_of_many_sites_generates_few_images_per_site(limit: int, rows: int, per_class: int) -> None:
    found = SampleGallery().arrays(plain(), "a", of(images("a", 4), 0, 0, 1, 1), limit, CPU)
    assert len(found["synthetic"]) == rows * per_class
    assert len(found["synthetic"]) <= limit


def test_without_classes_images_have_no_label() -> None:
    found = SampleGallery().arrays(plain(()), "elsewhere", of(images("a", 4), 0, 0, 1, 1), 50, CPU)
    assert found["synthetic_labels"].tolist() == found["real_labels"].tolist() == [-1] * 4
    assert "denoised" not in found


def test_a_resumed_run_keeps_the_same_bits(tmp_path: Path) -> None:
    whole, resumed = trained(tmp_path / "whole"), stopped_and_resumed(tmp_path / "run")
    for site in ("hospital_1", "hospital_2"):
        one, other = kept(whole, site), kept(resumed, site)
        assert one.keys() == other.keys()
        assert all((one[name] == other[name]).all() for name in one)


def test_the_gallery_does_not_change_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither the weights nor the random state of the caller."""
    torch.manual_seed(1)
    before = torch.get_rng_state()
    run = trained(tmp_path / "run")
    assert torch.equal(torch.get_rng_state(), before)
    monkeypatch.setattr(SampleGallery, "make", lambda *_: None)
    bare = trained(tmp_path / "bare")
    assert not list(bare.path.glob(f"sites/*/{FILE}"))
    assert all(torch.equal(t, weights(bare)[name]) for name, t in weights(run).items())
    assert (run.path / "sites/hospital_1/audit.jsonl").read_text().count("gallery") == 0


def test_kept_images_equal_those_of_the_saved_generator(tmp_path: Path) -> None:
    run = trained(tmp_path / "run")
    found, made = kept(run, "hospital_2"), load_generator(run.path / "generator")
    labels = torch.from_numpy(found["synthetic_labels"])
    noise = noise_of(0, [1000 * int(label) + at % 4 for at, label in enumerate(labels)], (1, 16, 16))
    with torch.inference_mode():
        synthetic = made.sample(noise, labels, torch.ones_like(labels), Sampler(2))
    assert np.abs(thumbnails(synthetic).astype(int) - found["synthetic"]).max() <= 1
    assert np.abs(found["denoised"][-1].astype(int) - found["synthetic"][0]).max() <= 1
    assert (found["steps"].tolist(), int(found["step_count"])) == ([1, 2], 2)


def test_volumes_have_one_image_per_class_of_their_middle_slice(tmp_path: Path) -> None:
    run = trained(tmp_path / "run", data=phantoms(dims=3), rounds=Rounds(1))
    found = kept(run)
    assert found["synthetic_labels"].tolist() == [0, 1, 2, 3]
    assert found["synthetic"].shape == (4, 1, 16, 16)
    assert "the middle slice is shown" in write_report(run.path).read_text()


def test_gans_and_autoencoders_have_no_denoising_steps(tmp_path: Path) -> None:
    vae = partial(VAE, network=partial(Autoencoder, widths=(8, 16)))
    for run in (gans.trained(tmp_path / "gan"), trained(tmp_path / "vae", generator=vae, rounds=Rounds(1))):
        assert {"real", "synthetic"} < kept(run).keys()
        assert "denoised" not in kept(run)
        page = write_report(run.path).read_text()
        assert "Real and synthetic images" in page
        assert "on its way from noise" not in page
    assert "Generator loss" in write_report(tmp_path / "gan").read_text()


def test_sites_with_a_part_of_their_own_use_their_own_generator(tmp_path: Path) -> None:
    run = trained(tmp_path / "run", algorithm=UDec(), rounds=Rounds(1))
    for at, site in enumerate(("hospital_1", "hospital_2")):
        made, found = load_generator(run.site(site) / "generator"), kept(run, site)
        labels = torch.from_numpy(found["synthetic_labels"][:1])
        with torch.inference_mode():
            synthetic = made.sample(noise_of(0, [0], (1, 16, 16)), labels, torch.tensor([at]), Sampler(2))
        assert np.abs(thumbnails(synthetic).astype(int) - found["synthetic"][:1]).max() <= 1


def test_a_failure_is_a_note_and_the_run_is_finished(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(self: SampleGallery, generator: Generator, site: str, *_: Any) -> dict[str, np.ndarray]:
        if site == "hospital_1":
            raise RuntimeError("no memory for /clinic/Jane Doe")
        return {"real": np.zeros(0)}

    monkeypatch.setattr(SampleGallery, "arrays", broken)
    run = trained(tmp_path / "run", rounds=Rounds(1))
    assert (run.about()["status"], run.about()["notes"]) == (
        "finished",
        ["no synthetic images of hospital_1: RuntimeError"],
    )
    page = write_report(run.path).read_text()
    assert "The synthetic images of hospital_2 cannot be read." in page
    assert "Jane Doe" not in page
