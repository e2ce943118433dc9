"""The whole deployment, as a new user tries it."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

pytest.importorskip("nvflare")

from fedcore.deployment.trial.command import try_deployment
from fedcore.errors import InputError


def test_bad_input_starts_nothing(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "file").touch()
    with pytest.raises(InputError, match="exists already"):
        try_deployment(out=tmp_path / "there")
    with pytest.raises(InputError, match="at least 2"):
        try_deployment(sites=1, out=tmp_path / "new")
    with pytest.raises(InputError, match="takes a recipe of pretrain"):
        try_deployment("pipeline_classify", out=tmp_path / "new")
    assert not (tmp_path / "new").exists()


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_server_and_two_sites_over_tls_equal_one_process(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "trial"
    assert try_deployment(out=out) == 0
    equal, count = map(int, re.search(r"(\d+) of (\d+) tensors equal", capsys.readouterr().out).groups())  # type: ignore[union-attr]
    assert equal == count > 100
    for name in ("hospital_1", "hospital_2"):
        (run,) = (out / name / "runs").iterdir()
        levels = {json.loads(line)["reveals"] for line in (run / "audit.jsonl").read_text().splitlines()}
        assert "SAMPLES" not in levels
    assert not list((out / "apart").glob("sites/*"))  # nothing of a site lies at the coordinator
