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
        (tmp_path / "pipeline.yaml").write_text(text)
        return tmp_path / "pipeline.yaml"

    return write


def by_name(path: Path, **overrides: str) -> dict[str, Step]:
    return {step.name: step for step in read_steps(path, overrides)}


def test_a_step_has_shared_options_its_own_and_each_of_its_values(written: Written) -> None:
    path = written("""
shared: {seed: 1, rounds.count: 5}
steps:
  encoder: {do: pretrain simclr, rounds.count: 2, data.phantom: {sites: 3}}
  synthetic: {do: "generate sample {encoder} {here}", count: 8}
  tuned: {do: finetune classify, pretrained: "{encoder}", each: {label_fraction: [0.1, 1.0], seed: [0, 1]}}
""")
    steps = by_name(path, **{"rounds.count": "7"})
    assert list(steps) == ["encoder", "synthetic", *(f"tuned_{f}_{s}" for f in ("0.1", "1.0") for s in ("0", "1"))]
    assert steps["encoder"].arguments == (
        "pretrain", "simclr", "--seed", "1", "--rounds.count", "2", "--data.phantom", '{"sites": 3}',
    )  # fmt: skip
    assert steps["synthetic"].arguments == (
        "generate",
        "sample",
        "{encoder}",
        "{here}",
        "--count",
        "8",
    )
    tuned = steps["tuned_1.0_0"]
    assert tuned.arguments[2:] == (
        "--seed", "0", "--rounds.count", "7", "--pretrained", "{encoder}", "--label_fraction", "1.0",
    )  # fmt: skip
    assert (tuned.family, tuned.stage, tuned.command, tuned.needs) == (
        "tuned", "finetune", "finetune classify", ["encoder"],
    )  # fmt: skip
    assert (steps["synthetic"].stage, steps["synthetic"].command) == (None, "generate sample")
    assert tuned.resolved({"encoder": "there"})[7] == "there"


def test_values_that_cannot_be_part_of_a_folder_name_have_names(written: Written) -> None:
    path = written("""
steps:
  local: {do: pretrain simclr, algorithm: fedcore.algorithms.local_only.LocalOnly}
  tuned:
    do: finetune classify
    each: {pretrained: {random: null, ours: "{local}/sites/ours/encoder", 2: "{local}"}, label_fraction: [0.1]}
  after_one: {do: "generate audit {tuned_ours_0.1} synthetic"}
""")
    steps = by_name(path)
    assert list(steps) == ["local", "tuned_random_0.1", "tuned_ours_0.1", "tuned_2_0.1", "after_one"]
    assert steps["tuned_random_0.1"].arguments[2:4] == ("--pretrained", "null")
    assert steps["tuned_random_0.1"].recipe is not None
    assert steps["tuned_random_0.1"].recipe.config.pretrained is None
    assert steps["tuned_ours_0.1"].needs == ["local"]
    assert steps["after_one"].needs == ["tuned_ours_0.1"]


def test_a_recipe_is_resolved_and_names_its_manifests(written: Written) -> None:
    path = written("""
shared: {data.manifest: ours.csv, data.extra_manifests: [theirs.csv, "{synthetic}/manifest.csv"]}
steps:
  synthetic: {do: "generate sample checkpoints/generator {here}"}
  encoder: {do: pretrain simclr, data.synthetic.manifest: bought/manifest.csv}
""")
    encoder = by_name(path)["encoder"]
    assert encoder.manifests == ["ours.csv", "theirs.csv", "bought/manifest.csv"]
    assert encoder.recipe is not None
    assert "temperature" in encoder.recipe.text


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("method: fedssl.methods.simclr.SimCLR", "is not a pipeline: it must have the key `steps`"),
        ("steps: {}", "is not a pipeline"),
        ("{shared: 3, steps: {a: {do: pretrain simclr}}}", "is not a pipeline"),
        ("steps: {a: {do: pretrain simclr, after: 3}}", "a: `after` must be the name of a step"),
        ("steps: [", "cannot be read as YAML"),
        ("steps: {a: 3, b: {count: 4}}", r"a: a step must be a mapping with a key `do`[\s\S]*b: a step must be"),
        ("steps: {a/b: {do: pretrain simclr}}", r"a/b: the name of a step must consist of letters, digits and _\.-"),
        ("steps: {here: {do: pretrain simclr}}", "here: the name of a step"),
        ("steps: {a: {do: pretrain simclr, each: 3}}", "a: `each` must map options to lists of values"),
        ("steps: {a: {do: pretrain simclr, each: {seed: 3}}}", "a: `each` must map options to lists of values"),
        (
            "steps: {a: {do: pretrain simclr, each: {exchange: [x/y]}}}",
            r"exchange of `each`: x/y cannot be part of a folder's name; give it a name, exchange: \{NAME: VALUE\}",
        ),
        (
            'steps: {encoder: {do: pretrain simclr}, tuned: {do: finetune classify, pretrained: "{encodr}"}}',
            r"tuned: no earlier step is named 'encodr' \(did you mean 'encoder'\?\)",
        ),
        (
            "steps: {a_1: {do: pretrain simclr}, a: {do: pretrain simclr, each: {seed: [1]}}}",
            "a_1: an earlier step has",
        ),
    ],
)
def test_syntax_errors_are_reported(written: Written, text: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        read_steps(written(text), {})


def test_all_errors_are_reported_together(written: Written) -> None:
    with pytest.raises(InputErrors) as caught:
        read_steps(written("steps: {a: {do: run x, after: [b, c]}, d: {do: 'probe {e}'}}"), {})
    assert len(caught.value.errors) == 3
