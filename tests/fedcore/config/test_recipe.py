from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from fedcore.algorithms.fedavg import FedAvg
from fedcore.algorithms.fedprox import ProximalTerm
from fedcore.config.recipe import Recipe, read_recipe
from fedcore.errors import InputError, InputErrors
from fedssl.pretraining import pretrain
from fedtune.segmentation.training import segment

FEDPROX = """
algorithm: fedcore.algorithms.fedavg.FedAvg
visit: {callbacks: [{class_path: fedcore.algorithms.fedprox.ProximalTerm, init_args: {mu: 0.5}}]}
rounds: {count: 7}
"""


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def read(text: str, *overrides: str) -> Recipe:
    Path("mine.yaml").write_text(text)
    return read_recipe(pretrain, "pretrain", ["mine.yaml", *overrides])


def test_values_become_the_stages_arguments() -> None:
    built = read(FEDPROX, "--visit.batch_size", "16").build()
    assert built["algorithm"] == FedAvg()
    assert built["visit"].callbacks == (ProximalTerm(mu=0.5),)
    assert (built["rounds"].count, built["visit"].batch_size) == (7, 16)
    assert "out" not in built
    assert "run" not in built


@pytest.mark.parametrize(
    ("override", "value", "path"),
    [
        ("--rounds.count", 9, "rounds.count"),
        ("--method.init_args.temperature", 0.3, "method.init_args.temperature"),
        ("--data.phantom.sites", 3, "data.phantom.sites"),
        ("--policy.max_level", "FEATURES", "policy.max_level"),
        ("--resume", True, "resume"),
    ],
)
def test_the_command_line_overrides_the_file(override: str, value: object, path: str) -> None:
    text = "method: {class_path: fedssl.methods.moco.MoCo, init_args: {bank_size: 8}}\nrounds: {count: 7}"
    tree = yaml.safe_load(read(text, override, str(value)).text)
    found = tree
    for key in path.split("."):
        found = found[key]
    assert found == value
    assert tree["method"]["init_args"]["bank_size"] == 8


def test_a_resolved_recipe_resolves_to_itself() -> None:
    first = read(FEDPROX)
    Path("resolved.yaml").write_text(first.text)
    again = read_recipe(pretrain, "pretrain", ["resolved.yaml"])
    assert yaml.safe_load(again.text) == yaml.safe_load(first.text)
    assert yaml.safe_load(first.text)["method"]["init_args"]["temperature"] > 0  # defaults are spelled out


def test_the_folder_is_named_after_the_recipe() -> None:
    assert read(FEDPROX).out == Path("checkpoints/mine")
    assert read(FEDPROX, "--out", "there").out == Path("there")
    assert read_recipe(pretrain, "pretrain", []).out == Path("checkpoints/pretrain")


def test_every_unknown_key_is_reported_with_a_suggestion() -> None:
    text = """
visti: {batch_size: 4}
visit: {callbacks: [{class_path: fedcore.algorithms.fedprox.ProximalTerm, init_args: {muu: 1}}]}
rounds: {cuont: 3}
zebra: 1
method: {class_path: fedssl.methods.moco.MoCo, init_args: {tempreature: 0.1, bonk_size: 3}}
"""
    with pytest.raises(InputErrors) as caught:
        read(text)
    assert set(caught.value.errors) == {
        "unknown option 'visti.batch_size' (did you mean 'visit.batch_size'?)",
        "unknown option 'rounds.cuont' (did you mean 'rounds.count'?)",
        "unknown option 'zebra'",
        "unknown option 'method.init_args.tempreature' (did you mean 'method.init_args.temperature'?)",
        "unknown option 'method.init_args.bonk_size' (did you mean 'method.init_args.bank_size'?)",
        "unknown option 'visit.callbacks.init_args.muu' (did you mean 'visit.callbacks.init_args.mu'?)",
    }
    assert str(caught.value).startswith("mine.yaml: 6 errors\n")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--visit.batch_sise", "3"], "unknown option 'visit.batch_sise' (did you mean 'visit.batch_size'?)"),
        (["--visit.batch", "3"], "unknown option 'visit.batch' (did you mean 'visit.batch_size'?)"),
        (["--zebra", "3"], "unknown option 'zebra'"),
        (["--visit.batch_size", "many"], "visit.batch_size must be a whole number, got many"),
        (["--visit.batch_size"], "option 'visit.batch_size' must be followed by a value"),
        (["stray"], "unexpected argument stray; write options as --KEY VALUE"),
        (
            ["--method", "fedssl.methods.moco.MoCo", "--method.tempreature", "3"],
            "unknown option 'method.init_args.tempreature' (did you mean 'method.init_args.temperature'?)",
        ),
    ],
)
def test_mistakes_on_the_command_line(words: list[str], message: str) -> None:
    with pytest.raises(InputError) as caught:
        read("rounds: {count: 3}", *words)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "method: {class_path: fedssl.methods.moco.MoKo}",
            r"there is no class fedssl\.methods\.moco\.MoKo \(did you mean 'MoCo'\?\)",
        ),
        (
            "method: {class_path: fedsl.moco.MoCo}",
            "there is no module 'fedsl', installed or in the current folder; give the import path of a",
        ),
        ("rounds: {count: many}", "rounds.count must be a whole number, got many"),
        (
            "policy: {max_level: FEATURE}",
            "policy.max_level must be one of WEIGHTS, STATISTICS, FEATURES, SAMPLES, got FEATURE",
        ),
        ("encoder: {class_path: torch.optim.SGD}", "encoder: torch.optim.*SGD is not a .*Encoder"),
        (
            "encoder: {class_path: fedcore.models.resnet.ResNet, init_args: {depth: 11}}",
            "encoder.depth must be one of 10, 18, 34, 50, got 11",
        ),
        ("visit: 3", "visit must hold keys and values, found 3"),
        ("visit: 3\nzebra: 1", "(?s)visit must hold .*unknown option 'zebra'"),
        ("seed: 1\nrounds: [\n", "mine.yaml is not valid YAML: line 3: "),
        ("rounds: {count: many}\nseed: x", "(?s)2 errors.*seed must be a whole number, got x"),
        (
            "method: {class_path: fedssl.methods.moco.MoCo, init_args: {temperature: warm, bank_size: x}}",
            "(?s)2 errors.*method.temperature must be a number, got warm.*"
            "method.bank_size must be a whole number, got x",
        ),
        (
            "method: {class_path: fedssl.methods.moco.MoCo, init_args: {temprature: 1, "
            "optimizer: {class_path: torch.optim.SGD, init_args: {lr: 0.1}}}}",
            "unknown option 'method.init_args.temprature' .*did you mean 'method.init_args.temperature'",
        ),
        ("- rounds", "mine.yaml must hold keys and values, found a list"),
        ("# to be written\n", "mine.yaml must hold keys and values, found nothing"),
    ],
)
def test_mistakes_in_the_file(text: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        read(text)


def test_a_file_that_is_not_text() -> None:
    Path("mine.yaml").write_bytes(b"\xff\xfe\x00rounds")
    with pytest.raises(InputError, match=r"mine\.yaml is not valid YAML"):
        read_recipe(pretrain, "pretrain", ["mine.yaml"])


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("demo_pretran", r"no recipe 'demo_pretran' \(did you mean 'demo_pretrain'\?\); see fedpretrain recipes"),
        ("folder/none.yaml", r"there is no recipe 'folder/none.yaml'; see"),
    ],
)
def test_a_recipe_that_does_not_exist(name: str, message: str) -> None:
    for words in ([name], ["--config", name], [f"--config={name}"]):
        with pytest.raises(InputError, match=message):
            read_recipe(pretrain, "pretrain", words)


def test_a_value_that_a_class_rejects_is_an_input_error() -> None:
    with pytest.raises(InputError, match=r"the recipe cannot be built: rounds\.count .* must be at least 1"):
        read("rounds: {count: 0}").build()


@pytest.mark.parametrize("way", ["file", "word", "word with =", "class_path"])
def test_a_named_class_has_its_own_defaults(way: str, tmp_path: Path) -> None:
    """SimCLR, the default, has `hidden_dim` 256; BYOL has 512."""
    (tmp_path / "r.yaml").write_text("method: {class_path: fedssl.methods.byol.BYOL, init_args: {projection_dim: 64}}")
    words = {
        "file": [str(tmp_path / "r.yaml")],
        "word": ["--method", "fedssl.methods.byol.BYOL", "--method.projection_dim", "64"],
        "word with =": ["--method=fedssl.methods.byol.BYOL", "--method.projection_dim", "64"],
        "class_path": ["--method.class_path", "fedssl.methods.byol.BYOL", "--method.init_args.projection_dim", "64"],
    }[way]
    given = read_recipe(pretrain, "pretrain", words).config.method.init_args
    assert (given.hidden_dim, given.projection_dim) == (512, 64)


def test_arguments_without_a_class_set_those_of_the_default_class(tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text("method: {init_args: {temperature: 0.5}}")
    for words in ([str(tmp_path / "r.yaml")], ["--method.temperature", "0.5"]):
        method = read_recipe(pretrain, "pretrain", words).config.method
        assert (method.class_path, method.init_args.temperature) == ("fedssl.methods.simclr.SimCLR", 0.5)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "probe: {every: 0}",
            "every, knn_k and max_images must be at least 1, "
            "got Probe(every=0, knn_k=20, max_images=1000, linear=False)",
        ),
        (
            "algorithm: {class_path: fedcore.algorithms.fedavg.FedAvg, init_args: {aggregator: "
            "{class_path: fedcore.aggregation.robust.TrimmedMean, init_args: {trim: 0.7}}}}",
            "trim must lie in [0, 0.5), got 0.7",
        ),
    ],
)
def test_of_a_union_the_error_with_a_reason_is_reported(text: str, message: str) -> None:
    with pytest.raises(InputError) as caught:
        read(text).build()
    assert str(caught.value) == f"the recipe cannot be built: {message}"


def test_reading_a_recipe_writes_nothing() -> None:
    read(FEDPROX).build()
    assert [p.name for p in Path().iterdir()] == ["mine.yaml"]


@pytest.mark.parametrize(
    ("stage", "named", "left_out"),
    [
        (
            pretrain,
            ["fedssl.methods.byol.BYOL", "fedssl.methods.mae.MAE", "fedcore.models.vit.ViT"],
            "fedssl.methods.base.Method",
        ),
        (segment, ["SegResNet", "SwinUNETR"], "torch.nn"),
    ],
)
def test_help_lists_only_classes_of_fedpretrain(
    stage: Callable[..., None], named: list[str], left_out: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as done:
        read_recipe(stage, "stage", ["--help"])
    text = " ".join(capsys.readouterr().out.split())
    assert done.value.code == 0
    assert all(name in text for name in named)
    assert left_out not in text
