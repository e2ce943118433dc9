"""The real command, killed as by a power cut in the middle of a round."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch

from fedcore.cli import main as cli
from fedcore.runs.checkpoint import Checkpoint
from tests.fedcore.federating import same

RECIPE = """
encoder: {class_path: fedcore.models.resnet.ResNet, init_args: {depth: 10, stem: 8}}
method:
  class_path: fedssl.methods.moco.MoCo
  init_args: {bank_size: 64, remote_bank_size: 64, hidden_dim: 16, projection_dim: 16}
data: {size: 32, phantom: {images_per_site: 24, sites: 3}}
exchange:
  class_path: fedssl.bank.vectors.ShareVectors
  init_args: {upload_size: 16, remote_features: 24, encoding: int8}
policy: {max_level: FEATURES}
visit: {batch_size: 8, keep_optimizer: true, accelerator: cpu}
rounds: {count: 3}
"""

KILLED = """
import os, signal, sys, torch
from fedcore.site.memory import MemoryOnDisk
from fedcore.cli.main import main

put, visits, torch_threads = MemoryOnDisk.put, [], torch.set_num_threads(1)

def fatal(self, tensors, turn, counted):
    put(self, tensors, turn, counted)
    visits.append(turn)
    if visits.count(1) == 2:
        os.kill(os.getpid(), signal.SIGKILL)

MemoryOnDisk.put = fatal
main(sys.argv[1:])
"""


def pretrain(out: Path, *words: str) -> None:
    with pytest.raises(SystemExit) as caught:
        cli.main(["pretrain", str(out.parent / "mine.yaml"), "--out", str(out), *words])
    assert caught.value.code == 0


def tensors(run: Path) -> dict[str, Any]:
    files = [*(run / "state").rglob("*.safetensors"), *(run / "sites").rglob("*.safetensors")]
    files.append(run / "encoder" / "encoder.safetensors")
    return {str(p.relative_to(run)): safetensors.torch.load_file(p) for p in files}


def told(run: Path) -> list[Any]:
    rounds = [json.loads(line) for line in (run / "rounds.jsonl").read_text().splitlines()]
    sites = [{name: {**site, "seconds": 0} for name, site in r["sites"].items()} for r in rounds]
    return [{**r, "seconds": 0, "sites": s} for r, s in zip(rounds, sites, strict=True)]


@pytest.mark.slow
def test_a_killed_pretraining_resumes_to_the_bit(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(RECIPE)
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    words = [sys.executable, "-c", KILLED, "pretrain", str(tmp_path / "mine.yaml"), "--out", str(parts)]
    root, environment = Path(cli.__file__).parents[1], os.environ | {"OMP_NUM_THREADS": "1"}
    child = subprocess.Popen(words, cwd=root, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    pretrain(whole)
    _, error = child.communicate(timeout=120)
    assert child.returncode == -signal.SIGKILL, error.decode()
    assert len(told(parts)) == 1
    assert len(list((parts / "sites").glob("*/memory/00001.*"))) == 2  # written, never committed
    assert Checkpoint.open(parts / "state").rounds == 1
    assert json.loads((parts / "run.json").read_text())["status"] == "running"

    pretrain(parts, "--resume", "true")
    expected, found = tensors(whole), tensors(parts)
    assert expected.keys() == found.keys()
    assert len(expected) == 2 * 3 + 1 + 1  # the last two memories of each site, server, encoder
    assert all(same(found[name], expected[name]) for name in expected)
    (last,) = [name for name in found if name.startswith("sites/hospital_1/memory/00002.")]
    assert any(name.startswith("optimizer/") for name in found[last])
    assert told(parts) == told(whole)
    assert json.loads((parts / "run.json").read_text())["status"] == "finished"
