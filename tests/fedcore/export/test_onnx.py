from __future__ import annotations

from pathlib import Path

import pytest
import torch

from fedcore.cli.main import main
from fedcore.errors import InputError
from fedcore.export.command import export
from fedcore.runs.classifiers import classifiers_of
from fedcore.runs.folder import RunFolder

pytest.importorskip("onnxscript")
onnxruntime = pytest.importorskip("onnxruntime")
SMALL = {
    "finetune": ["classify", "--encoder.init_args.stem", "8", "--data.size", "32"],
    "segment": ["segment_volumes", "--network.init_args.encoder.init_args.stem", "8", "--data.size", "24",
                "--segmenter.init_args.patch_size", "16"],
}  # fmt: skip


@pytest.mark.parametrize("stage", ["finetune", "segment"])
def test_outputs_equal_those_of_the_runs_model(
    stage: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:  # fmt: skip
    words = ["--data.phantom.sites", "2", "--data.phantom.images_per_site", "16", "--rounds.count", "1",
             "--visit.max_steps", "2", "--policy.min_patients", "1"]  # fmt: skip
    with pytest.raises(SystemExit) as done:
        main([stage, *SMALL[stage], *words, "--out", str(tmp_path / "run")])
    assert done.value.code == 0
    export(tmp_path / "run", to="onnx")
    (file,) = (tmp_path / "run").glob("*/*.onnx")
    (model,) = classifiers_of(RunFolder(tmp_path / "run")).values()
    size = (32, 32) if stage == "finetune" else (16, 16, 16)
    assert f"(n, 1, {', '.join(map(str, size))})" in capsys.readouterr().out
    images = torch.randn(3, 1, *size).clamp(-1, 1)
    (found,) = onnxruntime.InferenceSession(file).run(None, {"images": images.numpy()})
    with torch.no_grad():
        network = model if stage == "finetune" else model.network
        assert (torch.from_numpy(found) - network(images)).abs().max() < 1e-4  # type: ignore[operator]
    with pytest.raises(InputError, match="exists; replace it with --overwrite true"):
        export(tmp_path / "run", to="onnx")
    with pytest.raises(InputError, match=r"must name a \.onnx file"):
        export(tmp_path / "run", to="onnx", out=tmp_path / "a.bin")


def test_a_run_that_cannot_be_exported_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="needs a finished finetune or segment run"):
        export(tmp_path, to="onnx")
    with pytest.raises(InputError, match="--site is for --to onnx"):
        export(tmp_path, to="monai", site="hospital_1")
