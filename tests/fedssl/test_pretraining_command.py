from __future__ import annotations

import json
from pathlib import Path

import pytest

from fedcore.cli.main import main

RECIPE = """
encoder: {class_path: fedcore.models.resnet.ResNet, init_args: {depth: 10, stem: 8}}
method:
  class_path: fedssl.methods.moco.MoCo
  init_args: {bank_size: 32, remote_bank_size: 32, hidden_dim: 16, projection_dim: 8}
data: {manifest: phantom, size: 32, phantom: {sites: 2, images_per_site: 24}}
exchange: {class_path: fedssl.bank.vectors.ShareVectors, init_args: {upload_size: 8, remote_features: 8}}
visit: {batch_size: 8, accelerator: cpu}
rounds: {count: 1}
"""


def test_the_exit_code_is_2_if_the_policy_forbids_and_0_if_it_allows(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(RECIPE)
    with pytest.raises(SystemExit) as stopped:
        main(["pretrain", str(recipe), "--out", str(tmp_path / "refused")])
    assert stopped.value.code == 2
    assert "SiteVectors reveals FEATURES, the policy allows STATISTICS" in capsys.readouterr().err
    with pytest.raises(SystemExit) as stopped:
        main(["pretrain", str(recipe), "--out", str(tmp_path / "run"), "--policy.max_level", "FEATURES"])
    assert stopped.value.code == 0
    entries = [json.loads(line) for line in (tmp_path / "run/sites/hospital_1/audit.jsonl").read_text().splitlines()]
    assert {(e["field"], e["reveals"]) for e in entries if e["what"] == "exchange"} == {
        ("exchange/features", "FEATURES"), ("exchange/scale", "FEATURES"), ("exchange/round_index", "STATISTICS"),
        ("exchange/position_bin", "STATISTICS"),
    }  # fmt: skip
