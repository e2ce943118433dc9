"""Every error of an option says what must hold, what was found and what to do."""

from __future__ import annotations

from pathlib import Path

import pytest

from fedcore.config.arguments import parse_arguments
from fedcore.config.options import did_you_mean
from fedcore.config.recipe import read_recipe
from fedcore.config.stages import stage_of
from fedcore.errors import InputError


def error_of(command: str, *words: str) -> str:
    with pytest.raises(InputError) as caught:
        read_recipe(stage_of(command), command, words)
    return str(caught.value)


@pytest.mark.parametrize(
    ("command", "option", "suggested"),
    [
        ("pretrain", "lr", "method.init_args.optimizer.init_args.lr"),
        ("pretrain", "learning_rate", "method.init_args.optimizer.init_args.lr"),
        ("pretrain", "visit.lr", "method.init_args.optimizer.init_args.lr"),
        ("pretrain", "optimizer.lr", "method.init_args.optimizer.init_args.lr"),
        ("finetune", "lr", "classifier.init_args.optimizer.init_args.lr"),
        ("segment", "lr", "segmenter.init_args.optimizer.init_args.lr"),
        ("generate train", "lr", "generator.init_args.optimizer.init_args.lr"),
        ("pretrain", "epochs", "visit.max_epochs"),
        ("pretrain", "batch_size", "visit.batch_size"),
        ("pretrain", "data.path", "data.manifest"),
        ("pretrain", "visti.batch_size", "visit.batch_size"),
        ("pretrain", "augment.init_args.invert", "method.init_args.views.invert"),
        ("finetune", "augment.init_args.invert", "classifier.init_args.augment.invert"),
    ],
)
def test_an_option_of_another_name(command: str, option: str, suggested: str) -> None:
    assert error_of(command, f"--{option}", "3") == f"unknown option {option!r} (did you mean {suggested!r}?)"


def test_options_are_those_of_the_class_that_was_typed() -> None:
    message = error_of("pretrain", "--method", "fedssl.methods.byol.BYOL", "--method.lr", "3")
    assert message == "unknown option 'method.init_args.lr' (did you mean 'method.init_args.optimizer.init_args.lr'?)"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--rounds", "3"], "rounds is a group of options and has no value itself, got 3; "
         "set one of --rounds.count, --rounds.per_round, --rounds.min_sites, --rounds.tries, --rounds.deadline"),
        (["--loggers", "tensorboard"], "loggers must be a list, got tensorboard; write a list as '[tensorboard]'"),
        (["--loggers", "[csv,mlflow]"], "loggers must be one of csv, tensorboard, got mlflow"),
        (["--loggers+", "mlflow"], "unknown option 'loggers+'; set the whole list, --loggers '[a,b]'"),
        (["--data.scaling", "Window"], "data.scaling must be null or a class, got Window; "
         "did you mean fedcore.data.preprocess.scaling.Window?"),
        (["--data.scaling", "fedcore.data.preprocess.scaling.Window"], "data.scaling: "
         "fedcore.data.preprocess.scaling.Window has no default for data.scaling.low and data.scaling.high; give them"),
        (["--data.scaling", "fedcore.data.preprocess.scaling.Window", "--data.scaling.low", "1"], "data.scaling: "
         "fedcore.data.preprocess.scaling.Window has no default for data.scaling.high; give it"),
        (["--data.size", "big"], "data.size must be a whole number or a list, got big"),
        (["--method", "MoKo"], "method must be a class, got MoKo; did you mean fedssl.methods.moco.MoCo?"),
        (["--algorithm", "FedBm"], "algorithm must be null or a class, got FedBm; "
         "did you mean fedcore.algorithms.fedbn.FedBN?"),
        (["--resume", "perhaps"], "resume must be true or false, got perhaps"),
    ],
)  # fmt: skip
def test_a_value_that_does_not_fit(words: list[str], message: str) -> None:
    assert error_of("pretrain", *words) == message


@pytest.mark.parametrize(
    ("command", "recipe", "other"),
    [
        ("pretrain", "latent_diffusion", "generate train"),
        ("pretrain", "classify", "finetune"),
        ("finetune", "moco_shared_bank", "pretrain"),
        ("segment", "pipeline_classify", "run"),
    ],
)
def test_a_recipe_of_another_command(command: str, recipe: str, other: str) -> None:
    message = f"{recipe} is a recipe for {other!r}, not for {command!r}; run: fedpretrain {other} {recipe} ..."
    assert error_of(command, recipe) == message


def test_a_small_command_says_it_as_well() -> None:
    def sample(run: Path, count: int = 8) -> Path:
        return run

    with pytest.raises(InputError, match=r"^sample: unknown option 'cuont' \(did you mean 'count'\?\)\nusage: "):
        parse_arguments(sample, "sample", ["run", "--cuont", "3"])
    with pytest.raises(InputError, match=r"^sample: count must be a whole number, got many\n"):
        parse_arguments(sample, "sample", ["run", "--count", "many"])


def test_what_nothing_is_like_is_not_guessed() -> None:
    assert did_you_mean("zebra", ["visit.batch_size", "seed"]) == ""
    assert did_you_mean("x.lr", [f"part_{n}.lr" for n in range(9)]) == ""
    assert did_you_mean("b.optimizer.lr", ["a.optimizer.lr", "b.optimizer.lr2"]) == " (did you mean 'a.optimizer.lr'?)"
