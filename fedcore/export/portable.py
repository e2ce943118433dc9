"""An encoder for another library: tensors under its names, and the Python lines that load them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Literal

from fedcore.messages.tensors import Tensors

Library = Literal["monai", "timm", "torchvision"]


@dataclass(frozen=True)
class Portable:
    """Weights, and lines that build a model; it loads them with `strict=True` and has equal outputs."""

    tensors: Tensors
    imports: tuple[str, ...]
    """Lines of Python, besides the import of safetensors."""
    build: tuple[str, ...]
    """Lines of Python that assign the untrained model to `model`."""
    width: int
    """Length of a feature."""
    notes: tuple[str, ...] = ()
    """Further sentences for the user of the model."""

    def snippet(self, file: str) -> str:
        """Python that builds the model, loads `file` into it and puts it in evaluation mode."""
        lines = [
            *self.imports,
            "from safetensors.torch import load_file",
            "",
            *self.build,
            f"model.load_state_dict(load_file({json.dumps(file, ensure_ascii=False)}))",
            f"model.eval()  # model(images) is (n, {self.width})",
        ]
        return "\n".join(lines)
