"""Multi-label classifiers: counts, scores, and runs from manifest to page."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torchmetrics.functional.classification import multilabel_auroc, multilabel_f1_score

from fedcore.cli.main import main
from fedcore.data.dataset import Images
from fedcore.data.labels import labelled_subset
from fedcore.data.phantom.phantoms import Phantoms
from fedcore.data.source import Data
from fedcore.errors import InputError
from fedcore.messages.message import flatten
from fedcore.models.resnet import ResNet
from fedcore.privacy.policy import Policy
from fedcore.runs.folder import RunFolder
from fedcore.server.rounds import Rounds
from fedcore.training.visit import Visit
from fedtune.classification.classifier import Classifier
from fedtune.classification.finetuning import finetune
from fedtune.classification.losses import BinaryCrossEntropy
from fedtune.evaluation.counts import Counts, multilabel_cell_indices, withheld_classes
from fedtune.evaluation.scores import compute_scores, finding_auroc
from tests.fedcore.federating import same

MULTILABEL = partial(Classifier, loss=BinaryCrossEntropy(class_balance=0.5))


def predictions(n: int = 150, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Logits that correlate with the truth, of a common, a medium and a rare finding."""
    draw = torch.Generator().manual_seed(seed)
    findings = (torch.rand(n, 3, generator=draw) < torch.tensor([0.6, 0.3, 0.1])).byte()
    return torch.randn(n, 3, generator=draw) + 1.5 * findings - 0.5, findings


def counted(logits: Tensor, findings: Tensor) -> Counts:
    return multilabel_cell_indices(logits, findings).count()


def values(counts: Counts) -> dict[str, float]:
    return {name: float(value) for name, value in compute_scores(counts).items()}


def auroc_by_loops(scores: list[float], truth: list[int]) -> float:
    of, rest = ([s for s, t in zip(scores, truth, strict=True) if t == own] for own in (1, 0))
    return sum((p > q) + (p == q) / 2 for p, q in product(of, rest)) / (len(of) * len(rest))


def test_multilabel_scores_equal_loops_and_torchmetrics() -> None:
    logits, findings = predictions()
    scores, columns = values(counted(logits, findings)), list(zip(logits.T.tolist(), findings.T.tolist(), strict=True))
    auroc = [auroc_by_loops(s, t) for s, t in columns]
    assert [scores[finding_auroc(k)] for k in range(3)] == pytest.approx(auroc, abs=3e-3)
    assert scores["auroc"] == pytest.approx(sum(auroc) / 3, abs=3e-3)
    assert sum(auroc) / 3 == pytest.approx(multilabel_auroc(logits, findings.long(), 3).item(), abs=1e-6)
    assert scores["f1"] == pytest.approx(multilabel_f1_score(logits, findings.long(), 3).item(), abs=1e-6)
    balanced = 0.0
    for s, t in columns:
        for own in (0, 1):
            hits = [(score >= 0) == own for score, truth in zip(s, t, strict=True) if truth == own]
            balanced += sum(hits) / len(hits) / 6
    assert scores["balanced_accuracy"] == pytest.approx(balanced)


def test_by_hand() -> None:
    """One finding: predicted in both images that have it (once at probability 0.5) and in one of two that have not."""
    found = counted(torch.tensor([[2.0], [0.0], [1.0], [-1.0]]), torch.tensor([[1], [1], [0], [0]]))
    assert found.confusion[0].tolist() == [[1, 1], [0, 2]]
    scores = values(found)
    assert scores["auroc"] == 3 / 4
    assert scores["balanced_accuracy"] == 3 / 4
    assert scores["f1"] == pytest.approx(4 / 5)


def test_counts_of_sites_add_up() -> None:
    logits, findings = predictions()
    parts = [counted(logits[at : at + 50], findings[at : at + 50]) for at in (0, 50, 100)]
    total, whole = parts[0] + parts[1] + parts[2], counted(logits, findings)
    assert same(flatten(total), flatten(whole))


def test_a_finding_of_too_few_patients_is_not_counted(images: Callable[..., Images]) -> None:
    """Of 40 patients 9 have the first, 31 lack the second, all but 9 have the third, none has the fourth."""
    findings = torch.zeros(40, 4, dtype=torch.uint8)
    findings[:9, 0] = findings[:9, 1] = findings[9:, 2] = 1
    findings[9:30, 1] = 1
    withheld = withheld_classes(findings, torch.arange(40), 4, 10)
    assert withheld.tolist() == [True, False, True, False]
    logits = torch.randn(40, 4)
    found, whole = multilabel_cell_indices(logits, findings, withheld).count(), counted(logits, findings)
    for part in ("confusion", "histogram"):
        assert not getattr(found, part)[withheld].any()
        assert torch.equal(getattr(found, part)[~withheld], getattr(whole, part)[~withheld])
    assert found.reliability.sum() == 80


def test_an_absent_finding_is_left_out_of_the_means() -> None:
    logits, findings = predictions()
    findings[:, 2] = 0
    both = counted(logits, findings), counted(logits[:, :2], findings[:, :2])
    for name in ("auroc", "balanced_accuracy"):
        assert values(both[0])[name] == pytest.approx(values(both[1])[name])
    assert np.isnan(values(both[0])[finding_auroc(2)])


def test_a_fraction_of_labels_is_stratified_by_the_rarest_finding(images: Callable[..., Images]) -> None:
    """Of 40 patients all have the first finding, 10 the second too, and one the third: each is a class of its own,
    however many sets there are."""
    rows = torch.tensor([[1, at < 10, at == 0] for at in range(40)], dtype=torch.uint8)
    site = replace(images(list(range(40))), findings=rows)
    chosen = labelled_subset(site, 0.1, seed=0).findings
    assert chosen is not None
    assert chosen.tolist().count([1, 0, 0]) == 3
    assert chosen.tolist().count([1, 1, 0]) == 1
    assert chosen.tolist().count([1, 1, 1]) == 1


def hospitals(folder: Path) -> Data:
    """Simulated hospitals; every second patient with a round finding has a nodule as well, and the clear have none."""
    manifest = Phantoms(sites=2, images_per_site=48).write(folder, 32)
    with manifest.open(newline="") as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        odd = int(row["patient"][-1]) % 2 == 1
        row["label"] = {"clear": "No Finding", "round": "round|nodule" if odd else "round"}.get(
            row["label"], row["label"]
        )
    with manifest.open("w", newline="") as file:
        table = csv.DictWriter(file, rows[0])
        table.writeheader()
        table.writerows(rows)
    return Data(str(manifest), 32, cache=folder / "cache")


def ran(folder: Path, data: Data, **more: Any) -> dict[str, Any]:
    settings = {
        "encoder": partial(ResNet, depth=10, stem=8),
        "rounds": Rounds(2),
        "loggers": (),
        "policy": Policy(min_patients=1),
    }
    visit = Visit(batch_size=8, accelerator="cpu")
    finetune(RunFolder(folder), data=data, visit=visit, **(settings | {"classifier": MULTILABEL} | more))
    found: dict[str, Any] = json.loads((folder / "scores.json").read_text())
    return found


def test_from_manifest_to_scores_and_evaluated_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = hospitals(tmp_path / "data")
    found, about = ran(tmp_path / "run", data), RunFolder(tmp_path / "run").about()
    assert about["classes"] == ["nodule", "ring", "round", "spiculated"]
    assert about["multilabel"] is True
    for row in (*found["sites"].values(), found["pooled"]):
        assert list(row["findings"]) == about["classes"]
        assert 0 <= row["auroc"]["value"] <= 1
        assert sum(b["count"] for b in row["calibration"]) == 4 * row["images"]
    aurocs = [row["auroc"]["value"] for row in found["pooled"]["findings"].values()]
    assert found["pooled"]["auroc"]["value"] == pytest.approx(np.mean([v for v in aurocs if v is not None]), abs=1e-5)
    assert "nodule" in capsys.readouterr().out


def test_several_findings_per_image_need_a_multilabel_classifier(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"have several findings per image, as in 'A\|B'.*recipe classify_multilabel"):
        ran(tmp_path / "run", hospitals(tmp_path / "data"), classifier=Classifier)
    assert not (tmp_path / "run").exists()


def test_classes_are_learned_one_against_the_rest(tmp_path: Path) -> None:
    found = ran(tmp_path / "run", Data(size=32, phantom=Phantoms(sites=2, images_per_site=48)))
    assert list(found["pooled"]["findings"]) == ["clear", "ring", "round", "spiculated"]


def test_a_single_finding_is_learned_against_no_finding(tmp_path: Path) -> None:
    data = hospitals(tmp_path / "data")
    manifest = Path(data.manifest)
    text = manifest.read_text()
    for label in ("round|nodule", "ring", "round", "spiculated"):
        text = text.replace(label, "mass")
    manifest.write_text(text)
    found = ran(tmp_path / "run", data)["pooled"]
    assert list(found["findings"]) == ["mass"]
    assert found["auroc"] == found["findings"]["mass"]["auroc"]
    ran(tmp_path / "classes", data, classifier=partial(Classifier, augment=None))
    assert RunFolder(tmp_path / "classes").about()["classes"] == ["No Finding", "mass"]
    manifest.write_text(text.replace("mass", "No Finding"))
    with pytest.raises(
        InputError, match=r"a multi-label classifier needs at least 1 finding, the images have \['No Finding'\];"
    ):
        ran(tmp_path / "nothing", data)


def test_other_images_are_evaluated_with_the_findings_of_the_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = hospitals(tmp_path / "data")
    run = tmp_path / "run"
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        "encoder: {class_path: fedcore.models.resnet.ResNet, init_args: {depth: 10, stem: 8}}\n"
        "classifier: {class_path: fedtune.classification.classifier.Classifier, init_args: {loss: "
        "{class_path: fedtune.classification.losses.BinaryCrossEntropy, init_args: {class_balance: 0.5}}}}\n"
        f"data: {{manifest: '{data.manifest}', size: 32}}\n"
        "policy: {min_patients: 1}\nvisit: {batch_size: 8, accelerator: cpu}\nrounds: {count: 1}\n"
    )

    def run_command(*words: object) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as ended:
            main([str(word) for word in words])
        out, err = capsys.readouterr()
        return int(ended.value.code or 0), out, err

    code, out, err = run_command("finetune", recipe, "--out", run)
    assert code == 0, err
    assert run_command("evaluate", run)[1] == out.split("result:")[0]
    manifest = Path(data.manifest)
    text = manifest.read_text()
    manifest.write_text(text.replace("round|nodule", "round"))  # no image of several, and a finding that none has
    code, out, err = run_command("evaluate", run)
    assert code == 0, err
    assert next(line.split() for line in out.splitlines() if line.startswith("nodule")) == ["nodule", "0", "-"]
    manifest.write_text(text.replace("ring", "edema"))
    code, _, err = run_command("evaluate", run)
    assert code == 2
    assert "'edema' is none of nodule, ring, round, spiculated" in err
