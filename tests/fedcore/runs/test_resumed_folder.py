"""What a resumed run may change, and what may not have changed."""

from __future__ import annotations

from pathlib import Path

import pytest

from fedcore.errors import InputError, InputErrors
from fedcore.runs.folder import RunFolder, essence
from tests.fedcore.runs.test_folder import ABOUT, RECIPE, _tree, begun


def test_another_recipe_is_told_key_by_key(tmp_path: Path) -> None:
    before = _tree(begun(tmp_path).path)
    other = RECIPE.replace("64", "32").replace("count: 3", "per_round: 2")
    with pytest.raises(InputErrors) as caught:
        RunFolder(tmp_path, other, resume=True).prepare()
    assert caught.value.errors == (
        "rounds.count was 3, is now absent",
        "rounds.per_round was absent, is now 2",
        "visit.batch_size was 64, is now 32",
    )
    assert _tree(tmp_path) == before


def test_what_has_no_influence_may_differ(tmp_path: Path) -> None:
    begun(tmp_path)
    RunFolder(tmp_path, RECIPE.replace("here", "there").replace("false", "true"), resume=True).prepare()


def test_a_key_that_begins_like_a_free_one_is_not_free() -> None:
    assert essence("out: a\nouter: 1\nworkers: 2\ndata: {cache: x, cached: y}\nconfig: z\nresume: true") == {
        "outer": 1, "data.cached": "y",
    }  # fmt: skip


def test_the_number_of_rounds_may_change_down_to_those_that_are_done(tmp_path: Path) -> None:
    begun(tmp_path, rounds=2).close("stopped")
    for count in (2, 6):
        RunFolder(tmp_path, RECIPE.replace("count: 3", f"count: {count}"), resume=True).prepare()
    before = _tree(tmp_path)
    for other in (RECIPE.replace("count: 3", "count: 1"), RECIPE.replace("count: 3", "count: 6").replace("64", "32")):
        with pytest.raises(InputErrors, match=r"only rounds\.count may change, to 2 or more"):
            RunFolder(tmp_path, other, resume=True).prepare()
    assert _tree(tmp_path) == before


def test_other_images_are_refused_and_nothing_is_changed(tmp_path: Path) -> None:
    before = _tree(begun(tmp_path, rounds=1).path)
    with pytest.raises(InputError, match=r"the images have changed since .* was started"):
        RunFolder(tmp_path, RECIPE, resume=True).begin(ABOUT | {"data": "xyz"})
    assert _tree(tmp_path) == before


def test_other_images_do_not_matter_before_the_first_round_is_done(tmp_path: Path) -> None:
    begun(tmp_path)
    assert RunFolder(tmp_path, RECIPE, resume=True).begin(ABOUT | {"data": "xyz"}).rounds == 0
