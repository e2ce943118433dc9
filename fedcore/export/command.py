"""`fedpretrain export`: an encoder's weights for another library with code that loads them, or a model as ONNX."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import safetensors.torch

from fedcore.config.arguments import call
from fedcore.errors import InputError
from fedcore.export.densenet import portable_densenet
from fedcore.export.onnx import TASKS, export_onnx
from fedcore.export.portable import Library, Portable
from fedcore.export.resnet import portable_resnet
from fedcore.export.vit import portable_vit
from fedcore.files.writing import require_no_links, write_atomically
from fedcore.messages.tensors import for_safetensors
from fedcore.models.base import Encoder
from fedcore.models.densenet import DenseNet
from fedcore.models.encoder_store import CARD, TENSORS, build_encoder, encoder_config, find_encoder
from fedcore.models.resnet import ResNet
from fedcore.models.vit import ViT
from fedcore.runs.folder import RunFolder


def export(
    run: Path, to: Literal["monai", "timm", "torchvision", "onnx"] = "monai", out: Path | None = None,
    overwrite: bool = False, site: str | None = None,
) -> None:  # fmt: skip
    """Write an encoder's weights for another library, or a classifier or segmenter as ONNX, and print how to use them.

    Args:
        run: a finished pretraining run or an encoder's folder; for onnx a finished finetune or segment run.
        to: library whose unchanged model loads the weights, or onnx.
        out: file to write, NAME.safetensors or NAME.onnx; by default in the folder of the encoder or model.
        overwrite: whether existing files may be replaced.
        site: for onnx, the site whose model is exported, where each site has its own.
    """
    if to == "onnx":
        _export_onnx(RunFolder(run), out, overwrite, site)
        return
    if site is not None:
        raise InputError("--site is for --to onnx only; to export a site's encoder give RUN/sites/SITE/encoder")
    folder = find_encoder(run)
    if out is None:
        require_no_links(run)
    file = out or folder / f"{to}.safetensors"
    _require_free(file, folder, overwrite)
    made = portable(build_encoder(folder), to, tuple(encoder_config(folder).get("size", ())))
    write_atomically(file, safetensors.torch.save(for_safetensors(made.tensors), {"format": "pt"}))
    write_atomically(file.with_suffix(".md"), _page(made, folder, to, file.name).encode())
    print(f"{file}\n{file.with_suffix('.md')}\n\n{made.snippet(str(file))}\n\n{_usage(made, folder)}")


def _export_onnx(run: RunFolder, out: Path | None, overwrite: bool, site: str | None) -> None:
    about = run.about()
    if str(about.get("command")) not in TASKS or about.get("status") != "finished":
        raise InputError(f"--to onnx needs a finished finetune or segment run, and {run.path} holds none")
    run.finished()
    kind = TASKS[about["command"]]
    file = out or run.path / kind / f"{kind}.onnx"
    if file.suffix != ".onnx":
        raise InputError(f"--out must name a .onnx file, got {file}")
    if file.exists() and not overwrite:
        raise InputError(f"{file} exists; replace it with --overwrite true, or choose another name with --out")
    print(f"{file}\n\n{export_onnx(run, file, site)}")


def portable(encoder: Encoder, to: Library, size: tuple[int, ...] = ()) -> Portable:
    """Weights and code of `encoder` for the library `to`; the encoder was trained on images of `size`.

    Raises:
        InputError: The library has no such network.
    """
    if isinstance(encoder, ResNet):
        return portable_resnet(encoder, to)
    if isinstance(encoder, DenseNet):
        return portable_densenet(encoder, to)
    if isinstance(encoder, ViT):
        return portable_vit(encoder, to, size)
    raise InputError(
        f"export does not support {type(encoder).__name__}; in Python, load it with "
        "fedcore.models.encoder_store.build_encoder"
    )


def command(arguments: Sequence[str]) -> None:
    """`fedpretrain export RUN --to LIBRARY`."""
    call(export, "export", arguments)


def _require_free(file: Path, folder: Path, overwrite: bool) -> None:
    """Raises InputError if `file` does not end in .safetensors, exists, or is the encoder's own."""
    if file.suffix != ".safetensors":
        raise InputError(f"--out must name a .safetensors file, got {file}")
    page = file.with_suffix(".md")
    if {file.resolve(), page.resolve()} & {(folder / name).resolve() for name in (TENSORS, CARD)}:
        raise InputError(f"{file} or its page {page.name} is a file of the encoder; choose another name with --out")
    if existing := [path for path in (file, page) if path.exists() and not overwrite]:
        raise InputError(f"{existing[0]} exists; replace it with --overwrite true, or choose another name with --out")


def _page(made: Portable, folder: Path, to: Library, file: str) -> str:
    card = folder / CARD
    source = _without_front_matter(card.read_text(encoding="utf-8")) if card.is_file() else "It has no model card.\n"
    return f"""# {file}: a pretrained encoder for {to}

```python
{made.snippet(file)}
```

{_usage(made, folder)}

The model card of the exported encoder follows.

---

{source}"""


def _usage(made: Portable, folder: Path) -> str:
    """Input of the model and further notes, one per line."""
    config = encoder_config(folder)
    size = " x ".join(map(str, config.get("size", ()))) or "any number of"
    channels = config["init_args"].get("channels", 1)
    kind = "grey" if channels == 1 else f"{channels} channels"
    lines = (
        f"Images: float32, {kind}, channels first, {size} pixels as in training.",
        "Intensities: in [-1, 1], scaled as the encoder's card says.",
        *made.notes,
    )
    return "\n".join(f"- {line}" for line in lines)


def _without_front_matter(text: str) -> str:
    return re.sub(r"\A---\n.*?\n---\n+", "", text, flags=re.DOTALL)
