from __future__ import annotations

from pathlib import Path

import pytest

from fedcore.data.phantom.phantoms import Phantoms
from fedcore.data.source import Data
from fedcore.transport.read_images import read_images


def test_images_left_out_and_notes_are_printed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    manifest = Phantoms(sites=1, images_per_site=8).write(tmp_path / "phantoms", 32)
    broken = sorted((tmp_path / "phantoms" / "hospital_1").glob("*[0-9].png"))[0]
    broken.write_bytes(broken.read_bytes()[:60])
    cohort = read_images(Data(str(manifest), 32, on_error="skip", cache=tmp_path / "cache"))
    assert len(cohort.sites["hospital_1"]) == 7
    assert broken.name not in cohort.skipped[0]
    printed = capsys.readouterr().err.splitlines()
    assert printed[0] == "1 image left out; run.json and the report say which"
    assert printed[1:] == [f"note: {note}" for note in cohort.warnings]
