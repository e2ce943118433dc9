from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from fedcore.cli.main import main


@pytest.mark.parametrize(("stage", "recipe", "narrow"), [
    ("finetune", "classify", "--encoder.init_args.stem"),
    ("segment", "segment", "--network.init_args.encoder.init_args.stem"),
])  # fmt: skip
def test_a_card_has_classes_scores_and_data_sent(
    stage: str, recipe: str, narrow: str, tmp_path: Path
) -> None:  # fmt: skip
    words = ["--data.size", "32", "--data.phantom.sites", "2", "--data.phantom.images_per_site", "16", "--rounds.count",
             "1", "--visit.max_steps", "2", "--policy.min_patients", "1"]  # fmt: skip
    with pytest.raises(SystemExit):
        main([stage, recipe, narrow, "8", *words, "--out", str(tmp_path / "run")])
    (path,) = (tmp_path / "run").glob("*/README.md")
    text = path.read_text()
    head, body = text.removeprefix("---\n").split("\n---\n", 1)
    assert yaml.safe_load(head)["library_name"] == "fedpretrain"
    for heading in (
        "Scores",
        "Data sent by the sites",
        "Recipe",
        "Environment",
        "Licence",
        "Intended use and limits",
    ):
        assert f"\n## {heading}\n" in body
    for fact in (
        "trained at 2 sites",
        "from random initialisation",
        "| hospital_1 |",
        "| all |",
        "32 x 32 pixels",
    ):
        assert fact in body
    for fact in ("Dice", "HD95 (pixels)", "on the grid of 32 x 32 pixels") if stage == "segment" else ("AUROC",):
        assert fact in body
    assert str(tmp_path) not in text
