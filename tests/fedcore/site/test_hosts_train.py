"""Hospitals with a folder each, reached by bytes, train as one process with all images does."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
from torch import Tensor

from fedcore.errors import InputError, InputErrors
from fedcore.messages.request import FAREWELL, TRAIN
from fedcore.site.home import SiteHome
from tests.fedcore.federating import same
from tests.fedcore.site.homes import (
    NAMES,
    ByHosts,
    accept,
    new_home,
    shared,
    train_apart,
    train_together,
    two_manifests,
)


@pytest.fixture(scope="module")
def manifests(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return two_manifests(tmp_path_factory.mktemp("phantoms"), images=24)


def homes(manifests: dict[str, Path], folder: Path, command: str, *words: str, level: str = "STATISTICS") -> Any:
    found = {name: new_home(folder / name, name, manifests[name], level) for name in NAMES}
    for home in found.values():
        accept(home, shared(command, *words))
    return found


def tensors(folder: Path) -> dict[str, Tensor]:
    files = sorted(folder.rglob("*.safetensors"))
    return {f"{p.relative_to(folder)}/{k}": t for p in files for k, t in safetensors.torch.load_file(p).items()}


def rounds(run: Path) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (run / "rounds.jsonl").read_text().splitlines()]
    for line in lines:
        line["seconds"] = 0
        for of in (*line["sites"].values(), *line["evaluation"].values()):
            of.pop("seconds", None)
    return lines


def run_folder(home: SiteHome) -> Path:
    (name,) = home.run_names()
    return home.runs / name


def assert_equal(apart: Path, together: Path, found: dict[str, SiteHome], *results: str) -> None:
    for part in ("state", *results):
        assert tensors(together / part)
        assert same(tensors(apart / part), tensors(together / part)), part
    assert rounds(apart) == rounds(together)
    for name, home in found.items():
        theirs = tensors(together / "sites" / name / "memory")
        assert same(tensors(run_folder(home) / "memory"), theirs)
        assert not (run_folder(home) / "errors.jsonl").exists()
        assert (run_folder(home) / "page.html").exists()
        assert not (home.path / "errors.jsonl").exists()


MOCO = [
    "--method", "fedssl.methods.moco.MoCo", "--method.bank_size", "16", "--method.remote_bank_size", "16",
    "--method.hidden_dim", "8", "--method.projection_dim", "4", "--exchange", "fedssl.bank.statistics.ShareStatistics",
    "--exchange.min_patients", "2", "--exchange.min_patients_per_dim", "2", "--exchange.remote_features", "8",
    "--visit.keep_optimizer", "true",
]  # fmt: skip


@pytest.mark.parametrize(
    "killed", [pytest.param((), marks=pytest.mark.slow, id="resident"), pytest.param((TRAIN, FAREWELL), id="killed")]
)
def test_pretraining_equals_one_process_to_the_bit(
    manifests: dict[str, Path], tmp_path: Path, killed: tuple[str, ...]
) -> None:
    found = homes(manifests, tmp_path / "homes", "pretrain", *MOCO)
    apart = train_apart(tmp_path / "apart", ByHosts(found, killed), "pretrain", *MOCO)
    together = train_together(tmp_path / "together", manifests["all"], "pretrain", *MOCO)
    assert_equal(apart, together, found, "encoder")
    assert any("bank" in name for name in tensors(run_folder(found[NAMES[0]]) / "memory"))


OTHERS = ("FedRep", "Ditto", "FedAvg")


@pytest.fixture(scope="module")
def encoder(manifests: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train_together(tmp_path_factory.mktemp("encoder") / "run", manifests["all"], "pretrain")


PERSONAL = {
    "FedBN": ["--algorithm", "fedcore.algorithms.fedbn.FedBN"],
    "FedRep": [
        "--algorithm", "fedcore.algorithms.fedrep.FedRep", "--algorithm.head_epochs", "1", "--visit.max_epochs", "2",
        "--visit.max_steps", "-1",
    ],
    "Ditto": ["--algorithm", "fedcore.algorithms.ditto.Ditto"],
    "FedAvg": [],
}  # fmt: skip


@pytest.mark.parametrize("algorithm", ["FedBN", *(pytest.param(name, marks=pytest.mark.slow) for name in OTHERS)])
def test_what_stays_at_a_site_starts_from_the_pretrained_weights(
    manifests: dict[str, Path], encoder: Path, tmp_path: Path, algorithm: str
) -> None:
    words = PERSONAL[algorithm]
    found = homes(manifests, tmp_path / "homes", "finetune", *words)
    pretrained = [*words, "--pretrained", str(encoder)]
    apart = train_apart(tmp_path / "apart", ByHosts(found, (TRAIN,)), "finetune", *pretrained)
    together = train_together(tmp_path / "together", manifests["all"], "finetune", *pretrained)
    assert_equal(apart, together, found, "classifier")
    assert json.loads((apart / "scores.json").read_text()) == json.loads((together / "scores.json").read_text())
    scratch = train_together(tmp_path / "scratch", manifests["all"], "finetune", *words)
    assert not same(tensors(scratch / "state"), tensors(together / "state"))


STAGES = {
    "segment": ["--network.encoder.depth", "10", "--network.encoder.stem", "4",
                "--network.decoder_channels", "[4, 4, 4, 4, 4]"],
    "generate train": ["--generator.network.widths", "[8, 16]"],
    "finetune": ["--algorithm", "fedcore.algorithms.scaffold.Scaffold"],
}  # fmt: skip
RESULTS = {"segment": "segmenter", "generate train": "generator", "finetune": "classifier"}


@pytest.mark.parametrize("command", STAGES)
def test_all_stages_equal_one_process_to_the_bit(manifests: dict[str, Path], tmp_path: Path, command: str) -> None:
    words = STAGES[command]
    found = homes(manifests, tmp_path / "homes", command, *words)
    apart = train_apart(tmp_path / "apart", ByHosts(found, (TRAIN,)), command, *words)
    together = train_together(tmp_path / "together", manifests["all"], command, *words)
    for part in ("state", RESULTS[command]):
        assert tensors(together / part)
        assert same(tensors(apart / part), tensors(together / part)), part
    assert rounds(apart) == rounds(together)
    if (together / "scores.json").exists():
        assert json.loads((apart / "scores.json").read_text()) == json.loads((together / "scores.json").read_text())


def test_a_site_that_lost_the_weights_says_so(manifests: dict[str, Path], encoder: Path, tmp_path: Path) -> None:
    found = homes(manifests, tmp_path / "homes", "finetune", "--rounds.min_sites", "2")
    transport = ByHosts(found, (TRAIN,))
    asks = transport.ask

    def losing(requests: Any, deadline: float | None = None) -> Any:
        for request in requests:
            if request.word == TRAIN:
                (run_folder(found[NAMES[0]]) / "start.safetensors").unlink(missing_ok=True)
            yield from asks([request], deadline)

    transport.ask = losing  # type: ignore[method-assign]
    with pytest.raises(InputError, match="hospital_1: it does not have the weights that the run starts from"):
        train_apart(tmp_path / "apart", transport, "finetune", "--pretrained", str(encoder), "--rounds.min_sites", "2")


def test_a_policy_below_what_the_recipe_needs_declines_before_round_1(
    manifests: dict[str, Path], tmp_path: Path
) -> None:
    words = [*MOCO[:10], "--exchange", "fedssl.bank.vectors.ShareVectors", "--exchange.upload_size", "8"]
    found = homes(manifests, tmp_path / "homes", "pretrain", *words)
    with pytest.raises(InputErrors, match="hospital_1: SiteVectors reveals FEATURES, the policy allows STATISTICS"):
        train_apart(tmp_path / "apart", ByHosts(found), "pretrain", *words)
