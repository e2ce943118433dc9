from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from fedcore.algorithms.local_only import LocalOnly
from fedcore.errors import InputError
from fedcore.messages.reveals import Reveals
from fedcore.messages.round import Round
from fedcore.privacy.policy import Policy
from fedcore.server.rounds import Rounds
from fedcore.training.local_trainer import LocalTrainer
from fedgen.gan.gan import GAN
from fedgen.generator import Conditions
from fedgen.generator_store import load_generator
from fedgen.oneshot.joint_generator import load_run_generator
from fedgen.sampling import sample
from fedgen.synthetic.class_counts import COUNT, CountClasses, SamplingPlan, collect_class_counts, listed
from tests.fedcore.toys import Hospitals
from tests.fedcore.toys import images as toy_images
from tests.fedgen.gans import VISIT, gan, trained

SKEWED = Conditions(("cat", "dog"), ("a", "b", "c"), ((30, 10, 0), (0, 0, 5)))
"""Each collection has one label, as is common."""


def test_classes_are_equal_and_sites_proportional_to_their_images_of_the_class() -> None:
    names = SamplingPlan.of(SKEWED, None, None).conditions_of(800)
    assert Counter(names) == {("cat", "a"): 300, ("cat", "b"): 100, ("dog", "c"): 400}
    assert [label for label, _ in names[:4]] == ["cat", "dog"] * 2
    for first in (80, 160):  # as evenly apart as the weights allow
        assert Counter(names[:first])["cat", "b"] == first / 8


def test_a_larger_set_begins_with_the_same_conditions() -> None:
    conditions = replace(SKEWED, image_counts=((7, 3, 1), (2, 0, 5)))
    plan = SamplingPlan.of(conditions, None, None)
    assert plan.conditions_of(40) == plan.conditions_of(97)[:40]


def test_combinations_without_training_images_are_left_out_and_listed() -> None:
    everything = SamplingPlan.of(SKEWED, None, None)
    assert everything.left_out == (("cat", "c"), ("dog", "a"), ("dog", "b"))
    assert everything.note().endswith("were trained on: cat at c, dog at a, dog at b.")
    plan = SamplingPlan.of(SKEWED, ["cat", "dog"], ["a"])
    assert (plan.classes, plan.sites, plan.left_out) == (("cat",), ("a",), (("dog", "a"),))
    with pytest.raises(
        InputError, match="trained on too few patients, or none, of dog at a, dog at b; choose sites that"
    ):
        SamplingPlan.of(SKEWED, ["dog"], ["a", "b"])
    assert listed([(None, "a"), ("cat", None)]) == "a, cat"


def test_without_counts_of_a_class_sites_are_equally_frequent() -> None:
    rare = Conditions(("cat", "rare"), ("a", "b"), ((30, 0), (0, 0)))
    assert Counter(SamplingPlan.of(rare, None, None).conditions_of(8)) == {
        ("cat", "a"): 4,
        ("rare", "a"): 2,
        ("rare", "b"): 2,
    }
    unknown = SamplingPlan.of(Conditions(("cat",), ("a", "b")), None, None)
    assert (
        SamplingPlan.of(Conditions(("cat", "dog"), ("a", "b")), None, None).note().startswith("Unknown which classes")
    )
    assert unknown.note() == ""
    assert unknown.conditions_of(4) == [("cat", "a"), ("cat", "b")] * 2
    assert SamplingPlan.of(Conditions((), ()), None, None).conditions_of(2) == [(None, None)] * 2


def test_a_site_counts_images_of_classes_with_enough_patients() -> None:
    images = toy_images("a", 12)
    images = replace(images, labels=torch.tensor([0] * 6 + [1] * 4 + [-1] * 2), patients=torch.arange(12).numpy() // 2)
    assert CountClasses(3).counts(images, 1).tolist() == [6, 4, 0, 2]
    assert CountClasses(3).counts(images, 2).tolist() == [6, 4, 0, 0]
    assert CountClasses(3).counts(images, 3).tolist() == [6, 0, 0, 0]


def test_the_generator_has_the_counts_and_the_set_lists_what_it_left_out(tmp_path: Path) -> None:
    """Two simulated hospitals of 6 images each."""
    trained(tmp_path / "run", policy=Policy(min_patients=2), rounds=Rounds(1))
    conditions = load_generator(tmp_path / "run" / "generator").conditions
    assert conditions.image_counts is not None
    answers = [json.loads(line) for line in (tmp_path / "run" / "answers.jsonl").read_text().splitlines()]
    counts = [site for answer in answers if answer["request"] == COUNT for site in answer["sites"].values()]
    assert [site["reveals"] for site in counts] == ["STATISTICS"] * 2
    total = sum(map(sum, conditions.image_counts))
    assert 0 < total <= 12
    manifest = sample(tmp_path / "run", tmp_path / "set", 24)
    note = json.loads((tmp_path / "set/set.json").read_text())["note"]
    unseen = [(label, site) for row, label in zip(conditions.image_counts, conditions.classes, strict=True) if any(row)
              for n, site in zip(row, conditions.sites, strict=True) if not n]  # fmt: skip
    assert all(f"{label} at {site}" in note for label, site in unseen)
    assert note.count(" at ") == len(unseen) > 0
    assert not any(f",{label},{site}," in manifest.read_text() for label, site in unseen)


def test_a_policy_of_weights_alone_forbids_counts() -> None:
    conditions, turn = Conditions(("cat", "dog"), ("a",)), Round(0, 1, 0)
    for policy, found in ((Policy(min_patients=1), True), (Policy(Reveals.WEIGHTS, min_patients=1), False)):
        hospitals = Hospitals({"a": toy_images("a")}, LocalTrainer(gan(), GAN.share, VISIT), policy=policy)
        sites = hospitals.sites(**{COUNT: CountClasses(2)})
        assert (collect_class_counts(sites, conditions, turn) is not None) is found


def test_a_sites_own_generator_has_the_counts_of_that_site(tmp_path: Path) -> None:
    trained(tmp_path / "run", policy=Policy(min_patients=1), algorithm=LocalOnly(), rounds=Rounds(1))
    own = load_generator(tmp_path / "run/sites/hospital_2/generator").conditions
    joint = load_run_generator(tmp_path / "run").conditions
    assert own.image_counts is not None
    assert joint.image_counts is not None
    assert {row[0] for row in own.image_counts} == {0}
    assert [row[1] for row in own.image_counts] == [row[1] for row in joint.image_counts]
    assert sum(map(sum, joint.image_counts)) == 12
