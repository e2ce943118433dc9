from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch

from fedcore.cli.main import main
from fedcore.errors import InputError
from fedcore.export.command import command, portable
from fedcore.models.base import Encoder
from fedcore.models.encoder_store import CARD, TENSORS, save_encoder
from fedcore.models.resnet import ResNet
from tests.fedcore.export.loading import batch, require_equal, resnet

CARD_TEXT = "---\nlicense: unknown\n---\n\n# Encoder of three sites\n\nFacts.\n"


def test_an_unknown_encoder_is_an_error(toy: Callable[..., Encoder]) -> None:
    with pytest.raises(InputError, match="export does not support Toy"):
        portable(toy(), "monai")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return save_encoder(tmp_path / "run" / "encoder", resnet(2, 1, 10), {"size": [48, 56]}, CARD_TEXT)


def test_the_command_writes_tensors_and_a_page_and_prints_how_to_load_them(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    command([str(folder.parent), "--to", "torchvision"])
    printed = capsys.readouterr().out
    assert printed.startswith(f"{folder}/torchvision.safetensors\n{folder}/torchvision.md\n\n")
    assert "model = ResNet(BasicBlock, [1, 1, 1, 1])\nmodel.fc = torch.nn.Identity()\n" in printed
    page = (folder / "torchvision.md").read_text()
    for text in (page, printed):
        assert (
            "- Images: float32, grey, channels first, 48 x 56 pixels as in training.\n- Intensities: in [-1, 1]" in text
        )
        assert "images.expand(-1, 3, -1, -1)" in text
    assert page.endswith("---\n\n# Encoder of three sites\n\nFacts.\n")
    assert "license: unknown" not in page
    monkeypatch.chdir(folder)
    names: dict[str, Any] = {}
    exec(page.split("```python\n")[1].split("```")[0], names)
    require_equal(trained_from(folder), names["model"], batch(2), repeated=True)


def trained_from(folder: Path) -> ResNet:
    encoder = ResNet(2, 1, 10)
    encoder.load_state_dict(safetensors.torch.load_file(folder / TENSORS))
    return encoder.eval()


def test_files_are_replaced_only_with_overwrite(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = folder.parent / "mine.safetensors"
    words = ["export", str(folder), "--out", str(file)]
    for taken in (file, file.with_suffix(".md")):
        taken.write_text("precious")
        with pytest.raises(SystemExit) as stopped:
            main(words)
        assert stopped.value.code == 2
        assert capsys.readouterr().err == (
            f"fedpretrain: {taken} exists; replace it with --overwrite true, or choose another name with --out\n"
        )
        assert taken.read_text() == "precious"
        taken.unlink()
    file.write_text("old")
    command([*words[1:], "--overwrite", "true"])
    assert safetensors.torch.load_file(file)


@pytest.mark.parametrize("name", [TENSORS, "README.safetensors"])
def test_the_encoders_own_files_are_never_replaced(folder: Path, name: str) -> None:
    with pytest.raises(InputError, match="is a file of the encoder"):
        command([str(folder), "--out", str(folder / name), "--overwrite", "true"])
    assert (folder / CARD).read_text() == CARD_TEXT


def test_out_must_end_in_safetensors(folder: Path) -> None:
    with pytest.raises(InputError, match=r"--out must name a \.safetensors file, got .*mine\.pt"):
        command([str(folder), "--out", str(folder / "mine.pt")])


def test_an_unknown_library_is_an_error_that_lists_the_known_ones(folder: Path) -> None:
    with pytest.raises(InputError, match="monai"):
        command([str(folder), "--to", "keras"])
