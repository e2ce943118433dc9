from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from fedcore.data.dataset import Images
from fedcore.files.writing import write_json
from fedcore.models.base import Encoder
from fedcore.models.encoder_store import save_encoder
from fedcore.models.resnet import ResNet
from fedcore.runs.communication import highest
from fedcore.runs.folder import RunFolder
from fedcore.site.site import Site
from fedssl.card import encoder_card, site_card
from fedssl.methods.simclr import SimCLR


def record(**reveals: str) -> dict[str, Any]:
    return {"round": 0, "sites": {site: {"reveals": level} for site, level in reveals.items()}}


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    sites = {"north": {"train": 123, "val": 0, "test": 45}, "south": {"train": 67, "val": 0, "test": 8}}
    write_json(tmp_path / "run.json", {"sites": sites, "size": [32, 48]})
    records = [record(north="WEIGHTS", south="WEIGHTS"), record(north="WEIGHTS", south="FEATURES")]
    (tmp_path / "rounds.jsonl").write_text("".join(json.dumps(r) + "\n" for r in records))
    return RunFolder(tmp_path)


def test_the_card_describes_encoder_training_data_and_data_sent(run: RunFolder, toy: Callable[..., Encoder]) -> None:
    text = encoder_card(run, SimCLR(toy()))
    for text_part in ("at 2 sites", "Toy(norm=True), 536 parameters", "SimCLR for 2 rounds", "32 x 48 pixels"):
        assert text_part in text
    for fact in (
        "| north | 123 | 45 |",
        "| south | 67 | 8 |",
        "Most sensitive data sent: **FEATURES**",
        "Not a medical device",
    ):
        assert fact in text


def test_the_card_of_an_encoder_of_one_site_names_that_site(
    images: Callable[..., Images], toy: Callable[..., Encoder]
) -> None:
    site = Site("south", images(n=67), images(n=8))
    text = site_card(site, SimCLR(toy()), alone=True)
    assert "at south only" in text
    assert "| south | 67 | 8 |" in text
    assert "8 x 8 pixels" in text
    text = site_card(site, SimCLR(toy()), alone=False)
    assert "with federated learning, the version of south" in text
    assert "| south | 67 | 8 |" in text


def test_the_card_has_the_scores_of_the_common_encoder(run: RunFolder, toy: Callable[..., Encoder]) -> None:
    scores = {"north": {"knn": 0.11, "shared_knn": 0.22}, "south": {"knn": 0.33, "shared_knn": 0.44}}
    (run.path / "rounds.jsonl").write_text(json.dumps(record(north="STATISTICS") | {"evaluation": scores}) + "\n")
    text = encoder_card(run, SimCLR(toy()))
    assert {n for n in ("0.11", "0.22", "0.33", "0.44") if f"| {n} |" in text} == {"0.22", "0.44"}


RECIPE = """
method:
  class_path: fedssl.methods.moco.MoCo
  init_args:
    views: {count: 2, crop: [0.2, 1.0]}
    optimizer: {class_path: torch.optim.SGD, init_args: {lr: 0.06, nesterov: false, foreach: null}}
    bank_size: 1024
data:
  manifest: /home/jane/secret.csv
  scaling: {class_path: fedcore.data.preprocess.scaling.Window, init_args: {low: -1000}}
algorithm: null
exchange: {class_path: fedssl.bank.vectors.ShareVectors, init_args: {encoding: int8, dictionary: /home/jane/words.txt}}
rounds: {count: 2, per_round: null}
seed: 3
"""


@pytest.fixture
def full_card(run: RunFolder, toy: Callable[..., Encoder]) -> str:
    """The card of a run that has all records."""
    environment = {"fedpretrain": "0.1.0", "torch": "2.15.0", "monai": None, "device": "CPU", "platform": "Linux",
                   "git_commit": "abc1234", "started": "2026-11-21T09:21:49+00:00"}  # fmt: skip
    write_json(run.path / "environment.json", environment)
    write_json(run.path / "run.json", run.about() | {"seconds": 81.4})
    records = run.rounds()
    records[0]["evaluation"] = {"north": {"knn": 0.5, "feature_std": 0.9}, "south": {"feature_std": 0.7}}
    records[1]["evaluation"] = {"north": {"knn": 0.75, "feature_std": 0.8}}
    for index, r in enumerate(records):
        for visit in r["sites"].values():
            visit |= {"up": {"weights": 1_000_000 * (index + 1), "metrics": 0}, "down": {"weights": 500}}
    (run.path / "rounds.jsonl").write_text("".join(json.dumps(r) + "\n" for r in records))
    return encoder_card(RunFolder(run.path, RECIPE), SimCLR(toy()))


def test_the_card_has_the_last_scores_of_each_site(full_card: str) -> None:
    assert "| kNN | feature std |\n" in full_card
    assert "| north | 123 | 45 | 0.75 | 0.8 |" in full_card
    assert "| south | 67 | 8 | - | 0.7 |" in full_card
    assert "effective rank |" not in full_card  # not measured


def test_traffic_is_the_mean_of_a_site_and_round(full_card: str) -> None:
    assert "(feature vectors of single images). Per site and round: 1.5 MB up, 500 B down." in full_card


def test_the_recipe_is_a_table_without_paths(full_card: str) -> None:
    for row in (
        "| method | MoCo(optimizer=SGD(lr=0.06), bank_size=1024) |",
        "| views | count=2, crop=[0.2, 1.0] |",
        "| algorithm | FedAvg() |",
        "| exchange | ShareVectors(encoding=int8, dictionary=words.txt) |",
        "| rounds | count=2 |",
        "| intensities to [-1, 1] | Window(low=-1000) |",
        "| seed | 3 |",
    ):
        assert row in full_card.splitlines()
    assert "jane" not in full_card
    assert "secret" not in full_card


def test_phantom_images_are_declared(run: RunFolder, toy: Callable[..., Encoder]) -> None:
    text = encoder_card(RunFolder(run.path, "data: {manifest: phantom}"), SimCLR(toy()))
    assert "| images | simulated hospitals, no patients |" in text
    assert "| exchange | none, weights only |" in text


def test_the_card_has_environment_and_duration(full_card: str) -> None:
    line = "fedpretrain 0.1.0, torch 2.15.0, commit abc1234, CPU (Linux), started 2026-11-21T09:21:49+00:00"
    assert f"{line}, 1 min 21 s of training." in full_card


def test_the_header_is_yaml_without_a_licence(full_card: str) -> None:
    _, head, page = full_card.split("---\n", 2)
    assert yaml.safe_load(head) == {
        "library_name": "fedpretrain",
        "tags": ["medical-imaging", "federated-learning", "self-supervised-learning", "simclr", "toy"],
    }
    assert "## Licence\n\nThese weights have no licence" in page
    assert all(len(line) <= 120 for line in page.splitlines() if not line.startswith("|"))


def test_the_python_code_of_the_card_loads_the_encoder(run: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    module = SimCLR(ResNet(2, 1, 10, 4))
    save_encoder(run.path / "encoder", module.encoder, {}, encoder_card(run, module))
    monkeypatch.chdir(run.path)
    names: dict[str, Any] = {}
    exec((run.path / "encoder" / "README.md").read_text().split("```python\n")[1].split("```")[0], names)
    assert names["encoder"](torch.zeros(2, 1, 32, 32)).shape == (2, 32)


def test_the_highest_level_of_any_site_and_round_is_reported() -> None:
    assert highest([record(a="WEIGHTS"), record(a="STATISTICS", b="WEIGHTS"), record(a="WEIGHTS")]) == "STATISTICS"
    assert highest([record(a="SAMPLES", b="FEATURES")]) == "SAMPLES"
    assert highest([]) == "WEIGHTS"
