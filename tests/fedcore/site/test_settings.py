from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import yaml

from fedcore.config.shared_recipe import OF_SERVER, OF_SITE, SharedRecipe
from fedcore.data.manifest.columns import Columns
from fedcore.errors import InputError
from fedcore.messages.reveals import Reveals
from fedcore.privacy.policy import Policy
from fedcore.site.settings import SETTINGS, SiteSettings, load_settings, set_data, settings_text
from tests.fedcore.site.homes import shared


def written(folder: Path, text: str) -> Path:
    (folder / SETTINGS).write_text(text)
    return folder


def test_a_new_file_has_every_setting_with_its_default(tmp_path: Path) -> None:
    text = settings_text("hospital_1")
    assert load_settings(written(tmp_path, text)) == SiteSettings("hospital_1")
    tree = yaml.safe_load(text)
    assert tree.keys() == {field.name for field in fields(SiteSettings)}
    assert tree["policy"].keys() == {field.name for field in fields(Policy)}
    assert tree["columns"].keys() == {field.name for field in fields(Columns)}


def test_settings_that_are_absent_have_their_defaults(tmp_path: Path) -> None:
    settings = load_settings(written(tmp_path, "name: a\npolicy: {max_level: WEIGHTS}\n"))
    assert settings == SiteSettings("a", policy=Policy(Reveals.WEIGHTS))


@pytest.mark.parametrize(
    ("line", "error"),
    [
        ("polici: x", r"unknown option 'polici' \(did you mean 'policy"),
        ("policy: {max_levl: WEIGHTS}", r"'policy\.max_levl'"),
        ("policy: {max_level: ALL}", r"policy\.max_level must be one of WEIGHTS, STATISTICS, .*, got ALL"),
        ("policy: {min_patients: 0}", r"policy\.min_patients must be at least 1, got 0"),
        ("policy: WEIGHTS", r"policy must hold keys and values, found 'WEIGHTS'"),
        ("on_error: ignore", r"on_error must be one of stop, skip, got ignore"),
        ("test_fraction: 1.5", r"test_fraction must lie in \[0, 1\), got 1\.5"),
        ("test_fraction: many", r"test_fraction must be a number, got many"),
        ("accelerator: tpu", r"accelerator must be one of auto, cpu, gpu, cuda, mps, got 'tpu'"),
        ("trust: my_package", r"trust must be a list, got my_package"),
        ("allow_unaudited: maybe", r"allow_unaudited must be"),
        ("columns: {picture: x}", r"'columns\.picture'"),
        ("workers: 2", r"unknown option 'workers'"),
        ("config: other.yaml", r"unknown option 'config'"),
        ("manifest: [", r"site\.yaml is damaged"),
    ],
)  # fmt: skip
def test_a_wrong_setting_is_named_with_what_was_found(tmp_path: Path, line: str, error: str) -> None:
    with pytest.raises(InputError, match=error) as caught:
        load_settings(written(tmp_path, f"name: a\n{line}\n"))
    assert str(tmp_path / SETTINGS) in str(caught.value)


def test_all_wrong_settings_are_named_at_once(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="3 errors") as caught:
        load_settings(written(tmp_path, "name: a\non_error: x\nworkers: 2\npolicy: {counts: no}\n"))
    assert all(word in str(caught.value) for word in ("on_error", "workers", "policy.counts"))


@pytest.mark.parametrize("name", ["", "a b", "../a", "-a", "a" * 65, "ä", "a/b", "a.b"])
def test_a_name_is_one_of_a_certificate(tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError, match="name must have 1 to 64 letters"):
        load_settings(written(tmp_path, yaml.safe_dump({"name": name})))


def test_a_name_is_needed(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="name"):
        load_settings(written(tmp_path, "manifest: a.csv\n"))


OWN = SiteSettings(
    "a", Path("own.csv"), Columns(image="file"), Path("cache"), "skip", 0.5,
    Policy(Reveals.WEIGHTS, False, 3, "rounded", 1), "cpu", (), Path("/sets/own.csv"), True,
)  # fmt: skip
OF_RECIPE = {
    "manifest": "data.manifest", "columns": "data.columns", "cache": "data.cache", "on_error": "data.on_error",
    "test_fraction": "data.test_fraction", "policy": "policy", "accelerator": "visit.accelerator",
    "synthetic": "data.synthetic.manifest", "allow_unaudited": "data.allow_unaudited",
}  # fmt: skip
"""The setting of a site, and the key of a recipe that would set the same."""


def test_a_recipe_takes_them_all_from_the_site(tmp_path: Path) -> None:
    assert {field.name for field in fields(SiteSettings)} == {*OF_RECIPE, "name", "trust"}
    recipe = shared("pretrain", "--data.synthetic.manifest", "theirs.csv", "--visit.accelerator", "auto")
    values = OWN.recipe_values(tmp_path)
    assert values.keys() == {*OF_RECIPE.values()}
    assert values.keys() <= {*OF_SITE, *OF_SERVER}
    built = recipe.build(values)
    data = built["data"]
    assert data.manifest == str(tmp_path / "own.csv")
    assert data.synthetic.manifest == "/sets/own.csv"
    assert (data.columns, data.cache, data.on_error) == (Columns(image="file"), tmp_path / "cache", "skip")
    assert (data.test_fraction, data.allow_unaudited) == (0.5, True)
    assert (built["policy"], built["visit"].accelerator) == (OWN.policy, "cpu")


@pytest.mark.parametrize("key", OF_RECIPE.values())
def test_no_setting_can_be_set_from_the_centre(key: str) -> None:
    """A server that writes the text of a recipe itself."""
    tree: dict[str, Any] = shared("pretrain", "--data.synthetic.manifest", "x.csv").tree
    *above, last = key.split(".")
    inside = tree
    for part in above:
        inside = inside[part]
    inside[last] = "theirs"
    text = yaml.safe_dump(tree, sort_keys=True, width=1000)
    with pytest.raises(InputError, match=f"{key} is for "):
        SharedRecipe.received("pretrain", text)


@pytest.mark.parametrize("key", ["name", "trust", "site", "home"])
def test_no_recipe_has_a_key_for_what_is_not_in_recipes(key: str) -> None:
    text = yaml.safe_dump(shared().tree | {key: ["os"]}, sort_keys=True, width=1000)
    with pytest.raises(InputError, match=f"{key} is no option of pretrain"):
        SharedRecipe.received("pretrain", text)


def test_a_manifest_is_needed(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"site\.yaml names no manifest; run: fedpretrain site data"):
        SiteSettings("a").recipe_values(tmp_path)


@pytest.mark.parametrize("path", ["/data/my images.csv", "it's.csv", 'a "b".csv', "ä.csv", "a: b #c.csv", r"c:\d.csv"])
def test_data_are_set_without_a_change_of_other_lines(tmp_path: Path, path: str) -> None:
    before = settings_text("a")
    settings = set_data(written(tmp_path, before), Path(path), Reveals.WEIGHTS)
    after = (tmp_path / SETTINGS).read_text()
    assert settings == load_settings(tmp_path) == SiteSettings("a", Path(path), policy=Policy(Reveals.WEIGHTS))
    changed = [(a, b) for a, b in zip(before.splitlines(), after.splitlines(), strict=True) if a != b]
    assert [a for a, _ in changed] == ["manifest: null", "  max_level: STATISTICS"]
    assert changed[1][1] == "  max_level: WEIGHTS"


@pytest.mark.parametrize(
    "text", ["name: a\n", "name: a\npolicy:\n  # told\n\n  metrics: false\n", "name: a\npolicy:\nmanifest: x.csv\n",
             "name: a\nmanifest: x.csv\npolicy: # told\n  counts: exact\n  max_level: SAMPLES # all\ncolumns: {}\n"]
)  # fmt: skip
def test_data_are_set_in_a_file_that_people_have_edited(tmp_path: Path, text: str) -> None:
    settings = set_data(written(tmp_path, text), Path("new.csv"), Reveals.FEATURES)
    assert (settings.manifest, settings.policy.max_level) == (Path("new.csv"), Reveals.FEATURES)
    assert load_settings(tmp_path) == settings


def test_a_policy_on_one_line_is_left_to_the_person(tmp_path: Path) -> None:
    text = "name: a\npolicy: {max_level: WEIGHTS}\n"
    with pytest.raises(InputError, match=r"has the group policy on one line; set policy\.max_level to FEATURES there"):
        set_data(written(tmp_path, text), Path("new.csv"), Reveals.FEATURES)
    assert (tmp_path / SETTINGS).read_text() == text
    assert set_data(tmp_path, Path("new.csv")).policy.max_level == Reveals.WEIGHTS


def test_nothing_is_written_into_a_file_that_is_wrong(tmp_path: Path) -> None:
    text = "name: a\nworkers: 3\n"
    with pytest.raises(InputError, match="workers"):
        set_data(written(tmp_path, text), Path("new.csv"))
    assert (tmp_path / SETTINGS).read_text() == text
