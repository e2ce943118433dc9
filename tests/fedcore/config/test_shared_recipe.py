from __future__ import annotations

import hashlib
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from fedcore.config.recipe import read_recipe
from fedcore.config.recipe_files import command_of, shipped
from fedcore.config.shared_recipe import LARGEST, OF_SERVER, OF_SITE, SharedRecipe
from fedcore.config.stages import STAGES, stage_of, task_maker
from fedcore.data.source import Data
from fedcore.errors import InputError
from fedcore.messages.reveals import Reveals
from fedcore.privacy.policy import Policy
from fedcore.training.visit import Visit

OWN = {"data.manifest": "own.csv", "visit.accelerator": "cpu"}


def resolved(command: str, *arguments: str) -> str:
    return read_recipe(stage_of(command), command, arguments).text


def shared(command: str = "pretrain", *arguments: str) -> SharedRecipe:
    return SharedRecipe.of(command, resolved(command, *arguments))


def changed(recipe: SharedRecipe, **values: Any) -> str:
    return yaml.safe_dump(recipe.tree | values, sort_keys=True, width=1000)


RECIPES = [(path.stem, command) for path in shipped().values() if (command := command_of(path)) in STAGES]


@pytest.mark.parametrize(("name", "command"), RECIPES)
def test_every_included_recipe_gives_its_task_at_a_hospital(name: str, command: str) -> None:
    whole = read_recipe(stage_of(command), command, [name])
    recipe = SharedRecipe.of(command, whole.text)
    own = OWN | ({"data.synthetic.manifest": "set.csv"} if whole.config.data.synthetic else {})
    built = recipe.build(own)
    expected = whole.build()
    task, other = task_maker(command)(built), task_maker(command)(expected | {"pretrained": None})
    assert (type(task), repr(task.algorithm)) == (type(other), repr(other.algorithm))
    assert (built["data"].manifest, built["data"].size) == ("own.csv", expected["data"].size)
    assert SharedRecipe.of_file(recipe.as_file) == recipe


def test_equal_recipes_have_equal_texts() -> None:
    assert shared("pretrain", "simclr") == shared("pretrain", "simclr")
    text = resolved("pretrain", "simclr")
    reordered = yaml.safe_dump(dict(reversed(yaml.safe_load(text).items())), sort_keys=False)
    assert reordered != text
    assert SharedRecipe.of("pretrain", reordered) == SharedRecipe.of("pretrain", text)


def test_the_digest_is_the_checksum_of_the_file() -> None:
    recipe = shared()
    assert recipe.digest == hashlib.sha256(b"pretrain\n" + recipe.text.encode()).hexdigest()
    assert recipe.digest == hashlib.sha256(recipe.as_file).hexdigest()


SERVERS_AND_SITES = {
    "--out": "elsewhere", "--resume": "true", "--loggers": "[]", "--workers": "3", "--policy.max_level": "FEATURES",
    "--rounds.deadline": "60", "--data.manifest": "their.csv", "--data.columns.image": "file", "--data.cache": "there",
    "--data.on_error": "skip", "--data.test_fraction": "0.5", "--data.phantom.sites": "9",
    "--data.allow_unaudited": "true", "--visit.accelerator": "cpu",
}  # fmt: skip


@pytest.mark.parametrize(("option", "value"), SERVERS_AND_SITES.items())
def test_what_server_and_hospitals_set_for_themselves_is_left_out(option: str, value: str) -> None:
    assert shared("pretrain", option, value) == shared()


@pytest.mark.parametrize(
    ("option", "value"),
    {
        "--seed": "1", "--rounds.count": "9", "--data.size": "32", "--visit.batch_size": "4", "--probe": "null",
        "--data.scaling": "fedcore.data.preprocess.scaling.Window", "--data.seed": "3",
    }.items(),
)  # fmt: skip
def test_all_else_makes_another_recipe(option: str, value: str) -> None:
    words = [f"{option}.low=0", f"{option}.high=1"] if value.endswith("Window") else []
    assert shared("pretrain", option, value, *words).digest != shared().digest


def test_the_weights_to_start_from_are_the_servers(tmp_path: Path) -> None:
    assert shared("finetune", "--pretrained", str(tmp_path)) == shared("finetune")
    assert shared("finetune").build(OWN)["pretrained"] is None


@pytest.mark.parametrize(
    ("option", "value"),
    [("--data.sites", "[a,b]"), ("--data.extra_manifests", "[a.csv]"),
     ("--data.partition", "fedcore.data.partition.Dirichlet")],
)  # fmt: skip
def test_what_only_a_simulation_has_is_an_error(option: str, value: str) -> None:
    with pytest.raises(InputError, match=f"{option[2:]} must be omitted with hospitals apart"):
        shared("pretrain", option, value)


def test_a_hospital_puts_its_own_values_in() -> None:
    recipe = shared(
        "pretrain", "--data.manifest", "theirs.csv", "--data.cache", "/theirs", "--policy.max_level", "FEATURES"
    )
    assert "theirs" not in recipe.text
    policy = {"max_level": "WEIGHTS", "min_patients": 3}
    built = recipe.build(OWN | {"data.cache": "mine", "data.on_error": "skip", "policy": policy})
    assert isinstance(built["data"], Data)
    assert (built["data"].manifest, built["data"].cache, built["data"].on_error) == ("own.csv", Path("mine"), "skip")
    assert isinstance(built["visit"], Visit)
    assert built["visit"].accelerator == "cpu"
    assert built["policy"] == Policy(Reveals.WEIGHTS, min_patients=3)


def test_a_synthetic_set_is_the_hospitals_own() -> None:
    arguments = ["--data.synthetic.manifest", "theirs.csv", "--data.synthetic.fraction", "0.25"]
    recipe = shared("pretrain", *arguments)
    assert "theirs" not in recipe.text
    with pytest.raises(InputError, match=r"mixes a synthetic set .* set synthetic in site\.yaml"):
        recipe.build(OWN)
    synthetic = recipe.build(OWN | {"data.synthetic.manifest": "mine.csv"})["data"].synthetic
    assert (synthetic.manifest, synthetic.fraction) == ("mine.csv", 0.25)
    assert shared().build(OWN | {"data.synthetic.manifest": "mine.csv"})["data"].synthetic is None


@pytest.mark.parametrize("key", OF_SITE)
def test_no_recipe_sets_what_is_a_hospitals(key: str) -> None:
    tree: dict[str, Any] = shared("pretrain", "--data.synthetic.manifest", "x.csv").tree
    inside = tree
    *above, last = key.split(".")
    for part in above:
        inside = inside[part]
    inside[last] = "/etc/passwd"
    text = yaml.safe_dump(tree, sort_keys=True, width=1000)
    with pytest.raises(InputError, match=f"{key} is for each hospital to set"):
        SharedRecipe.received("pretrain", text)


@pytest.mark.parametrize("key", [key for key in OF_SERVER if "." not in key])
def test_no_recipe_sets_what_is_the_servers(key: str) -> None:
    command = "finetune" if key == "pretrained" else "pretrain"
    with pytest.raises(InputError, match=f"{key} is for the server to set"):
        SharedRecipe.received(command, changed(shared(command), **{key: "x"}))


@pytest.mark.parametrize(
    ("command", "text", "reason"),
    [
        ("os.system", "seed: 0\n", "and this one names another"),
        ("probe", "seed: 0\n", "and this one names another"),
        ("pretrain", "x: 0\n", "x is no option of pretrain"),
        ("pretrain", "run: 0\n", "run is no option of pretrain"),
        ("pretrain", "seed:  0\n", "in the form that fedpretrain writes"),
        ("pretrain", "# told\nseed: 0\n", "in the form that fedpretrain writes"),
        ("pretrain", "- a\n", "must hold keys and values"),
        ("pretrain", "", "must hold keys and values"),
        ("pretrain", "seed: [0\n", "cannot be read as YAML"),
        ("pretrain", "seed: !!python/object/apply:os.system [x]\n", "cannot be read as YAML"),
        ("pretrain", "seed: \x00\n", "cannot be read as YAML"),
        ("pretrain", "seed: &a [0, *a]\n", "has anchors"),
        ("pretrain", "data: &a {}\nmethod: *a\n", "has anchors"),
        ("pretrain", "a: " + "[" * 5000, "cannot be read as YAML"),
        ("pretrain", "1: 2\n", "must hold keys and values"),
        ("pretrain", f"seed: {'x' * LARGEST}\n", "at most 200000 bytes"),
        ("pretrain", "seed: '\ud800'\n", "cannot be read as YAML"),
    ],
    ids=range(17),
)  # fmt: skip
def test_whatever_else_is_received_is_declined(command: str, text: str, reason: str) -> None:
    with pytest.raises(InputError, match=reason):
        SharedRecipe.received(command, text)


def test_a_wrong_value_deeper_in_the_recipe_is_found_when_it_is_built() -> None:
    recipe = SharedRecipe.received("pretrain", changed(shared(), rounds={"count": "many"}))
    with pytest.raises(InputError, match=r"recipe [0-9a-f]{12}: 1 error\n +rounds\.count must be a whole number"):
        recipe.build(OWN)
    recipe = SharedRecipe.received("pretrain", changed(shared(), rounds={"turns": 3}))
    with pytest.raises(InputError, match=r"rounds\.turns"):
        recipe.build(OWN)


def test_code_that_a_hospital_does_not_trust_is_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mark = tmp_path / "ran"
    (tmp_path / "their_package.py").write_text(
        f"import pathlib\npathlib.Path({str(mark)!r}).touch()\nfrom fedcore.algorithms.fedavg import FedAvg as Ours\n"
        "class FedAvg(Ours): pass\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    recipe = SharedRecipe.received("pretrain", changed(shared(), algorithm="their_package.FedAvg"))
    assert "their_package.FedAvg" in recipe.class_paths
    with pytest.raises(InputError, match=r"was not run; if you trust that package, add their_package to trust in site"):
        recipe.build(OWN)
    assert not mark.exists()
    assert type(recipe.build(OWN, ("their_package",))["algorithm"]).__module__ == "their_package"
    assert mark.exists()
    sys.modules.pop("their_package")


@pytest.mark.parametrize("path", ["os.system", "subprocess.Popen", "builtins.eval", "torch.load", "torch.hub.load"])
def test_no_other_function_can_be_named(path: str) -> None:
    for key in ("algorithm", "method", "encoder"):
        recipe = SharedRecipe.received("pretrain", changed(shared(), **{key: {"class_path": path}}))
        with pytest.raises(InputError, match="was not run"):
            recipe.build(OWN)


def test_a_package_that_is_not_installed_is_named() -> None:
    recipe = SharedRecipe.received("pretrain", changed(shared(), algorithm="absent_package.FedAvg"))
    with pytest.raises(InputError, match="there is no module 'absent_package'"):
        recipe.build(OWN)
