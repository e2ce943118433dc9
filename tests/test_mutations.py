"""Finished runs of six kinds with one thing changed: what is loaded is the same, or a clear error says what is wrong.

Never a traceback, never something else in silence. Texts that say nothing to a computer (cards, logs) are left alone.
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
from fedgen.generator_store import load_generator
from fedgen.releases.release import _audit
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
ASIDE = ("README.md", "report.html")
"""Files for people; and logs/."""
Loaded = dict[str, Any]


def tensors(named: dict[str, torch.Tensor]) -> dict[str, int]:
    return {name: zlib.crc32(t.contiguous().numpy().tobytes()) for name, t in named.items()}


def state(run: Path) -> Loaded:
    """As a resumed run finds it."""
    checkpoint = RunFolder(run)._committed_of(RunFolder(run).about().get("data"))
    server = checkpoint._read(checkpoint.server) if checkpoint.server else {}
    sites = {site: tensors(checkpoint.get(site)) for site in checkpoint.sites}
    return {"rounds": checkpoint.rounds, "server": tensors(server), "sites": sites}


def recipe(kind: str, run: Path) -> Loaded:
    about = RunFolder(run).finished()
    return {"about": about, "recipe": read_recipe(STAGES[kind], kind, [str(run / "recipe.yaml"), "--out", "x"]).text}


def networks(run: Path) -> Loaded:
    return {str(site): tensors(network.state_dict()) for site, network in classifiers_of(RunFolder(run)).items()}


def drawn(folder: Path) -> Loaded:
    """As a release reads it."""
    found = SyntheticSet.open(folder)
    audit = _audit(found, force=False)
    assert audit
    names = [(image.label, image.site_style) for image in found.images]
    pixels = zlib.crc32(found.pixels().numpy().tobytes())
    return {"pixels": pixels, "names": names, "settings": found.settings, "audit": audit.as_dict()}


def page(run: Path) -> Loaded:
    """What the page tells; where it says itself that something is wrong, that is a clear error."""
    write_report(run)
    found = read_run(run)
    if found.gaps:
        raise InputError(found.gaps[0])
    return {"run": repr(replace(found, folder=Path(), audits={}, answers=()))}


def loads(kind: str, run: Path) -> dict[str, Callable[[], Loaded]]:
    """What reads a folder of this kind, and returns what it read."""
    if kind == "set":
        return {"set": lambda: drawn(run)}
    both: dict[str, Callable[[], Loaded]] = {
        "state": lambda: state(run), "rounds": lambda: {"rounds": RunFolder(run).rounds()},
        "recipe": lambda: recipe(kind, run), "page": lambda: page(run),
    }  # fmt: skip
    if kind == "pretrain":
        return both | {"encoder": lambda: tensors(build_encoder(find_encoder(run)).state_dict())}
    if kind == "generator":
        return both | {"generator": lambda: tensors(load_generator(run / "generator").network.state_dict())}
    site = "hospital_1" if kind == "personal" else None
    return both | {
        "networks": lambda: networks(run),
        "model": lambda: {"columns": TrainedModel.load(RunFolder(run), site).columns},
    }


def mutate(file: Path, rng: random.Random) -> str:
    """Changes one file, and says how."""
    data = file.read_bytes()
    ways = ["flip", "cut", "empty", "swap", "grow", "gone"] + ["line", "value"] * (file.suffix in (".json", ".jsonl"))
    way = rng.choice(ways)
    at = rng.randrange(len(data)) if data else 0
    lines = data.splitlines(keepends=True)
    if way == "flip" and data:
        data = data[:at] + bytes([data[at] ^ 1 << rng.randrange(8)]) + data[at + 1 :]
    elif way == "cut":
        data = data[:at]
    elif way == "empty":
        data = b""
    elif way == "swap" and len(lines) > 1:
        one, other = rng.sample(range(len(lines)), 2)
        lines[one], lines[other] = lines[other], lines[one]
        data = b"".join(lines)
    elif way == "grow":
        data = data[:at] + rng.choice([b"\0", b"\xff", b"[" * 5000, b"1e999", b"nan", b"-", b'"', b"\n"]) + data[at:]
    elif way == "line" and lines:
        lines.pop(rng.randrange(len(lines)))
        data = b"".join(lines)
    elif way == "value":
        data = changed(data, rng)
    if way == "gone":
        file.unlink()
    else:
        file.write_bytes(data)
    return way


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
def test_a_changed_folder_is_the_same_or_an_error(tmp_path: Path) -> None:
    runs = finished(tmp_path / "made")
    before = {kind: {name: load() for name, load in loads(kind, runs[kind]).items()} for kind in KINDS}
    rng, counts, wrong = random.Random(SEED), Counter[str](), []
    for _ in range(COUNT):
        kind = rng.choice(KINDS)
        copy = Path(shutil.copytree(runs[kind], tmp_path / "copy" / kind))
        files = sorted(p for p in copy.rglob("*") if p.is_file() and p.name not in ASIDE and "logs" not in p.parts)
        file = rng.choice(files)
        way = mutate(file, rng)
        for name, load in loads(kind, copy).items():
            counts[what := outcome(load, before[kind][name])] += 1
            if what not in ("same", "clear"):
                wrong.append(f"{kind}/{file.relative_to(copy)} {way}, {name}: {what}")
        shutil.rmtree(copy)
    print(COUNT, SEED, counts)
    assert not wrong, "\n".join(wrong)
    assert counts["clear"] > COUNT / 10
