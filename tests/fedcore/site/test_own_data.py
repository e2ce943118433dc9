"""A hospital that runs by itself, on a manifest of its own on disk."""

from __future__ import annotations

import csv
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from fedcore.algorithms.fedavg import FedAvg
from fedcore.data.phantom.anatomy import FINDINGS
from fedcore.data.phantom.phantoms import Phantoms
from fedcore.data.source import Data
from fedcore.errors import Refused
from fedcore.messages.agreement import Agreement
from fedcore.messages.answer import Contribution, Refusal
from fedcore.messages.message import Empty, Weights, exposure
from fedcore.messages.request import BUILD, EVALUATE, FACTS, FAREWELL, TRAIN, Request
from fedcore.messages.reveals import Reveals
from fedcore.messages.round import Round
from fedcore.models.resnet import ResNet
from fedcore.privacy.policy import Policy
from fedcore.site.memory import MemoryOnDisk
from fedcore.site.own_data import OwnData
from fedcore.site.runtime import SiteRuntime
from fedcore.training.checksum import checksum_of
from fedcore.training.visit import Visit
from fedssl.bank.vectors import ShareVectors
from fedssl.evaluation.probe import Probe
from fedssl.methods.moco import MoCo
from fedssl.methods.simclr import SimCLR
from fedssl.pretraining import PROBE, Pretraining, task_of
from fedtune.classification.classifier import Classifier
from fedtune.classification.finetuning import FineTuning

VISIT = Visit(batch_size=8, max_steps=1, accelerator="cpu")
SMALL: Any = partial(ResNet, depth=10, stem=4)
PRETRAINING = Pretraining(FedAvg(), VISIT, SMALL, SimCLR, Probe(), 0)
FINETUNING = FineTuning(FedAvg(), VISIT, SMALL, Classifier, None, 1.0, False, False, 0)
NAMES = ("hospital_1", "hospital_2")


@pytest.fixture(scope="module")
def manifests(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Of each of two hospitals, its own rows alone."""
    return split(Phantoms(sites=2, images_per_site=16).write(tmp_path_factory.mktemp("phantoms"), 16))


def split(manifest: Path) -> dict[str, Path]:
    rows = list(csv.DictReader(manifest.read_text().splitlines()))
    found = {}
    for name in {row["site"]: None for row in rows}:
        found[name] = manifest.with_name(f"{name}.csv")
        with found[name].open("w", newline="") as file:
            table = csv.DictWriter(file, list(rows[0]))
            table.writeheader()
            table.writerows(row for row in rows if row["site"] == name)
    return found


def own(manifests: dict[str, Path], name: str = NAMES[0], task: Any = PRETRAINING, **data: Any) -> OwnData:
    policy = data.pop("policy", Policy(min_patients=1))
    return OwnData(name, task, Data(str(manifests[name]), **{"size": 16, **data}), policy)


AGREED = Agreement(FINDINGS, 1, (16, 16), NAMES)


def test_facts_are_counts_and_shapes_of_the_own_images(manifests: dict[str, Path]) -> None:
    facts = own(manifests).facts()
    assert (facts.train, facts.val, facts.test) == (12, 0, 4)
    assert (facts.channels, facts.size, facts.mask_classes) == (1, (16, 16), 0)
    assert {*facts.classes} <= {*FINDINGS}
    assert [version.partition(" ")[0] for version in facts.versions] == ["fedpretrain", "torch"]
    assert facts.data != own(manifests, NAMES[1]).facts().data
    assert facts == own(manifests).facts()


def test_facts_are_of_what_the_task_uses(manifests: dict[str, Path]) -> None:
    fewer = replace(FINETUNING, label_fraction=0.2)
    assert 0 < own(manifests, task=fewer).facts().train < own(manifests, task=FINETUNING).facts().train


@pytest.mark.parametrize(("counts", "numbers"), [("rounded", (10, 0, 4)), ("withheld", (1, 0, 1))])
def test_facts_count_as_the_policy_says(manifests: dict[str, Path], counts: Any, numbers: tuple[int, ...]) -> None:
    facts = own(manifests, policy=Policy(counts=counts)).facts()
    assert (facts.train, facts.val, facts.test) == numbers


def test_a_manifest_without_images_of_the_site_has_no_facts(manifests: dict[str, Path]) -> None:
    stranger = replace(own(manifests), name=NAMES[1])
    with pytest.raises(Exception, match="hospital_2"):
        stranger.facts()


def test_sites_of_one_agreement_build_one_module(manifests: dict[str, Path]) -> None:
    first, second = (own(manifests, name).settle(AGREED) for name in NAMES)
    assert first.checksum == second.checksum == checksum_of(PRETRAINING.module(AGREED))
    assert (len(first.train), len(first.test or ())) == (12, 4)
    assert first.words.keys() == {TRAIN, EVALUATE, PROBE, FAREWELL}
    assert (first.train.site, second.train.site) == NAMES


def test_a_place_is_built_once_for_an_agreement(manifests: dict[str, Path]) -> None:
    data = own(manifests)
    place = data.settle(AGREED)
    assert data.settle(replace(AGREED)) is place
    assert data.settle(replace(AGREED, sites=("x", *NAMES))) is not place


def test_nothing_is_built_before_the_agreement(manifests: dict[str, Path]) -> None:
    with pytest.raises(Refused, match="there is no agreement yet"):
        own(manifests).settle(None)


def test_labels_are_numbers_of_the_agreed_classes(manifests: dict[str, Path]) -> None:
    more = ("aaa", *FINDINGS, "zzz")
    few, many = own(manifests).settle(AGREED), own(manifests).settle(replace(AGREED, classes=more))
    assert [FINDINGS[label] for label in few.train.labels] == [more[label] for label in many.train.labels]


def test_a_class_that_was_not_agreed_on_is_declined_without_its_name(manifests: dict[str, Path]) -> None:
    with pytest.raises(Refused, match="of its classes are not among the agreed ones") as caught:
        own(manifests).settle(replace(AGREED, classes=("other",)))
    assert not any(name in str(caught.value) for name in FINDINGS)


def test_another_size_than_the_agreed_one_is_declined(manifests: dict[str, Path]) -> None:
    with pytest.raises(Refused, match=r"its images have \(16, 16\) pixels, the agreed size is \(32, 32\)"):
        own(manifests).settle(replace(AGREED, size=(32, 32)))


def test_more_channels_than_a_site_has_are_made(manifests: dict[str, Path]) -> None:
    place = own(manifests).settle(replace(AGREED, channels=3))
    assert place.train.channels == 3


@pytest.mark.parametrize("channels", [0, 2, 10**9])
def test_channels_that_no_image_has_are_declined(manifests: dict[str, Path], channels: int) -> None:
    answer = runtime(manifests).answer(request(BUILD, agreement=replace(AGREED, channels=channels)))
    assert isinstance(answer, Refusal)


def test_a_policy_that_forbids_what_the_recipe_sends_declines_before_anything_trains(
    manifests: dict[str, Path],
) -> None:
    recipe = {
        "algorithm": None,
        "exchange": ShareVectors(upload_size=4, remote_features=4),
        "visit": VISIT,
        "encoder": SMALL,
    }
    task = task_of(recipe | {"method": partial(MoCo, bank_size=8, remote_bank_size=8), "probe": None, "seed": 0})
    site = runtime(manifests, task=task)
    answer = site.answer(request(TRAIN, Weights({})))
    assert isinstance(answer, Refusal)
    assert answer.reason.startswith("SiteVectors reveals FEATURES, the policy allows STATISTICS")
    allowed = own(manifests, task=task, policy=Policy(Reveals.FEATURES))
    assert TRAIN in allowed.settle(AGREED).words


def runtime(manifests: dict[str, Path], folder: Path | None = None, **more: Any) -> SiteRuntime:
    data = own(manifests, **more)
    memory = {"memory": MemoryOnDisk(folder / "memory", durable=True)} if folder else {}
    return SiteRuntime(data.name, data.facts, data.settle, data.policy, folder=folder, **memory)


def request(word: str, message: Any = None, agreement: Agreement | None = AGREED) -> Request:
    return Request(NAMES[0], word, message or Empty(), Round(0, 1, 0), None, agreement, "a run")


@pytest.mark.parametrize("task", [PRETRAINING, FINETUNING], ids=["pretraining", "fine-tuning"])
def test_a_site_answers_every_word_of_its_recipe(manifests: dict[str, Path], task: Any, tmp_path: Path) -> None:
    site = runtime(manifests, tmp_path, task=task)
    assert isinstance(site.answer(request(FACTS, agreement=None)), Contribution)
    module = task.module(AGREED)
    weights = Weights({name: t for name, t in module.state_dict().items() if name.startswith(module.share)})
    answers = {word: site.answer(request(word, weights)) for word in site.settle(AGREED).words}
    assert {word for word, answer in answers.items() if isinstance(answer, Refusal)} == set(), answers
    trained = answers[TRAIN]
    assert isinstance(trained, Contribution)
    assert trained.examples == 12
    assert exposure(trained.message) == Reveals.WEIGHTS
    assert (tmp_path / "audit.jsonl").exists()
    assert not (tmp_path / "errors.jsonl").exists()
