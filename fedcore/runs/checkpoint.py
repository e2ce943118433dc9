"""The server's state of a run on disk: its message, which visit of each site counts, and how far it has come.

A round is committed by replacing `state.json`, which names the file that counts and its checksum, says how much of
the run's record counts, and holds a digest of itself. What it names is on the disk before it is, and only then is
anything older removed: a process killed at any moment, or a machine without power, resumes at the last whole round.
Files of a round that was never committed are ignored. Everything is safetensors and JSON: reading it never runs code.

What sites remember lies at the sites (`fedcore.site.memory`).
"""

from __future__ import annotations

import hashlib
import json
import re
import zlib
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import safetensors.torch
from safetensors import SafetensorError

from fedcore.errors import InputError
from fedcore.files.reading import parse_json, read_utf8
from fedcore.files.writing import sync, write_atomically, write_json
from fedcore.messages.message import Message, flatten, leaves, unflatten
from fedcore.messages.request import Counted
from fedcore.messages.tensors import Tensors, for_safetensors

FORMAT = 3
_FILE = re.compile(r"\d{5,}/server\.safetensors")
"""What a state is made of; nothing else is read or removed."""
State = TypeVar("State", bound=Message)


@dataclass
class Checkpoint:
    """Keeps the server's state under `folder`."""

    folder: Path
    rounds: int = 0
    """Rounds that are committed."""
    server: dict[str, str] | None = None
    counted: dict[str, Counted] = field(default_factory=dict)
    """The last visit of each site that counts."""
    recorded: Recorded | None = None
    """How much of the run's record is committed."""

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
            index = parse_json(read_utf8(path))
            if index["format"] != FORMAT:
                raise InputError(
                    f"{path} has format {index['format']}, this version reads {FORMAT}; "
                    "resume it with the version that made it"
                )
            _require_entries(index)
            recorded = index["recorded"] and Recorded(**index["recorded"])
            counted = {site: Counted(*of) for site, of in index["counted"].items()}
            return cls(folder, index["rounds"], index["server"], counted, recorded)
        except (ValueError, KeyError, TypeError, AttributeError) as e:
            raise InputError(f"{path} is damaged ({type(e).__name__}); {_RESTART}") from e

    def restore(self, like: State) -> State:
        """The server's state in the shape of `like`, the state of a run that has just begun."""
        assert self.server is not None, "restore needs a committed round"
        tensors, wanted = self._read(self.server), flatten(like)
        # A file sorts its names; a digest of what a site sends (its audit file) is over tensors in their own order.
        state = unflatten(like, {name: tensors[name] for name in wanted if name in tensors} | tensors)
        _require_same_shapes({leaf.name: leaf.tensor for leaf in leaves(like) if not leaf.plain}, flatten(state))
        return state

    def commit(
        self, index: int, state: Message, recorded: Recorded | None = None, counted: Mapping[str, Counted] | None = None
    ) -> None:
        """Makes round `index` the one to resume from, then removes what no longer counts.

        Args:
            index: The round.
            state: The server's state after it.
            recorded: How much of the run's record counts from now on, already on the disk.
            counted: The last visit of each site that counts from now on; what the sites remember of it is on their
                disks.
        """
        server = self._write(f"{index:05d}/server.safetensors", flatten(state))
        for folder in (self.folder / f"{index:05d}", self.folder, self.folder.parent):
            sync(folder)
        visits = dict(self.counted if counted is None else counted)
        content = {"format": FORMAT, "rounds": index + 1, "server": server}
        content |= {"counted": {site: [of.round, of.keeps] for site, of in visits.items()}}
        content["recorded"] = recorded and vars(recorded)
        write_json(self.folder / "state.json", content | {"sha256": _digest(content)}, durable=True)
        self.rounds, self.server, self.counted, self.recorded = index + 1, server, visits, recorded
        self._prune()

    def _write(self, name: str, tensors: Tensors) -> dict[str, str]:
        data = safetensors.torch.save(for_safetensors(tensors))
        write_atomically(self.folder / name, data, durable=True)
        return {"file": name, "crc32": f"{zlib.crc32(data):08x}"}

    def _read(self, entry: dict[str, str]) -> Tensors:
        path = self.folder / entry["file"]
        try:
            data = path.read_bytes()
        except OSError as e:
            raise InputError(f"{path} cannot be read ({e.strerror}); {_RESTART}") from e
        if f"{zlib.crc32(data):08x}" != entry["crc32"]:
            raise InputError(f"{path} is corrupted or truncated ({len(data)} bytes, its checksum is wrong); {_RESTART}")
        try:
            tensors: Tensors = safetensors.torch.load(data)
        except SafetensorError as e:
            raise InputError(f"{path} is not a safetensors file; {_RESTART}") from e
        return tensors

    def _prune(self) -> None:
        """Removes states that no longer count, and what a killed process left of them; nothing behind a link."""
        keep = {self.server["file"]} if self.server else set()
        for folder in self.folder.iterdir():
            if folder.is_symlink() or not folder.is_dir():
                continue
            for path in folder.iterdir():
                name = f"{folder.name}/{path.name}"
                whole = re.sub(r"/\.(.+)\.part$", r"/\1", name)
                if name not in keep and _FILE.fullmatch(whole) and not path.is_symlink():
                    path.unlink(missing_ok=True)
            with suppress(OSError):
                folder.rmdir()  # only where nothing is left


@dataclass(frozen=True)
class Recorded:
    """How much of a file that grows is whole and known."""

    size: int
    """Bytes."""
    sha256: str

    @classmethod
    def of(cls, data: bytes) -> Recorded:
        return cls(len(data), hashlib.sha256(data).hexdigest())

    def fits(self, data: bytes) -> bool:
        """Whether `data` begins as it was, whatever was added."""
        return Recorded.of(data[: self.size]) == self


_RESTART = "restore the file from a backup, or start the run again in another folder"


def _digest(index: Mapping[str, Any]) -> str:
    """Of all that it says but the digest itself."""
    rest = {key: value for key, value in index.items() if key != "sha256"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()


def _require_entries(index: dict[str, Any]) -> None:
    """Raises ValueError, TypeError, KeyError or AttributeError where a part of the index is missing or has changed."""
    if not isinstance(index["rounds"], int):
        raise TypeError("rounds is not a whole number")
    if not _FILE.fullmatch(index["server"]["file"]):
        raise ValueError("not the file of a state")
    index["server"]["crc32"]
    for turn, keeps in index["counted"].values():
        if type(turn) is not int or type(keeps) is not bool:
            raise TypeError("a counted visit has no round")
    if index["sha256"] != _digest(index):
        raise ValueError("its digest does not fit")


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
