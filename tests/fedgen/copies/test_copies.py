from __future__ import annotations

import pytest
import torch
from torch import Tensor

from benchmarks.copy_detection import NO_COPIES, rates
from fedcore.data.dataset import Images
from fedcore.data.phantom.phantoms import Phantoms
from fedgen.copies.copies import (
    DUPLICATE,
    MAX_LIMIT,
    MIN_LIMIT,
    NOISY,
    NearestTraining,
    PixelComparisons,
    detect_copies,
    detect_copies_by_any,
    limit_of,
    nearest_by_features,
    nearest_training,
)
from fedgen.copies.matching import Matches, at_search_size


def hospital(images: int, size: int, dims: int = 2) -> Images:
    return Phantoms(1, images, dims, test_fraction=0.0).cohort(size).sites["hospital_1"]


def points(seed: int, count: int) -> Tensor:
    return torch.randn(count, 12, generator=torch.Generator().manual_seed(seed))


def low(found: dict[str, tuple[int, int]]) -> dict[str, float]:
    return {
        name: hits / count for name, (hits, count) in found.items() if name not in NO_COPIES and hits < 0.95 * count
    }


def test_every_kind_of_copy_is_detected_and_honest_images_are_not() -> None:
    """Each image is judged alone, so a copy is found among a hundred images as among three."""
    found = rates(hospital(200, 32), planted=6, seed=0)
    assert low(found) == {}
    assert [found[name][0] for name in NO_COPIES] == [0] * len(NO_COPIES)


@pytest.mark.slow
def test_every_kind_of_copy_of_a_volume_is_detected() -> None:
    found = rates(hospital(120, 32, 3), planted=8, seed=0)
    assert low(found) == {}
    assert sum(found[name][0] for name in NO_COPIES) <= 1


Site = tuple[PixelComparisons, dict[str, Tensor], dict[str, NearestTraining]]


@pytest.fixture(scope="module")
def site() -> Site:
    """The comparisons, the images, and the result of the held-out images."""
    cohort = hospital(300, 24)
    parts = {"training": range(160), "held_out": range(160, 240), "synthetic": range(240, 300)}
    images = {name: at_search_size(cohort.batch(at)) for name, at in parts.items()}
    compare = PixelComparisons.fit(images["training"], torch.from_numpy(cohort.patients[:160]))
    return compare, images, compare.held_out(images["held_out"])


def test_a_copy_is_matched_to_its_original_and_judged_alone(site: Site) -> None:
    compare, images, held_out = site
    planted = torch.cat([images["synthetic"][:9], images["training"][[30]].flip(-2), images["synthetic"][9:20]])
    synthetic, _, found = detect_copies_by_any(compare(planted), held_out)
    assert found.is_copy.nonzero().flatten().tolist() == [9]
    assert int(synthetic.index[9]) == 30
    alone, _, same = detect_copies_by_any(compare(planted[9:10]), held_out)
    assert same.is_copy.all()
    assert float(alone.ratio[0]) == pytest.approx(float(synthetic.ratio[9]), abs=1e-3)


@pytest.mark.parametrize("count", [1, 26])
def test_the_decision_on_an_image_does_not_depend_on_the_number_of_copies(site: Site, count: int) -> None:
    """Among 60 others; in all more than are searched at once."""
    compare, images, held_out = site
    planted = torch.cat([images["synthetic"], images["training"][:count]])
    order = torch.randperm(len(planted), generator=torch.Generator().manual_seed(3))
    found = detect_copies_by_any(compare(planted[order]), held_out)[2].is_copy
    assert found.tolist() == (order >= len(images["synthetic"])).tolist()


@pytest.mark.parametrize("part", [0.16, 0.3, 0.6])
def test_duplicates_among_held_out_images_do_not_hide_copies_and_are_counted(site: Site, part: float) -> None:
    compare, images, _ = site
    duplicates = round(part * 80)
    held_out = torch.cat([images["held_out"][duplicates:], images["training"][:duplicates]])
    _, _, found = detect_copies_by_any(compare(images["training"][100:120]), compare.held_out(held_out))
    assert found.is_copy.all()
    assert found.held_out_fraction == pytest.approx(part, abs=0.03)


def test_a_noisy_image_of_another_patient_is_no_copy_and_held_out_results_are_without_added_noise(
    site: Site,
) -> None:
    compare, images, held_out = site
    noise = 0.6 * torch.randn(images["synthetic"].shape, generator=torch.Generator().manual_seed(4))
    _, other, found = detect_copies_by_any(compare((images["synthetic"] + noise).clamp(-1, 1)), held_out)
    assert found.is_copy.float().mean() < 0.05  # at 24 pixels, with 80 held-out images
    assert not detect_copies_by_any(compare(noise.sign()), held_out)[2].is_copy.any()  # too noisy to be judged
    clean = {name: one for name, one in held_out.items() if name not in NOISY[1:]}
    assert torch.equal(other.ratio, detect_copies_by_any(clean, clean)[1].ratio)


def test_near_equal_images_of_a_patient_do_not_hide_a_copy(site: Site) -> None:
    """Six exposures of each patient are all near a copy, so the ratio is taken to other patients."""
    _, images, _ = site
    generator = torch.Generator().manual_seed(1)
    one = images["training"][::2]
    repeated = one.repeat_interleave(6, 0)
    repeated = (repeated + 0.03 * torch.randn(repeated.shape, generator=generator)).clamp(-1, 1)
    compare = PixelComparisons.fit(repeated, torch.arange(len(one)).repeat_interleave(6))
    noisy = (one[:20] + 0.05 * torch.randn(one[:20].shape, generator=generator)).clamp(-1, 1)
    held_out = compare.held_out(images["held_out"])
    assert detect_copies_by_any(compare(noisy), held_out)[2].is_copy.all()
    assert not detect_copies_by_any(compare(images["synthetic"]), held_out)[2].is_copy.any()


def test_the_distance_ratio_is_relative_to_other_patients() -> None:
    """Training images 0 to 6; 0 and 1 are of one patient."""
    similarity = torch.tensor([[0.98, 0.5, 0.5, 0.5, 0.5, 0.5, 0.98, 0.97]])
    matches = Matches(similarity, torch.tensor([[0, 2, 3, 4, 5, 6, 0, 1]]), per_patient=6)
    found = nearest_training(matches, torch.tensor([0, 0, 1, 2, 3, 4, 5]))
    assert float(found.ratio) == pytest.approx((0.04 / 1.0) ** 0.5, rel=1e-4)
    assert int(found.index) == 0


def test_the_ratio_by_features_ignores_other_images_of_the_patient() -> None:
    training, queries = points(1, 30), points(0, 4)
    alone = nearest_by_features(queries, training, torch.arange(30))
    twice = nearest_by_features(queries, torch.cat([training, training]), torch.arange(30).repeat(2))
    assert torch.allclose(alone.ratio, twice.ratio, atol=1e-5)
    for at, query in enumerate(queries):
        cosine = torch.cosine_similarity(query[None], training)
        distances = (2 - 2 * cosine).sqrt().sort()
        assert float(alone.ratio[at]) == pytest.approx(float(distances.values[0] / distances.values[1:6].mean()))
        assert int(alone.index[at]) == int(distances.indices[0])


def test_a_limit_lies_between_its_bounds_for_any_held_out_images() -> None:
    spread = torch.rand(100, generator=torch.Generator().manual_seed(0))
    assert limit_of(0.89 + 0.01 * spread) == MAX_LIMIT
    assert limit_of(0.5 + 0.5 * spread) == MIN_LIMIT
    assert limit_of(torch.full((30,), 0.01)) == MIN_LIMIT > DUPLICATE
    found = detect_copies(torch.tensor([0.54, 0.56, 0.8]), 0.89 + 0.01 * spread)
    assert found.is_copy.tolist() == [True, False, False]


def test_the_closest_comparison_counts_and_limits_are_scaled_to_one() -> None:
    """By the second comparison, which has the lower limit, 0.41 is a copy and 0.5 is not."""
    at = torch.zeros(2, dtype=torch.int64)
    similar, spread = torch.full((40,), 0.9), torch.linspace(0.5, 1, 40)
    places = torch.zeros(40, dtype=torch.int64)
    held_out = {"one": NearestTraining(similar, places), "other": NearestTraining(spread, places)}
    synthetic = {
        "one": NearestTraining(torch.tensor([0.9, 0.9]), at),
        "other": NearestTraining(torch.tensor([0.41, 0.5]), at + 7),
    }
    nearest, _, found = detect_copies_by_any(synthetic, held_out)
    assert found.limit == MAX_LIMIT
    assert found.is_copy.tolist() == [True, False]
    assert nearest.index.tolist() == [7, 7]
    _, _, by_one = detect_copies_by_any({"one": synthetic["one"]}, {"one": held_out["one"]})
    assert by_one.is_copy.tolist() == [False, False]
