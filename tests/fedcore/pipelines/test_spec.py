from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from fedcore.errors import InputError, InputErrors
from fedcore.pipelines.spec import Step, read_steps

Written = Callable[[str], Path]


@pytest.fixture
def written(tmp_path: Path) -> Written:
    def write(text: str) -> Path:
        (tmp_path / "road.yaml").write_text(text)
        return tmp_path / "road.yaml"

    return write


def by_name(path: Path, **overrides: str) -> dict[str, Step]:
    return {step.name: step for step in read_steps(path, overrides)}


def test_a_step_is_its_command_with_what_is_shared_its_own_keys_and_each_of_its_values(written: Written) -> None:
    path = written("""
shared: {seed: 1, rounds.count: 5}
steps:
  encoder: {do: pretrain simclr, rounds.count: 2, data.phantom: {sites: 3}}
  drawn: {do: "generate sample {encoder} {here}", count: 8}
  tuned: {do: finetune classify, pretrained: "{encoder}", each: {label_fraction: [0.1, 1.0], seed: [0, 1]}}
""")
    steps = by_name(path, **{"rounds.count": "7"})
    assert list(steps) == ["encoder", "drawn", *(f"tuned_{f}_{s}" for f in ("0.1", "1.0") for s in ("0", "1"))]
    assert steps["encoder"].words == (
        "pretrain", "simclr", "--seed", "1", "--rounds.count", "2", "--data.phantom", '{"sites": 3}',
    )  # fmt: skip
    assert steps["drawn"].words == ("generate", "sample", "{encoder}", "{here}", "--count", "8")  # nothing is shared
    tuned = steps["tuned_1.0_0"]
    assert tuned.words[2:] == (
        "--seed", "0", "--rounds.count", "7", "--pretrained", "{encoder}", "--label_fraction", "1.0",
    )  # fmt: skip
    assert (tuned.family, tuned.stage, tuned.does, tuned.needs) == (
        "tuned", "finetune", "finetune classify", ["encoder"],
    )  # fmt: skip
    assert (steps["drawn"].stage, steps["drawn"].does) == (None, "generate sample")
    assert tuned.told({"encoder": "there"})[7] == "there"


def test_values_that_name_no_folder_have_names(written: Written) -> None:
    path = written("""
steps:
  alone: {do: pretrain simclr, algorithm: fedcore.algorithms.local_only.LocalOnly}
  tuned:
    do: finetune classify
    each: {pretrained: {random: null, ours: "{alone}/sites/ours/encoder", 2: "{alone}"}, label_fraction: [0.1]}
  after_one: {do: "generate audit {tuned_ours_0.1} drawn"}
""")
    steps = by_name(path)
    assert list(steps) == ["alone", "tuned_random_0.1", "tuned_ours_0.1", "tuned_2_0.1", "after_one"]
    assert steps["tuned_random_0.1"].words[2:4] == ("--pretrained", "null")
    assert steps["tuned_random_0.1"].recipe is not None
    assert steps["tuned_random_0.1"].recipe.config.pretrained is None
    assert steps["tuned_ours_0.1"].needs == ["alone"]
    assert steps["after_one"].needs == ["tuned_ours_0.1"]


def test_a_recipe_is_resolved_and_names_its_images(written: Written) -> None:
    path = written("""
shared: {data.manifest: ours.csv, data.extra_manifests: [theirs.csv, "{drawn}/manifest.csv"]}
steps:
  drawn: {do: "generate sample checkpoints/generator {here}"}
  encoder: {do: pretrain simclr, data.synthetic.manifest: bought/manifest.csv}
""")
    encoder = by_name(path)["encoder"]
    assert encoder.manifests == ["ours.csv", "theirs.csv", "bought/manifest.csv"]
    assert encoder.recipe is not None
    assert "temperature" in encoder.recipe.text


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("method: fedssl.methods.simclr.SimCLR", "is no road: it must hold `steps`"),
        ("steps: {}", "is no road"),
        ("{shared: 3, steps: {a: {do: pretrain simclr}}}", "is no road"),
        ("steps: {a: {do: pretrain simclr, after: 3}}", "a: `after` is the name of a step"),
        ("steps: [", "cannot be read as YAML"),
        ("steps: {a: 3, b: {count: 4}}", r"a: a step is a mapping with `do`[\s\S]*b: a step is"),
        ("steps: {a/b: {do: pretrain simclr}}", r"a/b: a step's name is of letters, digits and _\.-"),
        ("steps: {here: {do: pretrain simclr}}", "here: a step's name"),
        ("steps: {a: {do: pretrain simclr, each: 3}}", "a: `each` is a mapping of keys to lists of values"),
        ("steps: {a: {do: pretrain simclr, each: {seed: 3}}}", "a: `each` is a mapping of keys to lists of values"),
        (
            "steps: {a: {do: pretrain simclr, each: {exchange: [x/y]}}}",
            r"exchange of `each`: x/y names no folder; give it a name, exchange: \{NAME: VALUE\}",
        ),
        (
            'steps: {encoder: {do: pretrain simclr}, tuned: {do: finetune classify, pretrained: "{encodr}"}}',
            r"tuned: no step before it is called 'encodr' \(did you mean 'encoder'\?\)",
        ),
        ("steps: {a_1: {do: pretrain simclr}, a: {do: pretrain simclr, each: {seed: [1]}}}", "a_1: an earlier step is"),
    ],
)
def test_what_is_wrong_with_the_writing_is_told(written: Written, text: str, told: str) -> None:
    with pytest.raises(InputError, match=told):
        read_steps(written(text), {})


def test_all_of_it_is_told_together(written: Written) -> None:
    with pytest.raises(InputErrors) as caught:
        read_steps(written("steps: {a: {do: run x, after: [b, c]}, d: {do: 'probe {e}'}}"), {})
    assert len(caught.value.errors) == 3
