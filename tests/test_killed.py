"""Commands killed at any moment, and in the middle of a write, end as if nothing had happened."""

from __future__ import annotations

import json
import random
import re
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from fedcore.runs.folder import essence
from tests.killing import KILLED, Commands, Kill

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3000)]

DATA = """
data: {size: 32, phantom: {images_per_site: 16, sites: 2}}
visit: {batch_size: 8, keep_optimizer: true, accelerator: cpu}
rounds: {count: 4}
"""
STEM = "{class_path: fedcore.models.resnet.ResNet, init_args: {depth: 10, stem: 8}}"
UNET = "{class_path: fedgen.diffusion.unet.UNet, init_args: {widths: [8, 16]}}"
GENERATOR_NETWORK = "{class_path: fedgen.gan.generator_network.GeneratorNetwork, init_args: {widths: [8, 16]}}"
DISCRIMINATOR = "{class_path: fedgen.gan.discriminator.Discriminator, init_args: {widths: [8, 16]}}"
RECIPES = {
    "pretrain": f"""{DATA}
encoder: {STEM}
method:
  class_path: fedssl.methods.moco.MoCo
  init_args: {{bank_size: 64, remote_bank_size: 64, hidden_dim: 16, projection_dim: 16}}
exchange:
  class_path: fedssl.bank.vectors.ShareVectors
  init_args: {{upload_size: 16, remote_features: 24, encoding: int8}}
policy: {{max_level: FEATURES}}
""",
    "finetune": f"""{DATA}
policy: {{min_patients: 1}}
encoder: {STEM}
algorithm: {{class_path: fedcore.algorithms.scaffold.Scaffold}}
""",
    "segment": f"""{DATA}
policy: {{min_patients: 1}}
network:
  class_path: fedtune.segmentation.networks.EncoderUNet
  init_args: {{encoder: {STEM}, decoder_channels: [8, 8, 8, 8, 8]}}
""",
    "diffusion": f"""{DATA}
generator: {{class_path: fedgen.diffusion.diffusion.Diffusion, init_args: {{network: {UNET}}}}}
""",
    "gan": f"""{DATA.replace("keep_optimizer: true, ", "")}
generator:
  class_path: fedgen.gan.gan.GAN
  init_args: {{generator_network: {GENERATOR_NETWORK}, discriminator: {DISCRIMINATOR}}}
""",
    "pipeline": f"""
shared:
  data.size: 32
  data.phantom: {{images_per_site: 16, sites: 2}}
  visit.batch_size: 8
  visit.accelerator: cpu
  rounds.count: 2
  policy.min_patients: 1
steps:
  pretrained: {{do: pretrain simclr, encoder: {STEM}}}
  tuned: {{do: finetune classify, encoder: {STEM}, pretrained: "{{pretrained}}"}}
""",
}
KILLS = {"pretrain": 7, "finetune": 4, "segment": 4, "diffusion": 5, "gan": 5, "sample": 4, "pipeline": 5}


@pytest.fixture(scope="module")
def commands(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Commands]:
    """In a folder that holds the recipes, and the generator that `sample` draws from."""
    folder = tmp_path_factory.mktemp("killed")
    for name, text in RECIPES.items():
        (folder / f"{name}.yaml").write_text(text)
    commands = Commands(folder)
    assert commands(["generate", "train", "diffusion.yaml", "--out", "generator"]).code == 0, commands.log()
    yield commands
    commands.close()


def words_of(kind: str) -> list[str]:
    match kind:
        case "sample":
            return ["generate", "sample", "generator", "out", "--count", "24", "--steps", "2", "--batch_size", "4"]
        case "pipeline":
            return ["run", "pipeline.yaml", "--out", "out"]
        case "diffusion" | "gan":
            return ["generate", "train", f"{kind}.yaml", "--out", "out"]
    return [kind, f"{kind}.yaml", "--out", "out"]


@pytest.mark.parametrize("kind", KILLS)
def test_a_killed_command_resumes_to_the_bit(commands: Commands, kind: str) -> None:
    words, out, chance = words_of(kind), commands.folder / "out", random.Random(kind)
    shutil.rmtree(out, ignore_errors=True)
    whole = commands(words)
    assert whole.code == 0, commands.log()
    expected = results(out)
    assert expected
    resumed = words if kind == "pipeline" else [*words, "--resume", "true"]
    committed = 0
    for number in range(KILLS[kind]):
        shutil.rmtree(out)
        if number % 2:
            kill = Kill(write=chance.randint(1, whole.writes), part=chance.choice((0.0, 0.3, 0.9, 1.0)))
        else:
            kill = Kill(after=chance.uniform(0.2, 0.95) * whole.seconds)
        ended = commands(words, kill)
        assert ended.code == KILLED or (kill.after and ended.code == 0), (kill, commands.log())
        committed += any(out.rglob("state.json"))
        assert commands(resumed).code == 0, (kill, commands.log())
        assert results(out) == expected, kill
        assert not [*out.rglob("*.part"), *out.rglob(".lock")], kill
    print(f"{kind}: {KILLS[kind]} killed, {committed} after a committed round")


@dataclass(frozen=True)
class Content:
    """What a file says; two are equal where only clocks differ."""

    told: Any


PAGES = ("report.html", "page.html")
"""Written from the other files; they show times."""


def results(out: Path) -> dict[str, Content]:
    """Everything that a command wrote, but its own address and clock."""
    files = [path for path in sorted(out.rglob("*")) if path.is_file() and path.name not in (*PAGES, ".lock")]
    return {str(path.relative_to(out)): Content(_content(path)) for path in files}


CLOCKED = ("recipe.yaml", "environment.json", "run.json", "rounds.jsonl", "state.json")


def _content(path: Path) -> Any:
    match path.name:
        case "recipe.yaml":
            return essence(path.read_text())
        case "environment.json" | "run.json" | "pipeline.json" | "state.json":
            return _timeless(json.loads(path.read_text()))
        case "rounds.jsonl":
            return [_timeless(json.loads(line)) for line in path.read_text().splitlines()]
        case "audit.jsonl" | "answers.jsonl":  # what was cut off is done again, and its answers are sent again
            told = map(json.loads, path.read_text().splitlines())
            return sorted({json.dumps([_timeless(line), line.get("sha256")]) for line in told})
        case "metrics.csv":
            lines = [line.split(",") for line in path.read_text().splitlines()]
            return [[cell for name, cell in zip(lines[0], line, strict=True) if name != "seconds"] for line in lines]
        case "SHA256SUMS":  # of files with clocks in them, no more than that they are there
            lines = path.read_text().splitlines()
            return [line.split()[1] if Path(line.split()[1]).name in CLOCKED else line for line in lines]
        case "README.md":
            return re.sub(r"started .*", "", path.read_text())
    return path.read_bytes()


def _timeless(told: Any) -> Any:
    """Without seconds, dates, the run's random name and numbers of lines, and without digests of what holds them."""
    if isinstance(told, list):
        return [_timeless(item) for item in told]
    if not isinstance(told, dict):
        return told
    clocks = ("seconds", "started", "recorded", "sha256", "time", "run", "name", "seq")
    return {key: _timeless(value) for key, value in told.items() if key not in clocks}


def test_of_two_started_together_exactly_one_runs(commands: Commands, tmp_path: Path) -> None:
    out, other = tmp_path / "out", Commands(tmp_path)
    words = ["pretrain", str(commands.folder / "pretrain.yaml"), "--out", str(out)]
    try:
        assert other(["--version"]).code == 0  # its modules are loaded now
        for said in (words, [*words, "--resume", "true"]):
            with ThreadPoolExecutor(2) as both:
                ended = list(both.map(Commands.__call__, (commands, other), (said, said)))
            first, second = sorted(zip((e.code for e in ended), (commands.log(), other.log()), strict=True))
            assert (first[0], second[0]) == (0, 2), (first, second)
            assert "is being written by" in second[1]
            about = json.loads((out / "run.json").read_text())
            assert about["status"] == "finished"
            assert "error" not in about
            assert len((out / "rounds.jsonl").read_text().splitlines()) == 4
    finally:
        other.close()
