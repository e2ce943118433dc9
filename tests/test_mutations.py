"""Finished runs of six kinds with one change: what is loaded is the same, or a clear error names what is wrong.

Never a traceback, and never other content without an error. Texts for people (cards, logs) are not changed.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import zlib
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from fedcore.config.recipe import read_recipe
from fedcore.errors import InputError
from fedcore.models.encoder_store import build_encoder, find_encoder
from fedcore.report import write_report
from fedcore.report.read.reader import read_run
from fedcore.runs.classifiers import classifiers_of
from fedcore.runs.folder import RunFolder
from fedcore.runs.record import SiteMemories
from fedgen.generator_store import load_generator
from fedgen.releases.release import _read_record
from fedgen.synthetic.synthetic_set import SyntheticSet
from fedgen.training import train
from fedssl.pretraining import pretrain
from fedtune.classification.finetuning import finetune
from fedtune.prediction.predict import TrainedModel
from fedtune.segmentation.training import segment
from tests.runs import KINDS, finished

COUNT, SEED = int(os.environ.get("FEDPRETRAIN_MUTATIONS", "200")), int(os.environ.get("FEDPRETRAIN_SEED", "12"))
STAGES: dict[str, Any] = {
    "pretrain": pretrain,
    "finetune": finetune,
    "personal": finetune,
    "segment": segment,
    "generator": train,
}
FOR_PEOPLE = ("README.md", "report.html", "page.html")
"""Not changed, nor is logs/."""
Loaded = dict[str, Any]


def tensors(named: dict[str, torch.Tensor]) -> dict[str, int]:
    return {name: zlib.crc32(t.contiguous().numpy().tobytes()) for name, t in named.items()}


def state(run: Path) -> Loaded:
    """As a resumed run finds it."""
    checkpoint = RunFolder(run)._committed_of(RunFolder(run).about().get("data"))
    server = checkpoint._read(checkpoint.server) if checkpoint.server else {}
    memories = SiteMemories(RunFolder(run), checkpoint.counted)
    sites = {site: tensors(memories.get(site)) for site in checkpoint.counted}
    return {"rounds": checkpoint.rounds, "server": tensors(server), "sites": sites}


def recipe(kind: str, run: Path) -> Loaded:
    about = RunFolder(run).finished()
    return {"about": about, "recipe": read_recipe(STAGES[kind], kind, [str(run / "recipe.yaml"), "--out", "x"]).text}


def networks(run: Path) -> Loaded:
    return {str(site): tensors(network.state_dict()) for site, network in classifiers_of(RunFolder(run)).items()}


def synthetic_set(folder: Path) -> Loaded:
    """As a release reads it."""
    found = SyntheticSet.open(folder)
    record = _read_record(found, force=False)
    assert record
    names = [(image.label, image.site_style) for image in found.images]
    pixels = zlib.crc32(found.pixels().numpy().tobytes())
    return {"pixels": pixels, "names": names, "settings": found.settings, "audit": record.as_dict()}


def page(run: Path) -> Loaded:
    """The data of the page; a gap that the page names is a clear error."""
    write_report(run)
    found = read_run(run)
    if found.gaps:
        raise InputError(found.gaps[0])
    return {"run": repr(replace(found, folder=Path(), audit_logs={}, answers=()))}


def loads(kind: str, run: Path) -> dict[str, Callable[[], Loaded]]:
    """By name, the functions that read a folder of this kind."""
    if kind == "set":
        return {"set": lambda: synthetic_set(run)}
    common: dict[str, Callable[[], Loaded]] = {
        "state": lambda: state(run), "rounds": lambda: {"rounds": RunFolder(run).rounds()},
        "recipe": lambda: recipe(kind, run), "page": lambda: page(run),
    }  # fmt: skip
    if kind == "pretrain":
        return common | {"encoder": lambda: tensors(build_encoder(find_encoder(run)).state_dict())}
    if kind == "generator":
        return common | {"generator": lambda: tensors(load_generator(run / "generator").network.state_dict())}
    site = "hospital_1" if kind == "personal" else None
    return common | {
        "networks": lambda: networks(run),
        "model": lambda: {"columns": TrainedModel.load(RunFolder(run), site).columns},
    }


def mutate(file: Path, rng: random.Random) -> str:
    """Changes one file, and returns the kind of change."""
    data = file.read_bytes()
    changes = ["flip", "cut", "empty", "swap", "grow", "gone"] + ["line", "value"] * (
        file.suffix in (".json", ".jsonl")
    )
    change = rng.choice(changes)
    at = rng.randrange(len(data)) if data else 0
    lines = data.splitlines(keepends=True)
    if change == "flip" and data:
        data = data[:at] + bytes([data[at] ^ 1 << rng.randrange(8)]) + data[at + 1 :]
    elif change == "cut":
        data = data[:at]
    elif change == "empty":
        data = b""
    elif change == "swap" and len(lines) > 1:
        one, other = rng.sample(range(len(lines)), 2)
        lines[one], lines[other] = lines[other], lines[one]
        data = b"".join(lines)
    elif change == "grow":
        data = data[:at] + rng.choice([b"\0", b"\xff", b"[" * 5000, b"1e999", b"nan", b"-", b'"', b"\n"]) + data[at:]
    elif change == "line" and lines:
        lines.pop(rng.randrange(len(lines)))
        data = b"".join(lines)
    elif change == "value":
        data = changed(data, rng)
    if change == "gone":
        file.unlink()
    else:
        file.write_bytes(data)
    return change


def changed(data: bytes, rng: random.Random) -> bytes:
    """JSON with one value replaced."""
    line, *more = data.splitlines(keepends=True) if b"}\n{" in data else [data]
    tree = json.loads(line)
    node: Any = tree
    while True:
        places = list(node) if isinstance(node, dict) else range(len(node))
        if not places:
            break
        place = rng.choice(places)
        if isinstance(node[place], dict | list) and node[place] and rng.random() < 0.7:
            node = node[place]
            continue
        node[place] = rng.choice([None, -1, 10**20, "x", [], {}, 1.5, True, [1] * 9, {"x": {"y": 1}}])
        break
    return b"".join([json.dumps(tree).encode() + b"\n" * bool(more), *more])


def outcome(load: Callable[[], Loaded], before: Loaded) -> str:
    try:
        return "same" if load() == before else "other"
    except InputError:
        return "clear"
    except Exception as e:
        return f"traceback: {type(e).__name__}"


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_a_changed_folder_is_read_as_before_or_is_a_clear_error(tmp_path: Path) -> None:
    runs = finished(tmp_path / "made")
    before = {kind: {name: load() for name, load in loads(kind, runs[kind]).items()} for kind in KINDS}
    rng, counts, wrong = random.Random(SEED), Counter[str](), []
    for _ in range(COUNT):
        kind = rng.choice(KINDS)
        copy = Path(shutil.copytree(runs[kind], tmp_path / "copy" / kind))
        files = sorted(p for p in copy.rglob("*") if p.is_file() and p.name not in FOR_PEOPLE and "logs" not in p.parts)
        file = rng.choice(files)
        change = mutate(file, rng)
        for name, load in loads(kind, copy).items():
            counts[result := outcome(load, before[kind][name])] += 1
            if result not in ("same", "clear"):
                wrong.append(f"{kind}/{file.relative_to(copy)} {change}, {name}: {result}")
        shutil.rmtree(copy)
    print(COUNT, SEED, counts)
    assert not wrong, "\n".join(wrong)
    assert counts["clear"] > COUNT / 10
