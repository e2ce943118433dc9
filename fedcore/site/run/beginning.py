"""How a run began at a site: it goes on with the same recipe and the same images, or not at all."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from fedcore.errors import InputError, Refused
from fedcore.files.reading import read_json
from fedcore.files.writing import write_json

_FILE = "beginning.json"


@dataclass(frozen=True)
class Beginning:
    """`beginning.json` in the site's folder of the run."""

    folder: Path

    def require_recipe(self, digest: str) -> None:
        """Raises Refused where the run began with another recipe."""
        self._require(
            "recipe", digest, "this run began with another recipe at this site; start it again in another folder"
        )

    def require_images(self, digest: str) -> None:
        """Raises Refused where the run began with other images."""
        self._require(
            "images", digest,
            "its images, or how they are read, have changed since the run began; restore them at the site, or start "
            "the run again in another folder",
        )  # fmt: skip

    def _require(self, key: str, value: str, error: str) -> None:
        """Notes the value if there is none yet."""
        path = self.folder / _FILE
        try:
            noted = read_json(path) if path.exists() else {}
        except InputError as e:
            raise Refused("its notes of how the run began are damaged; restore its folder from a backup") from e
        if key not in noted:
            write_json(path, noted | {key: value}, durable=True)
        elif noted[key] != value:
            raise Refused(error)
