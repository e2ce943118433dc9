"""What another library needs of an encoder: tensors under its names, and the lines that load them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Literal

from fedcore.messages.message import Tensors

Library = Literal["monai", "timm", "torchvision"]


@dataclass(frozen=True)
class Portable:
    """Weights that the model built by `imports` and `build` loads with `strict=True`, outputs equal."""

    tensors: Tensors
    imports: tuple[str, ...]
    """Lines of Python; torch and safetensors are imported anyway."""
    build: tuple[str, ...]
    """Lines of Python that name the untrained model `model`."""
    width: int
    """Length of a feature."""
    notes: tuple[str, ...] = ()
    """Sentences a user of the model must know besides."""

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
