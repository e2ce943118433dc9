from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from benchmarks.copy_detection import NO_COPIES, rates
from fedcore.data.dataset import Images
from fedcore.data.phantom.phantoms import Phantoms
from fedgen.copies.copies import (
    DOUBLE,
    LOWEST,
    MOST,
    NOISY,
    Near,
    PixelLooks,
    copies,
    limit_of,
    near,
    near_by_features,
    together,
)
from fedgen.copies.matching import Matches, working


def hospital(images: int, size: int, dims: int = 2) -> Images:
    return Phantoms(1, images, dims, test_fraction=0.0).cohort(size).sites["hospital_1"]


def points(seed: int, count: int) -> Tensor:
    return torch.randn(count, 12, generator=torch.Generator().manual_seed(seed))


def low(found: dict[str, tuple[int, int]]) -> dict[str, float]:
    return {
        name: hits / count for name, (hits, count) in found.items() if name not in NO_COPIES and hits < 0.95 * count
    }


def test_every_disguise_is_found_and_honest_images_are_not() -> None:
    """Each image is judged alone, so that a copy is found among a hundred images as among three."""
    found = rates(hospital(200, 32), planted=6, seed=0)
    assert low(found) == {}
    assert [found[name][0] for name in NO_COPIES] == [0] * len(NO_COPIES)


@pytest.mark.slow
def test_every_disguise_of_volumes_is_found() -> None:
    found = rates(hospital(120, 32, 3), planted=8, seed=0)
    assert low(found) == {}
    assert sum(found[name][0] for name in NO_COPIES) <= 1


Site = tuple[PixelLooks, dict[str, Tensor], dict[str, Near]]


@pytest.fixture(scope="module")
def site() -> Site:
    """What is looked at, the images, and the held-out ones as they were looked at."""
    images = hospital(300, 24)
    parts = {"trained": range(160), "held": range(160, 240), "drawn": range(240, 300)}
    seen = {name: working(images.batch(at)) for name, at in parts.items()}
    looks = PixelLooks.of(seen["trained"], torch.from_numpy(images.patients[:160]))
    return looks, seen, looks.held_out(seen["held"])


def test_a_copy_is_laid_beside_its_original_and_judged_as_if_it_were_alone(
    site: Site,
) -> None:
    looks, seen, held = site
    planted = torch.cat([seen["drawn"][:9], seen["trained"][[30]].flip(-2), seen["drawn"][9:20]])
    drawn, _, found = together(looks(planted), held)
    assert found.suspects.nonzero().flatten().tolist() == [9]
    assert int(drawn.nearest[9]) == 30
    alone, _, same = together(looks(planted[9:10]), held)
    assert same.suspects.all()
    assert float(alone.closeness[0]) == pytest.approx(float(drawn.closeness[9]), abs=1e-3)


@pytest.mark.parametrize("count", [1, 26])
def test_what_is_said_of_an_image_does_not_depend_on_how_many_are_copies(site: Site, count: int) -> None:
    """Of 60 others; together more than are searched at once."""
    looks, seen, held = site
    planted = torch.cat([seen["drawn"], seen["trained"][:count]])
    order = torch.randperm(len(planted), generator=torch.Generator().manual_seed(3))
    found = together(looks(planted[order]), held)[2].suspects
    assert found.tolist() == (order >= len(seen["drawn"])).tolist()


@pytest.mark.parametrize("part", [0.16, 0.3, 0.6])
def test_doubles_among_the_held_out_do_not_hide_copies_and_are_told(site: Site, part: float) -> None:
    looks, seen, _ = site
    doubles = round(part * 80)
    held = torch.cat([seen["held"][doubles:], seen["trained"][:doubles]])
    _, _, found = together(looks(seen["trained"][100:120]), looks.held_out(held))
    assert found.suspects.all()
    assert found.held == pytest.approx(part, abs=0.03)


def test_a_noisy_stranger_is_none_and_what_is_said_of_the_held_out_leaves_their_noise_out(
    site: Site,
) -> None:
    looks, seen, held = site
    noise = 0.6 * torch.randn(seen["drawn"].shape, generator=torch.Generator().manual_seed(4))
    _, other, found = together(looks((seen["drawn"] + noise).clamp(-1, 1)), held)
    assert found.suspects.float().mean() < 0.05  # at 24 pixels, with 80 held-out images
    assert not together(looks(noise.sign()), held)[2].suspects.any()  # too noisy to be judged
    clean = {name: look for name, look in held.items() if name not in NOISY[1:]}
    assert torch.equal(other.closeness, together(clean, clean)[1].closeness)


def test_near_equal_images_of_a_patient_do_not_hide_a_copy(site: Site) -> None:
    """Six exposures of each patient: all of them are near a copy, which is why the others are of other patients."""
    _, seen, _ = site
    generator = torch.Generator().manual_seed(1)
    one = seen["trained"][::2]
    repeated = one.repeat_interleave(6, 0)
    repeated = (repeated + 0.03 * torch.randn(repeated.shape, generator=generator)).clamp(-1, 1)
    looks = PixelLooks.of(repeated, torch.arange(len(one)).repeat_interleave(6))
    noisy = (one[:20] + 0.05 * torch.randn(one[:20].shape, generator=generator)).clamp(-1, 1)
    held = looks.held_out(seen["held"])
    assert together(looks(noisy), held)[2].suspects.all()
    assert not together(looks(seen["drawn"]), held)[2].suspects.any()


def test_closeness_is_the_ratio_to_other_patients() -> None:
    """Of trained images 0 to 6, where 0 and 1 are one patient's."""
    similarity = torch.tensor([[0.98, 0.5, 0.5, 0.5, 0.5, 0.5, 0.98, 0.97]])
    matches = Matches(similarity, torch.tensor([[0, 2, 3, 4, 5, 6, 0, 1]]), first=6)
    found = near(matches, torch.tensor([0, 0, 1, 2, 3, 4, 5]))
    assert float(found.closeness) == pytest.approx((0.04 / 1.0) ** 0.5, rel=1e-4)
    assert int(found.nearest) == 0


def test_closeness_by_features_leaves_the_patients_other_images_out() -> None:
    trained, queries = points(1, 30), points(0, 4)
    alone = near_by_features(queries, trained, torch.arange(30))
    twice = near_by_features(queries, torch.cat([trained, trained]), torch.arange(30).repeat(2))
    assert torch.allclose(alone.closeness, twice.closeness, atol=1e-5)
    for at, query in enumerate(queries):
        cosine = torch.cosine_similarity(query[None], trained)
        distances = (2 - 2 * cosine).sqrt().sort()
        assert float(alone.closeness[at]) == pytest.approx(float(distances.values[0] / distances.values[1:6].mean()))
        assert int(alone.nearest[at]) == int(distances.indices[0])


def test_a_limit_lies_between_its_bounds_whatever_the_held_out_are_like() -> None:
    spread = torch.rand(100, generator=torch.Generator().manual_seed(0))
    assert limit_of(0.89 + 0.01 * spread) == MOST
    assert limit_of(0.5 + 0.5 * spread) == LOWEST
    assert limit_of(torch.full((30,), 0.01)) == LOWEST > DOUBLE
    found = copies(torch.tensor([0.54, 0.56, 0.8]), 0.89 + 0.01 * spread)
    assert found.suspects.tolist() == [True, False, False]


def test_the_closest_look_counts_and_limits_are_made_one() -> None:
    """By the second look, whose limit is the lower, 0.41 is a copy and 0.5 is none."""
    at = torch.zeros(2, dtype=torch.int64)
    alike, spread = torch.full((40,), 0.9), torch.linspace(0.5, 1, 40)
    places = torch.zeros(40, dtype=torch.int64)
    held = {"one": Near(alike, places), "other": Near(spread, places)}
    drawn = {"one": Near(torch.tensor([0.9, 0.9]), at), "other": Near(torch.tensor([0.41, 0.5]), at + 7)}
    seen, _, found = together(drawn, held)
    assert found.limit == MOST
    assert found.suspects.tolist() == [True, False]
    assert seen.nearest.tolist() == [7, 7]
    assert together({"one": drawn["one"]}, {"one": replace(held["one"])})[2].suspects.tolist() == [False, False]
