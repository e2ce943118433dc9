"""Every shipped recipe parses as it is; each one runs when made small."""

import json
import shutil
from pathlib import Path

import pytest

from fedcore.cli.main import STAGES, main, stage_of
from fedcore.config.recipe import read_recipe
from fedcore.config.recipe_files import shipped
from fedcore.pipelines.run import travel
from fedcore.pipelines.spec import read_steps
from fedcore.pipelines.validation import check
from tests.roads import make_small

SMALL = [
    "--rounds.count", "2", "--visit.max_epochs", "1", "--data.size", "32", "--data.phantom.images_per_site", "16",
    "--data.phantom.sites", "2", "--policy.min_patients", "1",
]  # fmt: skip
NARROW = {
    "fedtune.segmentation.networks.UShaped": ["--network.init_args.encoder.init_args.stem", "8"],
    "fedcore.models.encoders.ResNet": ["--encoder.init_args.stem", "8"],
    "fedcore.models.encoders.ViT": ["--encoder.init_args.width", "48"],
    "fedgen.gan.generator_network.Painter": [
        "--generator.init_args.painter.init_args.widths", "[8,16]",
        "--generator.init_args.critic.init_args.widths", "[8,16]",
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
"""What has to be run before, the key that takes its folder, and what both are run with."""


def stage_named_by(path: Path) -> str:
    """The stage that a recipe's own header calls."""
    header = path.read_text(encoding="utf-8")
    return next(stage for stage in STAGES if f"fedpretrain {stage} {path.stem}" in header)


ROADS = [path for name, path in shipped().items() if path.parent.name == "pipelines" or name == "demo"]
RECIPES = [path for path in shipped().values() if path not in ROADS]


@pytest.mark.parametrize("path", RECIPES, ids=lambda p: p.stem)
def test_parses_and_builds(path: Path) -> None:
    stage = stage_named_by(path)
    recipe = read_recipe(stage_of(stage), stage, [path.stem])
    assert recipe.out == Path("checkpoints") / path.stem
    assert recipe.build()["rounds"].count > 1


def run_small(path: Path, folder: Path, *words: str) -> None:
    narrow = next(more for name, more in NARROW.items() if name in path.read_text())
    with pytest.raises(SystemExit) as stopped:
        main([*stage_named_by(path).split(), path.stem, "--out", str(folder), *SMALL, *narrow, *words])
    assert stopped.value.code == 0


@pytest.mark.parametrize("path", RECIPES, ids=lambda p: p.stem)
def test_runs_two_rounds(path: Path, tmp_path: Path) -> None:
    words: list[str] = []
    if path.stem in NEEDS:
        first, key, words = NEEDS[path.stem]
        run_small(shipped()[first], tmp_path / first, *words)
        words = [key, str(tmp_path / first), *words]
    run_small(path, tmp_path / "run", *words)
    assert len((tmp_path / "run" / "rounds.jsonl").read_text().splitlines()) == 2
    assert json.loads((tmp_path / "run" / "run.json").read_text())["status"] == "finished"


@pytest.mark.parametrize("path", ROADS, ids=lambda p: p.stem)
def test_a_road_is_free_of_mistakes(path: Path) -> None:
    check(read_steps(path, {}), path.stem)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("pipeline_classify", ("Balanced accuracy by labels", "scratch_0.5", "pretrained_0.5", "with_drawn_0.5")),
        ("pipeline_segment", ("Dice by labels", "scratch_0.5", "pretrained_0.5", "with_drawn_0.5")),
        ("demo", ("from alone", "from_alone_hospital_4", "with_drawn_images")),
    ],
)
def test_a_road_comes_to_scores_with_and_without_drawn_images(name: str, told: tuple[str, ...], tmp_path: Path) -> None:
    road = Path(shutil.copy(shipped()[name], tmp_path))
    make_small(road)
    assert travel(road, tmp_path / "out") == 0
    page = (tmp_path / "out" / "report.html").read_text()
    assert all(text in page for text in (*told, "Privacy check", "passed"))
