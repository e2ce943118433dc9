"""Every shipped recipe parses, and runs with small settings; every shipped pipeline is valid."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from fedcore.cli.main import main
from fedcore.config.recipe import read_recipe
from fedcore.config.recipe_files import command_of, shipped
from fedcore.config.stages import STAGES, stage_of
from fedcore.pipelines.run import run_pipeline
from fedcore.pipelines.spec import read_steps
from fedcore.pipelines.validation import validate
from tests.pipelines import make_small
from tests.runs import quick_galleries

SMALL = [
    "--rounds.count", "2", "--visit.max_epochs", "1", "--data.size", "32", "--data.phantom.images_per_site", "16",
    "--data.phantom.sites", "2", "--policy.min_patients", "1",
]  # fmt: skip
NARROW = {
    "fedtune.segmentation.networks.EncoderUNet": ["--network.init_args.encoder.init_args.stem", "8"],
    "fedcore.models.resnet.ResNet": ["--encoder.init_args.stem", "8"],
    "fedcore.models.vit.ViT": ["--encoder.init_args.width", "48"],
    "fedgen.gan.generator_network.GeneratorNetwork": [
        "--generator.init_args.generator_network.init_args.widths", "[8,16]",
        "--generator.init_args.discriminator.init_args.widths", "[8,16]",
    ],
    "fedgen.diffusion.unet.UNet": ["--generator.init_args.network.init_args.widths", "[8,16]"],
    "fedgen.latent.autoencoder.Autoencoder": ["--generator.init_args.network.init_args.widths", "[8,8,16]"],
}  # fmt: skip
NEEDS = {
    "latent_diffusion": (
        "vae",
        "--generator.init_args.autoencoder",
        ["--data.phantom.spatial_dims", "3", "--data.size", "16"],
    )
}
"""The recipe to run first, the option that takes its folder, and options of both."""


@pytest.fixture(autouse=True, scope="module")
def _quick_galleries() -> Iterator[None]:
    with quick_galleries():
        yield


def stage_in_header(path: Path) -> str:
    """The stage of the command in the recipe's header."""
    header = path.read_text(encoding="utf-8")
    return next(stage for stage in STAGES if f"fedpretrain {stage} {path.stem}" in header)


LONG = ("latent_diffusion", "fcl", "diffusion_pairs", "demo_generate", "demo_pretrain", "demo_finetune")
"""Recipes that run among the slow tests; those of the demo run in the demo too."""
PIPELINES = [path for path in shipped().values() if command_of(path) == "run"]
RECIPES = [path for path in shipped().values() if path not in PIPELINES]
MARKED = [pytest.param(path, marks=[pytest.mark.slow] if path.stem in LONG else [], id=path.stem) for path in RECIPES]


@pytest.mark.parametrize("path", RECIPES, ids=lambda p: p.stem)
def test_a_recipe_parses_and_builds(path: Path) -> None:
    stage = stage_in_header(path)
    recipe = read_recipe(stage_of(stage), stage, [path.stem])
    assert recipe.out == Path("checkpoints") / path.stem
    assert recipe.build()["rounds"].count > 1


def run_small(path: Path, folder: Path, *words: str) -> None:
    narrow = next(more for name, more in NARROW.items() if name in path.read_text())
    with pytest.raises(SystemExit) as stopped:
        main([*stage_in_header(path).split(), path.stem, "--out", str(folder), *SMALL, *narrow, *words])
    assert stopped.value.code == 0


@pytest.mark.parametrize("path", MARKED)
def test_a_recipe_runs_two_rounds(path: Path, tmp_path: Path) -> None:
    words: list[str] = []
    if path.stem in NEEDS:
        first, key, words = NEEDS[path.stem]
        run_small(shipped()[first], tmp_path / first, *words)
        words = [key, str(tmp_path / first), *words]
    run_small(path, tmp_path / "run", *words)
    assert len((tmp_path / "run" / "rounds.jsonl").read_text().splitlines()) == 2
    assert json.loads((tmp_path / "run" / "run.json").read_text())["status"] == "finished"


@pytest.mark.parametrize("path", PIPELINES, ids=lambda p: p.stem)
def test_a_pipeline_is_valid(path: Path) -> None:
    validate(read_steps(path, {}), path.stem)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "texts"),
    [
        ("pipeline_classify", ("Balanced accuracy by labels", "scratch_0.5", "pretrained_0.5", "with_synthetic_0.5")),
        ("pipeline_segment", ("Dice by labels", "scratch_0.5", "pretrained_0.5", "with_synthetic_0.5")),
        ("demo", ("from local", "from_local_hospital_4", "with_synthetic_images")),
    ],
)
def test_a_pipeline_reports_scores_with_and_without_synthetic_images(
    name: str, texts: tuple[str, ...], tmp_path: Path
) -> None:
    pipeline = Path(shutil.copy(shipped()[name], tmp_path))
    make_small(pipeline)
    assert run_pipeline(pipeline, tmp_path / "out") == 0
    page = (tmp_path / "out" / "report.html").read_text()
    assert all(text in page for text in (*texts, "Privacy check", "passed"))
