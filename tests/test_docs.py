"""The commands and links of the documentation work, and its reference is that of the code."""

import importlib.util
import re
import shlex
import shutil
from pathlib import Path

import pytest

from fedcore.cli import main
from fedcore.data.phantom import Phantoms
from tests.roads import make_small

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
SHORT = "--rounds.count 1 --visit.max_epochs 1 --data.size 32 --policy.min_patients 1"
SMALL = {
    "pretrain": f"{SHORT} --encoder.init_args.stem 8", "finetune": f"{SHORT} --encoder.init_args.stem 8",
    "generate train": f"{SHORT} --generator.init_args.network.init_args.widths [8,16]",
    "segment": f"{SHORT} --network.init_args.encoder.init_args.stem 8",
    "generate sample": "--count 8 --steps 2",
}  # fmt: skip


def commands(page: Path) -> list[str]:
    """Lines of the page's shell blocks that call fedpretrain, continued lines joined."""
    blocks = re.findall(r"```bash\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    return [line.split("  #")[0].strip() for line in lines if line.startswith("fedpretrain")]


@pytest.mark.parametrize("page", ["README.md", "docs/tutorial.md"])
def test_commands_of_a_page_run_in_their_order(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("my.csv", "other.csv"):
        Phantoms(sites=2, images_per_site=120).write(tmp_path / name[:-4], 32)
        text = (tmp_path / name[:-4] / "manifest.csv").read_text().splitlines()
        rows = [re.sub(r"(^|,)(hospital_\d[^,]*\.png)", rf"\1{name[:-4]}/\2", line) for line in text]
        Path(name).write_text("\n".join(rows) + "\n")
    shutil.copytree(tmp_path / "my" / "hospital_1", tmp_path / "new_images")
    found = commands(ROOT / page)
    assert len(found) > 3
    for number, line in enumerate(found):
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


def test_recipe_reference_is_current() -> None:
    spec = importlib.util.spec_from_file_location("make_reference", ROOT / "docs" / "make_reference.py")
    assert spec is not None
    assert spec.loader is not None
    maker = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(maker)
    assert "\n".join(maker.page()) + "\n" == maker.PAGE.read_text(encoding="utf-8"), "run `make docs`"


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\((?!https?:)([^)#]+)[^)]*\)", page.read_text(encoding="utf-8")):
        assert (page.parent / target).exists(), target


def test_the_tutorial_of_a_method_is_all_there_is() -> None:
    """The SimSiam of docs/add_a_method.md, with its imports, trains."""
    code = re.search(r"```python\n(class SimSiam.*?)```", (ROOT / "docs" / "add_a_method.md").read_text(), re.DOTALL)
    assert code is not None
    imports = (
        "from lightly.loss import NegativeCosineSimilarity\n"
        "from lightly.models.modules.heads import SimSiamPredictionHead, SimSiamProjectionHead\n"
        "from fedcore.encoders import Encoder, ResNet\nfrom fedcore.views import Views\n"
        "from fedssl.method import Method\n"
    )
    names: dict[str, object] = {}
    exec(imports + code[1], names)
    import torch

    method = names["SimSiam"](names["ResNet"](depth=10, stem=8))
    loss = method.loss(method.views(torch.rand(4, 1, 32, 32) * 2 - 1))
    loss.backward()
    assert -1 <= float(loss.detach()) <= 1
    assert all(p.grad is not None for p in method.parameters())
