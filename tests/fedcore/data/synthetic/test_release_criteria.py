from __future__ import annotations

from collections.abc import Mapping

import pytest

from fedcore.data.synthetic.release_criteria import ReleaseCriteria, Verdict

SOUND = {
    "training_images": 300.0,
    "held_out_images": 100.0,
    "copies_by_pixels": 0.0,
    "held_out_copies_by_pixels": 0.0,
    "membership_auc": 0.55,
    "membership_tpr": 0.02,
}
GOOD = SOUND | {
    "precision": 0.8, "held_out_precision": 0.9, "recall": 0.7, "held_out_recall": 0.9, "coverage": 0.6,
    "held_out_coverage": 0.8, "ms_ssim": 0.4, "real_ms_ssim": 0.4, "tstr": 0.6, "trtr": 0.65, "tstr_classes": 4.0,
    "tstr_images": 100.0,
}  # fmt: skip
OWN = {"near_duplicates": 0.0, "blank": 0.0}


def groups(images: int, copies: int = 0, left_out: int = 0, **of: tuple[int, int]) -> Mapping[str, Mapping[str, int]]:
    """`of`: images and copies of classes."""
    whole = {"all": {"images": images, "copies": copies, "left_out": left_out}}
    return whole | {f"class {name}": {"images": n, "copies": c, "left_out": 0} for name, (n, c) in of.items()}


def test_a_good_set_is_safe() -> None:
    assert ReleaseCriteria().safe(groups(1000), {"a": SOUND, "b": SOUND}) == Verdict("yes")


@pytest.mark.parametrize(
    ("changed", "text"),
    [
        ({"membership_auc": 0.7}, "a: membership inference has an AUC of 0.70, above 0.67"),
        ({"membership_tpr": 0.2}, "a: membership inference finds 20% of its training images at 1 % false positives"),
        ({"held_out_copies_by_pixels": 0.3}, "a: 30% of its held-out images are near-duplicates"),
        ({"membership_auc": None}, "a sent no result of membership inference"),
        ({"membership_tpr": None}, "a sent no result of membership inference"),
        (
            {"held_out_images": 12.0, "copies_by_pixels": None},
            "a could not search for copies: it trained on 300 images and held out 12",
        ),
    ],
)
def test_each_limit_alone_makes_a_set_unsafe(changed: dict[str, float | None], text: str) -> None:
    figures = {k: v for k, v in (SOUND | changed).items() if v is not None}
    found = ReleaseCriteria().safe(groups(1000), {"a": figures, "b": SOUND})
    assert found.answer == "no"
    (reason,) = found.reasons
    assert reason.startswith(text)


def test_advice_on_held_out_images_covers_a_column_split() -> None:
    figures = {"training_images": 16.0, "held_out_images": 5.0}
    (text,) = ReleaseCriteria().safe(groups(24), {"fluo": figures}).reasons
    assert "give more of its rows the split val or test, or raise data.test_fraction if" in text


def test_without_sites_a_set_is_not_safe() -> None:
    assert ReleaseCriteria().safe(groups(10), {}).answer == "no"


def test_few_held_out_images_leave_figures_not_measured() -> None:
    few = {
        k: v
        for k, v in (SOUND | {"held_out_images": 20.0, "training_images": 80.0, "membership_auc": 0.72}).items()
        if k != "membership_tpr"
    }
    found = ReleaseCriteria().safe(groups(100), {"a": few})
    assert found.answer == "yes"
    assert found.not_measured == (
        "a: membership inference with an AUC below 0.75 (20 images held out)",
        "a: membership inference at 1 % false positives (20 images held out, 100 are needed)",
    )


def test_few_copies_can_be_dropped_and_many_cannot() -> None:
    (few,), (many,) = (ReleaseCriteria().safe(groups(100, copies), {"a": SOUND}).reasons for copies in (5, 6))
    assert few == "5 of 100 images are copies of patients' images (drop them)"
    assert "more than 5%: the generator has memorised images" in many
    assert (ReleaseCriteria().droppable(groups(100, 5)), ReleaseCriteria().droppable(groups(100, 6))) == (True, False)


@pytest.mark.parametrize(
    ("images", "copies", "allowed"),
    [(8, 1, True), (8, 2, False), (8, 4, False), (39, 2, False), (40, 2, True), (200, 10, True), (200, 11, False)],
)
def test_the_limit_of_copies_holds_for_each_group(images: int, copies: int, allowed: bool) -> None:
    found = groups(1000, copies, ring=(images, copies), other=(1000 - images, 0))
    assert ReleaseCriteria().droppable(found) is allowed
    assert any(f"{copies} of {images} images of class ring are copies" in t for t in _reasons(found)) is not allowed


def test_images_left_out_before_count_as_copies() -> None:
    """Else a set would be safe after its copies were dropped a few at a time."""
    assert ReleaseCriteria().safe(groups(95, 0, left_out=5), {"a": SOUND}).answer == "yes"
    assert ReleaseCriteria().safe(groups(94, 0, left_out=6), {"a": SOUND}).answer == "no"


def _reasons(found: Mapping[str, Mapping[str, int]]) -> tuple[str, ...]:
    return ReleaseCriteria().safe(found, {"a": SOUND}).reasons


def test_a_good_set_is_useful() -> None:
    found = ReleaseCriteria().useful({"a": GOOD, "b": GOOD}, OWN)
    assert found == Verdict("yes", ("a classifier trained on its images reaches 0.60, one on real images 0.65",))


def test_without_an_encoder_fitness_is_not_measured() -> None:
    found = ReleaseCriteria().useful({"a": SOUND}, OWN)
    assert (found.answer, found.reasons[0].startswith("no features were compared")) == ("not measured", True)


def test_without_classes_coverage_decides() -> None:
    without = {k: v for k, v in GOOD.items() if not k.startswith("t")} | {"training_images": 300.0}
    found = ReleaseCriteria().useful({"a": without}, OWN)
    assert (found.answer, found.not_measured) == ("yes", ("classes could not be compared",))
    assert ReleaseCriteria().useful({"a": GOOD | {"recall": 0.4}}, OWN).answer == "yes"
    assert ReleaseCriteria().useful({"a": without | {"recall": 0.4}}, OWN).answer == "no"


@pytest.mark.parametrize(
    ("site", "of_set", "missing", "text"),
    [
        (
            {"tstr": 0.4},
            {},
            (),
            "balanced accuracy of 0.40 on held-out images, one trained on as many real images 0.65",
        ),
        ({"precision": 0.08}, {}, (), "precision is 0.08, that of as many held-out images 0.90"),
        ({"recall": 0.08}, {}, (), "recall is 0.08"),
        ({"coverage": 0.07}, {}, (), "coverage is 0.07"),
        ({"ms_ssim": 0.75}, {}, (), "too similar: MS-SSIM of pairs of a class is 0.75, of real pairs 0.40"),
        ({}, {"near_duplicates": 0.2}, (), "20% of its images are nearly equal to another one"),
        ({}, {"blank": 1.0}, (), "100% of its images are blank"),
        ({}, {}, ("ring",), "no image is of class ring"),
    ],
)
def test_each_reason_alone_makes_a_set_not_useful(
    site: dict[str, float], of_set: dict[str, float], missing: tuple[str, ...], text: str
) -> None:
    found = ReleaseCriteria().useful({"a": GOOD | site}, OWN | of_set, missing)
    assert found.answer == "no"
    (reason,) = found.reasons
    assert text in reason


def test_collapse_is_found_without_an_encoder() -> None:
    assert ReleaseCriteria().useful({"a": SOUND}, {"near_duplicates": 1.0, "blank": 1.0}).answer == "no"
    assert ReleaseCriteria().useful({"a": SOUND | {"ms_ssim": 0.9, "real_ms_ssim": 0.4}}, OWN).answer == "no"


def test_a_classifier_that_learns_nothing_from_real_images_is_ignored() -> None:
    """Four classes, 100 images: guessing is 0.25 with a standard error of 0.043."""
    found = ReleaseCriteria().useful({"a": GOOD | {"tstr": 0.25, "trtr": 0.37}}, OWN)
    assert (found.answer, found.not_measured) == ("yes", ("classes could not be compared",))
    assert ReleaseCriteria().useful({"a": GOOD | {"tstr": 0.15, "trtr": 0.39}}, OWN).answer == "no"


def test_two_standard_errors_are_allowed() -> None:
    """Of 0.4 that can be gained over 0.25, 0.268 are wanted; the error is 0.043 for 100 images."""
    for tstr, answer in ((0.44, "yes"), (0.42, "no")):
        assert ReleaseCriteria().useful({"a": GOOD | {"tstr": tstr}}, OWN).answer == answer
        assert ReleaseCriteria().useful({"a": GOOD | {"tstr": tstr, "tstr_images": 1e6}}, OWN).answer == "no"


def test_sites_are_weighted_by_held_out_images() -> None:
    large = GOOD | {"tstr": 0.3, "tstr_images": 900.0, "held_out_images": 900.0}
    assert ReleaseCriteria().useful({"a": GOOD, "b": large}, OWN).answer == "no"
    assert ReleaseCriteria().useful({"a": GOOD, "b": large | {"tstr_images": 20.0}}, OWN).answer == "yes"
