"""Commands, links and option names of the documentation are valid, and the recipe reference is current."""

import importlib.util
import re
import shlex
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from fedcore.cli import python_api
from fedcore.cli.main import main
from fedcore.config.options import option_names
from fedcore.config.recipe import parser_of, read_recipe
from fedcore.config.stages import STAGES, stage_of
from fedcore.config.trust import split_trust, trusting
from fedcore.data.phantom.phantoms import Phantoms
from fedcore.models.encoder_store import save_encoder
from fedcore.models.resnet import ResNet
from fedgen import python_api as fedgen_api
from tests.pipelines import make_small
from tests.runs import quick_galleries

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
SHORT = "--rounds.count 1 --visit.max_steps 2 --data.size 32 --policy.min_patients 1"
SMALL = {
    "pretrain": f"{SHORT} --encoder.init_args.stem 8", "finetune": f"{SHORT} --encoder.init_args.stem 8",
    "generate train": f"{SHORT} --generator.init_args.network.init_args.widths [8,16]",
    "segment": f"{SHORT} --network.init_args.encoder.init_args.stem 8",
    "generate sample": "--count 8 --steps 2",
}  # fmt: skip

SMALL_SAMPLE = {"count": 8, "steps": 2}


@pytest.fixture(autouse=True, scope="module")
def _quick_galleries() -> Iterator[None]:
    with quick_galleries():
        yield


def commands(page: Path) -> list[str]:
    """The fedpretrain commands of the page's shell blocks, continued lines joined."""
    blocks = re.findall(r"```bash\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    return [line.split("  #")[0].strip() for line in lines if line.startswith("fedpretrain")]


@pytest.mark.parametrize("page", ["README.md", pytest.param("docs/tutorial.md", marks=pytest.mark.slow)])
def test_commands_of_a_page_run_in_order(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_manifests(tmp_path, "my.csv", "other.csv")
    shutil.copytree(tmp_path / "my" / "hospital_1", tmp_path / "new_images")
    lines = commands(ROOT / page)
    assert len(lines) > 3
    for number, line in enumerate(lines):
        words = shlex.split(line)[1:]
        if words[0] == "run":
            make_small(Path(words[1]))
        words += next(
            (shlex.split(small) for what, small in SMALL.items() if line.split(" ", 1)[1].startswith(what)), []
        )
        if words[0] in ("pretrain", "finetune") and "--out" not in words:
            words += ["--out", f"checkpoints/run_{number}"]
        with pytest.raises(SystemExit) as stopped:
            main(words)
        assert stopped.value.code == 0, line


def write_manifests(folder: Path, *names: str) -> None:
    """Images of simulated hospitals under `folder`, with a manifest next to them."""
    for name in names:
        Phantoms(sites=2, images_per_site=88).write(folder / name[:-4], 32)
        text = (folder / name[:-4] / "manifest.csv").read_text().splitlines()
        rows = [re.sub(r"(^|,)(hospital_\d[^,]*\.png)", rf"\1{name[:-4]}/\2", line) for line in text]
        (folder / name).write_text("\n".join(rows) + "\n")


def test_the_code_of_the_python_page_runs_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_manifests(tmp_path, "my.csv")
    run, call = python_api.run_stage, fedgen_api.call_command
    monkeypatch.setattr(python_api, "run_stage", lambda name, words: run(name, [*words, *shlex.split(SMALL[name])]))
    monkeypatch.setattr(
        fedgen_api, "call_command", lambda f, name, paths, options: call(f, name, paths, options | SMALL_SAMPLE)
    )
    names: dict[str, Any] = {}
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "python.md").read_text(), re.DOTALL)
    assert len(blocks) == 2
    for block in blocks:
        exec(block, names)
    assert set(names["pretrained"].scores) == {"hospital_1", "hospital_2"}
    assert not names["encoder"].training
    assert 0 <= names["run"].scores["pooled"]["auroc"]["value"] <= 1
    assert names["record"].safe.answer in ("yes", "no")
    assert len(names["images"].manifest.read_text().splitlines()) == 9


def test_recipe_reference_is_current() -> None:
    spec = importlib.util.spec_from_file_location("make_reference", ROOT / "docs" / "make_reference.py")
    assert spec is not None
    assert spec.loader is not None
    maker = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(maker)
    assert "\n".join(maker.page()) + "\n" == maker.PAGE.read_text(encoding="utf-8"), "run `make docs`"


NO_OPTION = re.compile(
    r"(fedcore|fedssl|fedgen|fedtune|torch|lightly|criterion|self|site|turn|message|report)\..*"
    r"|.*\.(py|json|jsonl|csv|md|yaml|html|png|jpg|tif|dcm|nii|gz|hdr|img|npy|npz|safetensors|onnx)"
)


def test_every_option_of_a_page_exists() -> None:
    """Compares dotted words in code spans with the options of commands, and of classes in the recipe reference."""
    known = {name for stage in STAGES for name in option_names(parser_of(stage_of(stage), stage), {})}
    known |= {name.removeprefix("data.") for name in known if name.startswith("data.columns.")}  # of `data check`
    groups = {name.partition(".")[0] for name in known}
    reference = set(
        re.findall(r"^\| `([\w.]+)`", (ROOT / "docs" / "recipes.md").read_text(encoding="utf-8"), re.MULTILINE)
    )
    checked = 0
    for page in PAGES:
        text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
        for span in re.findall(r"`([^`\n]+)`", text) if page.name != "recipes.md" else ():
            whole = [span] if re.fullmatch(r"[a-z_][a-z_0-9]*(\.[a-z_0-9]+)+", span) else []
            for word in re.findall(r"--([a-z_][a-z_0-9]*(?:\.[a-z_0-9]+)+)", span) or whole:
                group, *rest = word.replace(".init_args", "").split(".")
                of_a_class = group in groups and {".".join(rest), rest[-1]} & reference
                assert word in known or of_a_class or NO_OPTION.fullmatch(word), f"{page.name}: {word}"
                checked += 1
    assert checked > 40


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_linked_files_exist(page: Path) -> None:
    for target in re.findall(r"\]\((?!https?:)([^)#]+)[^)]*\)", page.read_text(encoding="utf-8")):
        assert (page.parent / target).exists(), target


METHOD = (ROOT / "docs" / "add_a_method.md").read_text(encoding="utf-8")


def test_the_method_of_the_page_trains_unchanged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The page's file, command and recipe, in a folder of their own."""
    monkeypatch.chdir(tmp_path)
    code, recipe = (re.search(rf"```{kind}\n(.*?)```", METHOD, re.DOTALL) for kind in ("python", "yaml"))
    assert code
    assert recipe
    Path("my_method.py").write_text(code[1])
    Path("my.yaml").write_text(recipe[1])
    (typed,) = commands(ROOT / "docs" / "add_a_method.md")
    (by_recipe,) = re.findall(r"fedpretrain (.*)", recipe[1])
    path = list(sys.path)
    small = shlex.split(f"{SMALL['pretrain']} --data.phantom.sites 2 --data.phantom.images_per_site 8 --probe null")
    with pytest.raises(SystemExit) as stopped:
        main([*shlex.split(by_recipe), *small])
    assert stopped.value.code == 0
    words = shlex.split(typed)[2:]
    with trusting(*split_trust(words)[1]):
        text = read_recipe(stage_of("pretrain"), "pretrain", words).text
    assert sys.path == path
    assert "class_path: my_method.SimSiam" in text
    assert "lr: 0.03" in text
    sys.modules.pop("my_method")


@pytest.mark.parametrize(
    ("removed", "error"),
    [
        (
            "from fedssl.methods.base import Method, OptimizerFactory",
            "my_method.py, line 10: NameError: name 'Method' is not",
        ),
        (":\n        super", "my_method.py, line 19: SyntaxError"),
    ],
)
def test_an_error_in_the_pasted_file_has_its_line(
    removed: str, error: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    code = re.search(r"```python\n(.*?)```", METHOD, re.DOTALL)
    assert code
    Path("my_method.py").write_text(code[1].replace(removed, ""))
    for words in (["--method", "my_method.SimSiam"], ["my.yaml", "--trust", "my_method"]):
        Path("my.yaml").write_text("method: my_method.SimSiam")
        with pytest.raises(SystemExit) as stopped:
            main(["pretrain", *words])
        assert stopped.value.code == 2
        assert error in capsys.readouterr().err


def test_the_encoder_of_the_tutorial_is_in_evaluation_mode(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The tutorial's snippet: features of single images equal those in a batch."""
    monkeypatch.chdir(tmp_path)
    save_encoder(Path("checkpoints/mine/encoder"), ResNet(2, 1, depth=10, stem=8), {"size": [32, 32]}, "")
    code = re.search(r"```python\n(.*?)```", (ROOT / "docs" / "tutorial.md").read_text(), re.DOTALL)
    assert code
    names: dict[str, Any] = {}
    exec(code[1], names)
    images = torch.rand(5, 1, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1
    with torch.no_grad():
        in_batch = names["encoder"](images)
        single = torch.cat([names["encoder"](image[None]) for image in images])
    assert in_batch.shape == (5, names["encoder"].width)
    assert torch.allclose(single, in_batch, atol=1e-6)
