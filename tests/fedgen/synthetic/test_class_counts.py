from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from fedcore.algorithms.local_only import LocalOnly
from fedcore.errors import InputError
from fedcore.messages.message import Reveals
from fedcore.privacy.policy import Policy
from fedcore.server.rounds import Rounds
from fedcore.site.site import Round
from fedcore.training.local_trainer import LocalTrainer
from fedcore.transport.in_process import InProcess
from fedgen.gan.gan import GAN
from fedgen.generator import Conditions
from fedgen.generator_store import load_generator
from fedgen.oneshot.joint_generator import load_run_generator
from fedgen.sampling import sample
from fedgen.synthetic.class_counts import CountClasses, Wanted, counted, named
from tests.fedcore.toys import images as toy_images
from tests.fedgen.gans import VISIT, gan, trained

SKEWED = Conditions(("cat", "dog"), ("a", "b", "c"), ((30, 10, 0), (0, 0, 5)))
"""One collection a label, as is common."""


def test_classes_are_even_and_a_site_counts_by_its_images_of_the_class() -> None:
    names = Wanted.of(SKEWED, None, None).names(800)
    assert Counter(names) == {("cat", "a"): 300, ("cat", "b"): 100, ("dog", "c"): 400}
    assert [label for label, _ in names[:4]] == ["cat", "dog"] * 2
    for first in (80, 160):  # as evenly apart as the weights allow
        assert Counter(names[:first])["cat", "b"] == first / 8


def test_more_images_begin_with_the_same() -> None:
    known = replace(SKEWED, images=((7, 3, 1), (2, 0, 5)))
    wanted = Wanted.of(known, None, None)
    assert wanted.names(40) == wanted.names(97)[:40]


def test_pairs_that_nobody_trained_are_left_out_and_named() -> None:
    everything = Wanted.of(SKEWED, None, None)
    assert everything.left_out == (("cat", "c"), ("dog", "a"), ("dog", "b"))
    assert everything.note().endswith("from too few patients or none: cat at c, dog at a, dog at b.")
    asked = Wanted.of(SKEWED, ["cat", "dog"], ["a"])
    assert (asked.classes, asked.sites, asked.left_out) == (("cat",), ("a",), (("dog", "a"),))
    with pytest.raises(
        InputError, match="learned dog at a, dog at b from too few patients or none; ask for sites that"
    ):
        Wanted.of(SKEWED, ["dog"], ["a", "b"])
    assert named([(None, "a"), ("cat", None)]) == "a, cat"


def test_a_class_that_no_site_may_tell_of_is_drawn_evenly_and_so_is_all_where_nothing_is_known() -> None:
    rare = Conditions(("cat", "rare"), ("a", "b"), ((30, 0), (0, 0)))
    assert Counter(Wanted.of(rare, None, None).names(8)) == {("cat", "a"): 4, ("rare", "a"): 2, ("rare", "b"): 2}
    unknown = Wanted.of(Conditions(("cat",), ("a", "b")), None, None)
    assert Wanted.of(Conditions(("cat", "dog"), ("a", "b")), None, None).note().startswith("Not known: which classes")
    assert unknown.note() == ""
    assert unknown.names(4) == [("cat", "a"), ("cat", "b")] * 2
    assert Wanted.of(Conditions((), ()), None, None).names(2) == [(None, None)] * 2


def test_a_site_counts_images_of_classes_that_enough_patients_have() -> None:
    images = toy_images("a", 12)
    images = replace(images, labels=torch.tensor([0] * 6 + [1] * 4 + [-1] * 2), patients=torch.arange(12).numpy() // 2)
    assert CountClasses(3).counts(images, 1).tolist() == [6, 4, 0, 2]
    assert CountClasses(3).counts(images, 2).tolist() == [6, 4, 0, 0]
    assert CountClasses(3).counts(images, 3).tolist() == [6, 0, 0, 0]


def test_a_wrong_table_is_refused() -> None:
    with pytest.raises(ValueError, match="images must be counted for 2 classes and 3 sites"):
        replace(SKEWED, images=((1, 2, 3),))


def test_counts_go_with_the_generator_and_the_set_says_what_it_left_out(tmp_path: Path) -> None:
    """Of two phantom hospitals of 6 images each; each site's own generator knows what it alone has seen."""
    trained(tmp_path / "run", policy=Policy(min_patients=2), rounds=Rounds(1))
    known = load_generator(tmp_path / "run" / "generator").known
    assert known.images is not None
    answers = (tmp_path / "run" / "answers.jsonl").read_text()
    assert answers.count("CountClasses") == 2
    assert answers.count("STATISTICS") == 2
    total = sum(map(sum, known.images))
    assert 0 < total <= 12
    manifest = sample(tmp_path / "run", tmp_path / "set", 24)
    note = json.loads((tmp_path / "set/set.json").read_text())["pairs"]
    unseen = [(label, site) for row, label in zip(known.images, known.classes, strict=True) if any(row)
              for n, site in zip(row, known.sites, strict=True) if not n]  # fmt: skip
    assert all(f"{label} at {site}" in note for label, site in unseen)
    assert note.count(" at ") == len(unseen) > 0
    assert not any(f",{label},{site}," in manifest.read_text() for label, site in unseen)


def test_where_only_weights_may_leave_nothing_is_counted() -> None:
    known, turn = Conditions(("cat", "dog"), ("a",)), Round(0, 1, 0)
    for policy, found in ((Policy(min_patients=1), True), (Policy(Reveals.WEIGHTS, min_patients=1), False)):
        sites = InProcess({"a": toy_images("a")}, LocalTrainer(gan(), GAN.share, VISIT), policy=policy)
        assert (counted(sites, known, turn) is not None) is found


def test_a_sites_own_generator_knows_what_that_site_has_seen(tmp_path: Path) -> None:
    trained(tmp_path / "run", policy=Policy(min_patients=1), algorithm=LocalOnly(), rounds=Rounds(1))
    own = load_generator(tmp_path / "run/sites/hospital_2/generator").known
    joint = load_run_generator(tmp_path / "run").known
    assert own.images is not None
    assert joint.images is not None
    assert {row[0] for row in own.images} == {0}
    assert [row[1] for row in own.images] == [row[1] for row in joint.images]
    assert sum(map(sum, joint.images)) == 12
