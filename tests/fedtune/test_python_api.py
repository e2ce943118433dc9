from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from fedcore.cli.python_api import Run
from fedcore.errors import InputError
from fedcore.models.encoder_store import save_encoder
from fedcore.models.resnet import ResNet
from fedtune import FinetuningRun, finetune, segment

SMALL: dict[str, Any] = {
    "data": {"size": 16, "phantom": {"sites": 2, "images_per_site": 80, "test_fraction": 0.25}},
    "visit": {"batch_size": 20, "accelerator": "cpu"},
    "policy.min_patients": 1,
    "rounds.count": 1,
}
ENCODER = {"init_args": {"depth": 10, "stem": 4}}


def test_a_classifier_from_an_encoder(tmp_path: Path) -> None:
    encoder = ResNet(2, 1, depth=10, stem=4)
    save_encoder(tmp_path / "pretrained" / "encoder", encoder, {}, "")
    run = finetune("classify", tmp_path / "run", pretrained=Run(tmp_path / "pretrained"), **SMALL,
                   label_fraction=1.0, encoder=ENCODER,
                   **{"classifier.init_args.freeze_encoder": True})  # fmt: skip
    model = run.model()
    assert not model.training
    assert torch.equal(next(model.get_submodule("encoder").parameters()), next(encoder.parameters()))
    classes = json.loads((tmp_path / "run" / "run.json").read_text())["classes"]
    assert model(torch.zeros(3, 1, 16, 16)).shape == (3, len(classes))
    assert set(run.scores) >= {"sites", "pooled"}
    assert run.report().exists()


def test_a_segmenter(tmp_path: Path) -> None:
    run = segment(out=tmp_path / "run", network={"init_args": {"encoder": ENCODER}}, **SMALL)
    assert run.model()(torch.zeros(1, 1, 16, 16)).shape == (1, 3, 16, 16)
    assert "pooled" in run.scores
    with pytest.raises(InputError, match="all sites share one model"):
        run.model("hospital_1")


def test_each_site_has_its_own_model(tmp_path: Path) -> None:
    run = finetune(out=tmp_path / "run", algorithm="fedcore.algorithms.fedbn.FedBN", encoder=ENCODER, **SMALL)
    states = [FinetuningRun(run.path).model(site).state_dict() for site in ("hospital_1", "hospital_2")]
    assert any(not torch.equal(tensor, states[1][name]) for name, tensor in states[0].items())
    with pytest.raises(InputError, match="each site has its own model"):
        run.model()


def test_classes_of_a_package_of_ones_own_need_trust_again_when_the_run_is_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = "from fedtune.classification.classifier import Classifier\n\n\nclass Mine(Classifier):\n    pass\n"
    (tmp_path / "own_classes.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    run = finetune(out=tmp_path / "run", classifier="own_classes.Mine", encoder=ENCODER, **SMALL)
    assert run.trust == ("own_classes",)
    assert run.model()(torch.zeros(1, 1, 16, 16)).isfinite().all()
    with pytest.raises(InputError, match="add --trust own_classes"):
        FinetuningRun(run.path).model()
    assert FinetuningRun(run.path, trust=("own_classes",)).model() is not None
