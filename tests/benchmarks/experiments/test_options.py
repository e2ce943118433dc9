"""Every experiment of docs/results.md uses options that exist, so that the measurements can be repeated."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.experiments import fedvss, finetuning, pretraining, synthesis
from fedcore.config.recipe import read_recipe
from fedcore.config.stages import stage_of
from fedcore.models.encoder_store import save_encoder
from fedcore.models.resnet import ResNet


def commands() -> Iterator[tuple[str, str, list[str]]]:
    """Stage, recipe and options of each kind of training; recipes alone are tested in tests/test_recipes.py."""
    tasks, variants = finetuning.TASKS, finetuning.VARIANTS
    for task in tasks.values():
        yield "pretrain", "simclr", [*task.pretrain]
        yield task.command, task.recipe, [*task.finetune, *task.partition, *task.with_start]
    for variant in variants.values():
        yield "finetune", "classify", [*variant.overrides]
    for generator in {**synthesis.GENERATORS, **synthesis.SMALL_MESSAGES}.values():
        yield "generate train", generator.recipe, [*generator.overrides]
    for encoder in (*pretraining.MAIN.values(), pretraining.SKEW["vectors_dirichlet_1"], pretraining.STRUCTURAL["fcl"]):
        yield "pretrain", encoder.recipe, [*pretraining.PRETRAIN, *encoder.overrides]
    yield "finetune", "classify", [*pretraining.FINETUNE, *pretraining.DATASETS["cxr"].task]


@pytest.mark.slow
def test_options_of_every_training_exist() -> None:
    distinct = {(stage, recipe, *options): None for stage, recipe, options in commands()}
    assert len(distinct) > 25
    for stage, *words in distinct:
        assert read_recipe(stage_of(stage), stage, words).text


def test_the_setting_of_fedvss_replaces_the_callback_of_the_recipe(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[str] = []

    def finished(stage: str, recipe: str, _: Path, *options: str) -> Path:
        read.append(read_recipe(stage_of(stage), stage, [recipe, *options]).text)
        (tmp_path / "scores.json").write_text('{"pooled": {"balanced_accuracy": {"value": 0}, "auroc": {"value": 0}}}')
        return tmp_path

    monkeypatch.setattr(fedvss, "finished_run", finished)
    monkeypatch.setattr(fedvss, "_validation", lambda _: Path("manifest.csv"))
    setting = next(fedvss.experiments())
    fedvss.measure(setting, tmp_path)
    assert read[0].count("fedgen.federated.fedvss.FedVSS") == 1
    lambda_l = fedvss.SETTINGS[setting.variant][0]
    assert f"lambda_l: {lambda_l}" in read[0]


def test_fine_tuning_uses_the_encoder_settings_of_pretraining(tmp_path: Path) -> None:
    save_encoder(tmp_path, ResNet(2, 1, depth=10, stem=8), {"size": [32, 32]}, "")
    options = ["classify", *pretraining.encoder_options(tmp_path), *pretraining.learning_rate("random", True)]
    assert "stem: 8" in read_recipe(stage_of("finetune"), "finetune", options).text
