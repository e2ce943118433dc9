"""What a site remembers between visits, on its own disk, by the round that made it."""

from __future__ import annotations

import re
import zlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, runtime_checkable

import safetensors.torch
from safetensors import SafetensorError

from fedcore.errors import Refused
from fedcore.files.writing import sync, write_atomically
from fedcore.messages.request import Counted
from fedcore.messages.tensors import Tensors, for_safetensors

FOLDER = "memory"
_FILE = re.compile(r"(\d{5,})\.([0-9a-f]{8})\.safetensors")


@runtime_checkable
class Memory(Protocol):
    """A site cannot know whether its answer arrived and its round was committed: the server may have been killed, or
    have given it up as too slow. So the server says with each request which visit counted last, and the site continues
    from what it remembered then. That makes a resume exact on both sides."""

    def get(self, counted: Counted | None) -> Tensors:
        """What the site remembers of the visit that counted last."""

    def put(self, tensors: Tensors, turn: int, counted: Counted | None) -> None:
        """Remembers a visit of round `turn`, which may or may not count; older ones than `counted` are forgotten."""


@dataclass
class MemoryInRam:
    """For tests and benchmarks: nothing is written."""

    held: dict[int, Tensors] = field(default_factory=dict)

    def get(self, counted: Counted | None) -> Tensors:
        if counted is None or not counted.keeps:
            return {}
        if counted.round not in self.held:
            raise _forgotten(counted.round)
        return self.held[counted.round]

    def put(self, tensors: Tensors, turn: int, counted: Counted | None) -> None:
        kept = {counted.round} if counted else set()
        self.held = {at: of for at, of in self.held.items() if at in kept and at != turn}
        if tensors:
            self.held[turn] = tensors


@dataclass
class MemoryOnDisk:
    """Files `<round>.<CRC-32>.safetensors` in the site's own folder; the last two rounds are kept."""

    folder: Path
    durable: bool = False
    """Write to the disk before `put` returns. A simulation syncs all sites when it commits a round."""

    def get(self, counted: Counted | None) -> Tensors:
        """Raises Refused where what counts is missing or damaged."""
        if counted is None or not counted.keeps:
            return {}
        path = self._files().get(counted.round)
        if path is None:
            raise _forgotten(counted.round)
        data = path.read_bytes()
        found = _FILE.fullmatch(path.name)
        if found is None or f"{zlib.crc32(data):08x}" != found[2]:
            raise Refused(f"its memory of round {counted.round} is damaged; restore the site's folder from a backup")
        try:
            tensors: Tensors = safetensors.torch.load(data)
        except SafetensorError:
            raise Refused(f"its memory of round {counted.round} is not a safetensors file") from None
        return tensors

    def put(self, tensors: Tensors, turn: int, counted: Counted | None) -> None:
        old = self._files()
        if tensors:
            data = safetensors.torch.save(for_safetensors(tensors))
            path = self.folder / f"{turn:05d}.{zlib.crc32(data):08x}.safetensors"
            write_atomically(path, data, self.durable)
            if self.durable:
                sync(self.folder.parent)
            old = {at: file for at, file in old.items() if file != path}
        for at, file in old.items():
            if counted is None or at != counted.round or at == turn:
                file.unlink(missing_ok=True)

    def sync(self) -> None:
        """Everything is on the disk when this returns, the folders of site and sites too."""
        for path in self._files().values():
            sync(path)
        if self.folder.exists():
            for folder in (self.folder, *self.folder.parents[:2]):
                sync(folder)

    def _files(self) -> dict[int, Path]:
        """By round; of a round that was visited twice, after a crash, the later file."""
        found: dict[int, Path] = {}
        files = [path for path in self.folder.iterdir() if _FILE.fullmatch(path.name)] if self.folder.is_dir() else []
        for path in sorted((path for path in files if not path.is_symlink()), key=lambda path: path.stat().st_mtime_ns):
            found[int(path.name.partition(".")[0])] = path
        return found


def _forgotten(turn: int) -> Refused:
    return Refused(
        f"it has no record of its visit of round {turn}, which the server counted; restore the site's folder from "
        "a backup, or start the run again in another folder"
    )
