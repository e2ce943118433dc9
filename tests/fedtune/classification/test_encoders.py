"""Every encoder serves a classifier: a recipe names it, it trains, is evaluated, and its classifiers are found."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from fedcore.cli.main import main
from fedcore.runs.classifiers import classifiers_of
from fedcore.runs.folder import RunFolder

BACKBONES = {
    "ViT": "{class_path: fedcore.models.vit.ViT, init_args: {patch: 8, width: 48, depth: 2}}",
    "DenseNet": "{class_path: fedcore.models.densenet.DenseNet, init_args: {growth: 4, blocks: [2, 2]}}",
}
RECIPE = """
encoder: ENCODER
data: {manifest: phantom, size: 32, phantom: {sites: 2, images_per_site: 24, spatial_dims: DIMS}}
visit: {batch_size: 8, accelerator: cpu}
rounds: {count: 1}
policy: {min_patients: 1}
per_patient: true
"""


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("name", BACKBONES)
def test_an_encoder_trains_and_is_evaluated_again(
    name: str, dims: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe, run = tmp_path / "recipe.yaml", tmp_path / "run"
    recipe.write_text(RECIPE.replace("ENCODER", BACKBONES[name]).replace("DIMS", str(dims)))
    tables = []
    for words in (("finetune", recipe, "--out", run), ("evaluate", run)):
        with pytest.raises(SystemExit) as ended:
            main([str(word) for word in words])
        out, err = capsys.readouterr()
        assert ended.value.code == 0, err
        tables.append(out.split("result:")[0])
    assert tables[0] == tables[1]
    (network,) = classifiers_of(RunFolder(run)).values()
    assert network(torch.zeros(2, 1, *[32] * dims)).shape == (2, 4)
