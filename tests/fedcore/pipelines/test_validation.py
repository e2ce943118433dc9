from __future__ import annotations

from pathlib import Path

import pytest

from fedcore.errors import InputErrors
from fedcore.pipelines.spec import read_steps
from fedcore.pipelines.validation import validate

PIPELINE = """
shared: {data.manifest: phantom}
steps:
  encoder: {do: pretrain simclr}
  synthetic: {do: "generate sample {encoder} {here}", count: 8}
  audit: {do: "generate audit {encoder} {synthetic}", encoder: "{encoder}"}
  released: {do: "generate release {synthetic} {here}", after: audit}
  tuned: {do: finetune classify, pretrained: "{encoder}", each: {label_fraction: [0.01, 0.05, 0.1, 1.0]}}
  segmented: {do: segment segment, pretrained: "{encoder}"}
"""


def errors(folder: Path, text: str) -> tuple[str, ...]:
    path = folder / "pipeline.yaml"
    path.write_text(text)
    with pytest.raises(InputErrors, match=r"pipeline\.yaml: \d error") as caught:
        validate(read_steps(path, {}), str(path))
    return caught.value.errors


def test_a_pipeline_without_errors_passes(tmp_path: Path) -> None:
    (tmp_path / "pipeline.yaml").write_text(PIPELINE)
    validate(read_steps(tmp_path / "pipeline.yaml", {}), "pipeline.yaml")


def test_errors_of_all_steps_are_reported_together(tmp_path: Path) -> None:
    text = PIPELINE.replace("pretrain simclr", "pretrain simclrr").replace("count: 8", "cuont: 8")
    text = text.replace("generate release", "generate realise").replace("segment segment", "segmant segment")
    found = dict(error.split(": ", 1) for error in errors(tmp_path, text))
    assert list(found) == ["encoder", "synthetic", "released", "segmented"]
    assert "there is no recipe 'simclrr' (did you mean 'simclr'?)" in found["encoder"]
    assert "unknown option 'cuont' (did you mean 'count'?)" in found["synthetic"]
    assert "no command 'realise' (did you mean 'release'?)" in found["released"]
    assert "there is no command 'segmant' (did you mean 'segment'?)" in found["segmented"]


def test_an_error_of_many_steps_is_reported_once(tmp_path: Path) -> None:
    (error,) = errors(tmp_path, PIPELINE.replace('classify, pretrained: "{encoder}"', "classify, label_fractoin: 0.1"))
    assert error == ("tuned_0.01 and 3 more: unknown option 'label_fractoin' (did you mean 'label_fraction'?)")


def test_a_value_that_a_class_rejects_is_reported(tmp_path: Path) -> None:
    (error,) = errors(tmp_path, PIPELINE.replace("pretrain simclr", "pretrain simclr, rounds.count: 0"))
    assert error.startswith("encoder: ")
    assert "0" in error


def test_a_manifest_is_read_before_training(tmp_path: Path) -> None:
    (tmp_path / "mine.csv").write_text("image,site\nnone.png,a\n")
    (error,) = errors(tmp_path, PIPELINE.replace("phantom", str(tmp_path / "mine.csv")))
    assert error.startswith("encoder and 5 more: ")
    assert "mine.csv: 1 error" in error


def test_an_encoder_that_does_not_fit_is_reported(tmp_path: Path) -> None:
    (error,) = errors(tmp_path, PIPELINE.replace("pretrain simclr", "pretrain simclr, encoder.init_args.depth: 18"))
    assert error == (
        "tuned_0.01 and 4 more: its encoder is ResNet(depth=10), but it starts from encoder, whose encoder is "
        "ResNet(depth=18); use the same encoder settings"
    )
