from __future__ import annotations

from pathlib import Path

import pytest

from fedcore.errors import InputErrors
from fedcore.pipelines.spec import read_steps
from fedcore.pipelines.validation import check

ROAD = """
shared: {data.manifest: phantom}
steps:
  encoder: {do: pretrain simclr}
  drawn: {do: "generate sample {encoder} {here}", count: 8}
  audit: {do: "generate audit {encoder} {drawn}", encoder: "{encoder}"}
  released: {do: "generate release {drawn} {here}", after: audit}
  tuned: {do: finetune classify, pretrained: "{encoder}", each: {label_fraction: [0.01, 0.05, 0.1, 1.0]}}
  outlined: {do: segment segment, pretrained: "{encoder}"}
"""


def faults(folder: Path, text: str) -> tuple[str, ...]:
    path = folder / "road.yaml"
    path.write_text(text)
    with pytest.raises(InputErrors, match=r"road\.yaml: \d error") as caught:
        check(read_steps(path, {}), str(path))
    return caught.value.errors


def test_a_road_without_mistakes_passes(tmp_path: Path) -> None:
    (tmp_path / "road.yaml").write_text(ROAD)
    check(read_steps(tmp_path / "road.yaml", {}), "road.yaml")


def test_mistakes_of_all_steps_are_told_together(tmp_path: Path) -> None:
    text = ROAD.replace("pretrain simclr", "pretrain simclrr").replace("count: 8", "cuont: 8")
    text = text.replace("generate release", "generate realise").replace("segment segment", "segmant segment")
    found = dict(fault.split(": ", 1) for fault in faults(tmp_path, text))
    assert list(found) == ["encoder", "drawn", "released", "outlined"]
    assert "there is no recipe 'simclrr' (did you mean 'simclr'?)" in found["encoder"]
    assert "unknown option 'cuont' (did you mean 'count'?)" in found["drawn"]
    assert "no command 'realise' (did you mean 'release'?)" in found["released"]
    assert "there is no command 'segmant' (did you mean 'segment'?)" in found["outlined"]


def test_a_mistake_of_many_steps_is_told_once(tmp_path: Path) -> None:
    (fault,) = faults(tmp_path, ROAD.replace('classify, pretrained: "{encoder}"', "classify, label_fractoin: 0.1"))
    assert fault == ("tuned_0.01 and 3 more: unknown option 'label_fractoin' (did you mean 'label_fraction'?)")


def test_what_a_class_refuses_is_told(tmp_path: Path) -> None:
    (fault,) = faults(tmp_path, ROAD.replace("pretrain simclr", "pretrain simclr, rounds.count: 0"))
    assert fault.startswith("encoder: ")
    assert "0" in fault


def test_a_manifest_is_read_before_anything_is_trained(tmp_path: Path) -> None:
    (tmp_path / "mine.csv").write_text("image,site\nnone.png,a\n")
    (fault,) = faults(tmp_path, ROAD.replace("phantom", str(tmp_path / "mine.csv")))
    assert fault.startswith("encoder and 5 more: ")
    assert "mine.csv: 1 error" in fault


def test_an_encoder_that_will_not_fit_is_told(tmp_path: Path) -> None:
    (fault,) = faults(tmp_path, ROAD.replace("pretrain simclr", "pretrain simclr, encoder.init_args.depth: 18"))
    assert fault == (
        "tuned_0.01 and 4 more: asks for ResNet(depth=10), but starts from encoder, ResNet(depth=18); "
        "make them the same"
    )
