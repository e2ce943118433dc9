from __future__ import annotations

import argparse
import contextlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from jsonargparse import ArgumentParser

from fedcore.config.trust import denied_import, guard, split_trust, trusting
from fedcore.errors import InputError

CODE = "import pathlib\npathlib.Path({mark!r}).touch()\nclass Thing(dict): pass\ndef make() -> dict: return dict()\n"


@pytest.fixture
def canary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    mark = tmp_path / "ran"
    (tmp_path / "unknown_package.py").write_text(CODE.format(mark=str(mark)))
    monkeypatch.syspath_prepend(tmp_path)
    yield mark
    sys.modules.pop("unknown_package", None)


TYPES = [
    dict, type, type[dict], Callable, Callable[[], dict], dict | None, int | type | None, list[type], list[dict | type],
    dict[str, type], tuple[type, ...], Any, object, list[Any],
]  # fmt: skip
VALUES: list[Any] = [
    "unknown_package.Thing", "unknown_package.make", {"class_path": "unknown_package.Thing"},
    {"class_path": "unknown_package.Thing", "init_args": {}}, ["unknown_package.Thing"],
    [{"class_path": "unknown_package.Thing"}], {"a": "unknown_package.Thing"},
    {"a": {"class_path": "unknown_package.Thing"}}, '{"class_path": "unknown_package.Thing"}',
]  # fmt: skip


def built(kind: Any, value: Any) -> Any:
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--it", type=kind)
    return parser.instantiate(parser.parse_object({"it": value}))["it"]


@pytest.mark.parametrize("kind", TYPES, ids=str)
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_nothing_is_imported_however_it_is_named(kind: Any, canary: Path) -> None:
    """Fails if a new jsonargparse imports in a way that is not guarded."""
    guard()
    for value in VALUES:
        with contextlib.suppress(argparse.ArgumentError, ImportError, ValueError, TypeError):
            built(kind, value)
        assert not canary.exists(), value
    assert "unknown_package" not in sys.modules


def test_a_trusted_package_is_imported_and_none_after_that(canary: Path) -> None:
    with trusting("unknown_package"):
        guard()
        assert built(type[dict], "unknown_package.Thing").__name__ == "Thing"
    guard()
    assert canary.exists()
    with pytest.raises(argparse.ArgumentError, match="not allowed"):
        built(type[dict], "unknown_package.Thing")


def test_a_trusted_module_of_the_current_folder_is_found_and_shadows_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("my_own", "yaml"):
        Path(f"{name}.py").write_text("raise ZeroDivisionError")
    before = list(sys.path)
    with trusting("yaml"):
        assert sys.path == before
    with trusting("my_own"):
        assert sys.path == [*before, str(tmp_path)]
    assert sys.path == before
    assert "my_own is code" not in str(denied_import("Importing 'not_here.X' is not allowed"))
    assert "add --trust my_own" in str(denied_import("Importing 'my_own.X' is not allowed"))


@pytest.mark.parametrize("name", ["", "*", "my-package", "a..b", "1a", "jsonargparse", "jsonargparse.x", "a b"])
def test_a_wrong_package_name(name: str) -> None:
    with pytest.raises(InputError, match="needs the name of a Python package"), trusting(name):
        pass


@pytest.mark.parametrize(
    ("words", "others", "packages"),
    [
        ("finetune r.yaml --trust a", "finetune r.yaml", ["a"]),
        ("finetune --trust a,b.c --seed 1 --trust=d", "finetune --seed 1", ["a", "b.c", "d"]),
        ("--trust a run x", "run x", ["a"]),
        ("finetune --encoder my.Net", "finetune --encoder my.Net", ["my"]),
        ("finetune --encoder=my.Net", "finetune --encoder=my.Net", ["my"]),
        ("finetune --encoder {class_path:my.sub.Net}", "finetune --encoder {class_path:my.sub.Net}", ["my"]),
        ("predict my.Net images.x out.y", "predict my.Net images.x out.y", []),
        ("finetune --data.manifest there.csv", "finetune --data.manifest there.csv", []),
        ("finetune --data.manifest not/there.csv", "finetune --data.manifest not/there.csv", []),
        ("finetune --encoder fedcore.models.vit.ViT --o torch.optim.SGD", None, []),
        ("finetune --encoder " + "x" * 5000, None, []),
        ("finetune --out my.run", "finetune --out my.run", []),
        ("finetune --out=my.run --rounds.count 3", "finetune --out=my.run --rounds.count 3", []),
        ("finetune --lr 0.5 --visit.lr 1e-3", "finetune --lr 0.5 --visit.lr 1e-3", []),
    ],
)
def test_trusted_packages_are_split_from_the_arguments(
    words: str, others: str | None, packages: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("there.csv").touch()
    assert split_trust(words.split()) == ((others or words).split(), packages)


@pytest.mark.parametrize("words", ["run --trust", "run --trust="])
def test_a_missing_package_name(words: str) -> None:
    with pytest.raises(InputError, match="--trust my_package"):
        split_trust(words.split())


def test_a_package_that_does_not_exist_is_reported() -> None:
    message = denied_import("Importing 'fedsl.moco.MoCo' is not allowed, denied by")
    assert message is not None
    assert "there is no module 'fedsl'" in message
    assert denied_import("another message") is None
    assert "code of the package '__main__'" in str(denied_import("Importing '__main__.Net' is not allowed"))
