"""The folder of a run as it is read: what the run says of itself, its rounds, what its sites keep."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedcore.errors import InputError, Refused
from fedcore.files.checksums import read_sums, require_sums
from fedcore.files.reading import parse_json, read_utf8
from fedcore.files.writing import require_no_links
from fedcore.messages.request import Counted
from fedcore.messages.tensors import Tensors
from fedcore.runs.checkpoint import Checkpoint, Recorded
from fedcore.site.memory import FOLDER, MemoryOnDisk

KEPT = ("recipe.yaml", "environment.json", "rounds.jsonl", "scores.json", "state/state.json")
"""What a finished run has next to run.json, as far as it is there, and nobody writes any more."""
_CHANGED = (
    "copy the run's folder again, or resume the run until it has finished; to change values of its recipe, use "
    "options of the command and do not edit the file"
)


@dataclass
class RunRecord:
    """Reads what a run wrote, and checks what there is a checksum of."""

    path: Path

    def about(self) -> dict[str, Any]:
        """What `run.json` says; nothing where there is none.

        Raises:
            InputError: It is damaged.
        """
        path = self.path / "run.json"
        with intact(path):
            content: dict[str, Any] = {**parse_json(read_utf8(path))} if path.exists() else {}
        return content

    def finished(self) -> dict[str, Any]:
        """What `run.json` of a finished run says, once it is known that all of `KEPT` is as the run left it.

        Raises:
            InputError: The run has not finished, what it says of itself is missing or has changed, or a part of it is
                a symbolic link.
        """
        require_no_links(self.path)
        if (status := self.about().get("status", "missing")) != "finished":
            raise InputError(f"{self.path} holds a run that is {status}; resume it until it has finished")
        noted = read_sums(self.path, f"so the run cannot be checked; {_CHANGED}")
        # state/ may be removed once the run has finished.
        wanted = {"run.json", "recipe.yaml", *noted} - {"state/state.json"}
        kept = [name for name in ("run.json", *KEPT) if name in wanted or (self.path / name).exists()]
        require_sums(self.path, kept, _CHANGED)
        return self.about()

    def memories(self) -> SiteMemories:
        """What the sites of a finished run keep to themselves, where they lie in this run's folder.

        Raises:
            InputError: As `finished`.
        """
        return SiteMemories(self, self.counted())

    def counted(self) -> dict[str, Counted]:
        """The last visit that counts, of each site of a finished run that remembers something. Raises as `finished`."""
        about = self.finished()
        with intact(self.path / "run.json"):
            return {site: Counted(int(turn), True) for site, turn in about.get("memories", {}).items()}

    def rounds(self) -> list[dict[str, Any]]:
        """The rounds on record; a line cut short by a killed process is left out.

        Raises:
            InputError: Another line is damaged, or what was committed has been lost or changed.
        """
        self.require_committed()
        with intact(self.rounds_path):
            content = content_of(self.rounds_path)
            records = [parse_json(line.decode()) for line in content.splitlines(keepends=True) if line.endswith(b"}\n")]
            if not all("round" in record for record in records):
                raise ValueError("a line names no round")
        return records

    def require_committed(self) -> None:
        """Raises InputError where the record of rounds lacks lines that were committed, or has others."""
        committed = self.committed()  # first: a run that goes writes it last
        with intact(self.rounds_path):
            content = content_of(self.rounds_path)
        if committed and not committed.fits(content):
            raise InputError(
                f"{self.rounds_path} was changed or lost lines after it was written; "
                "restore it from a backup, or choose another --out"
            )

    def committed(self) -> Recorded | None:
        """How much of the record of rounds counts, as the state says, or a finished run; None where none does.

        Raises:
            InputError: State or run.json are damaged.
        """
        if recorded := Checkpoint.open(self.path / "state").recorded:
            return recorded
        recorded = self.about().get("recorded")
        with intact(self.path / "run.json"):
            return Recorded(**recorded) if recorded else None

    @property
    def rounds_path(self) -> Path:
        return self.path / "rounds.jsonl"

    def site(self, name: str) -> Path:
        """The site's own folder."""
        return self.path / "sites" / name


@dataclass(frozen=True)
class SiteMemories:
    """The memories of all sites of a simulation."""

    run: RunRecord
    counted: dict[str, Counted]
    """The last visit that counts, of each site that remembers something."""

    def get(self, site: str) -> Tensors:
        """Raises InputError where what the site keeps to itself is missing or damaged."""
        try:
            return MemoryOnDisk(self.run.site(site) / FOLDER).get(self.counted.get(site))
        except Refused as e:
            raise InputError(f"{self.run.path}: the tensors that stay at {site} are missing: {e}; {_CHANGED}") from e


def content_of(path: Path) -> bytes:
    return path.read_bytes() if path.exists() else b""


@contextmanager
def intact(path: Path) -> Iterator[None]:
    """What goes wrong while a file of the run is read becomes an InputError that names it."""
    try:
        yield
    except (OSError, ValueError, TypeError) as e:
        raise InputError(
            f"{path} is missing or damaged ({type(e).__name__}); restore it from a backup, or choose another --out"
        ) from e
