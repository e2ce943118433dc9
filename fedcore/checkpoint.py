"""The state of a run on disk: the server's message, the sites' memories, and how far it has come.

A round is committed by replacing `state.json`, which names every file that counts and its checksum.
Files of a round that was never committed are ignored, so a process killed at any moment resumes at
the last whole round. Everything is safetensors and JSON: reading it never runs code.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import safetensors.torch
from safetensors import SafetensorError

from fedcore.errors import InputError
from fedcore.files import write_atomically, write_json
from fedcore.message import Message, Tensors, flatten, unflatten
from fedcore.reading import json_of, text_of
from fedcore.site import Round

FORMAT = 1
State = TypeVar("State", bound=Message)


@dataclass
class Checkpoint:
    """Keeps a run's state under `folder`; it is also the `Memories` of the sites.

    In this process the sites' memories lie in the run's folder; where a site runs by itself, they
    lie there.
    """

    folder: Path
    rounds: int = 0
    """Rounds that are committed."""
    server: dict[str, str] | None = None
    sites: dict[str, dict[str, str]] = field(default_factory=dict)
    _pending: dict[str, dict[str, str]] = field(default_factory=dict)

    @classmethod
    def open(cls, folder: Path) -> Checkpoint:
        """Reads what was committed; a folder without a state gives round 0.

        Raises:
            InputError: `state.json` is damaged or of another format.
        """
        path = folder / "state.json"
        if not path.exists():
            return cls(folder)
        try:
            index = json_of(text_of(path))
            if index["format"] != FORMAT:
                raise InputError(
                    f"{path} has format {index['format']}, this version reads {FORMAT}; "
                    "resume it with the version that made it"
                )
            _require_entries(index)
            return cls(folder, index["rounds"], index["server"], index["sites"])
        except (ValueError, KeyError, TypeError, AttributeError) as e:
            raise InputError(f"{path} is damaged ({type(e).__name__}); {_RESTART}") from e

    def restore(self, like: State) -> State:
        """The server's state in the shape of `like`, the state of a run that has just begun."""
        assert self.server is not None, "restore needs a committed round"
        tensors = self._read(self.server)
        state = unflatten(like, tensors)
        _require_same_shapes(flatten(like), flatten(state))
        return state

    def get(self, site: str) -> Tensors:
        """The site's memory as its last visit left it, committed or not: a survey asks within the round."""
        entry = self._pending.get(site) or self.sites.get(site)
        return self._read(entry) if entry else {}

    def put(self, site: str, memory: Tensors, turn: Round) -> None:
        if memory or site in self.sites:
            self._pending[site] = self._write(f"{turn.index:05d}/site-{site}.safetensors", memory)

    def commit(self, index: int, state: Message) -> None:
        """Makes round `index` the one to resume from, then removes what no longer counts."""
        server = self._write(f"{index:05d}/server.safetensors", flatten(state), durable=True)
        sites = self.sites | self._pending
        content: dict[str, Any] = {"format": FORMAT, "rounds": index + 1, "server": server, "sites": sites}
        write_json(self.folder / "state.json", content, durable=True)
        self.rounds, self.server, self.sites, self._pending = index + 1, server, sites, {}
        self._prune()

    def _write(self, name: str, tensors: Tensors, durable: bool = False) -> dict[str, str]:
        data = safetensors.torch.save({k: t.detach().cpu().contiguous() for k, t in tensors.items()})
        write_atomically(self.folder / name, data, durable)
        return {"file": name, "crc32": f"{zlib.crc32(data):08x}"}

    def _read(self, entry: dict[str, str]) -> Tensors:
        path = self.folder / entry["file"]
        try:
            data = path.read_bytes()
        except OSError as e:
            raise InputError(f"{path} cannot be read ({e.strerror}); {_RESTART}") from e
        if f"{zlib.crc32(data):08x}" != entry["crc32"]:
            raise InputError(
                f"{path} is corrupted or truncated ({len(data)} bytes, its checksum does not fit); {_RESTART}"
            )
        try:
            tensors: Tensors = safetensors.torch.load(data)
        except SafetensorError as e:
            raise InputError(f"{path} is no safetensors file; {_RESTART}") from e
        return tensors

    def _prune(self) -> None:
        keep = {entry["file"] for entry in [self.server, *self.sites.values()] if entry}
        for path in self.folder.glob("*/*.safetensors"):
            if path.relative_to(self.folder).as_posix() not in keep:
                path.unlink(missing_ok=True)
        for folder in self.folder.iterdir():
            if folder.is_dir() and not any(folder.iterdir()):
                folder.rmdir()


_RESTART = "restore the file from a backup, or start the run again in another folder"


def _require_entries(index: dict[str, Any]) -> None:
    """Raises TypeError, KeyError or AttributeError where a part of the index is missing or of another kind."""
    if not isinstance(index["rounds"], int):
        raise TypeError("rounds is no whole number")
    for entry in (index["server"], *index["sites"].values()):
        entry["file"], entry["crc32"]


def _require_same_shapes(expected: Tensors, found: Tensors) -> None:
    differing = [
        f"{k}: {tuple(found[k].shape) if k in found else 'missing'} instead of {tuple(t.shape)}"
        for k, t in expected.items()
        if k not in found or found[k].shape != t.shape
    ]
    if differing:
        raise InputError(
            f"the checkpoint was made by another architecture ({len(differing)} tensors differ, e.g. "
            f"{differing[0]}); resume with the recipe the run was started with"
        )
