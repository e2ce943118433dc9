from __future__ import annotations

from dataclasses import replace
from math import nan

import pytest
import torch

from fedcore.errors import Refused
from fedtune.evaluation.classification import POOLED
from fedtune.evaluation.scores import Score
from fedtune.evaluation.segmentation import EvaluateMasks, Overlaps, as_json, format_distance, show

WIDE = {"dice": Score(0.71, 0.58, 0.81), "hd95": Score(19.477, 10.08, 30.13), "surface_dice": Score(0.275, 0.22, 0.33)}
SITE = "brightfield_purple"
FOUND = Overlaps({SITE: WIDE, POOLED: WIDE}, {SITE: 8, POOLED: 8}, {SITE: (2,)}, 10, "pixels", "64 x 64")


def test_a_distance_in_words() -> None:
    assert format_distance(Score(19.477, 10.08, 30.13)) == "19.5 (10-30)"
    assert format_distance(Score(1.852, 1.67, 2.06)) == "1.9 (1.7-2.1)"
    assert format_distance(Score(2.0, nan, nan)) == "2.0"
    assert format_distance(Score(nan, nan, nan)) == "-"


def test_the_table_fits_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    show(FOUND)
    said = capsys.readouterr().out
    assert max(map(len, said.splitlines())) <= 80
    for part in ("brightfield_purple", "0.710 (0.58-0.81)", "19.5 (10-30)", "0.275 (0.22-0.33)", "HD95 (pixels)"):
        assert part in said
    note = "fewer than 10 test patients of structure 2; not counted"
    assert said.endswith(f"measured on the grid of 64 x 64 pixels\n{SITE}: {note}\n")
    assert as_json(FOUND)["sites"][SITE]["note"] == note


def test_a_score_that_does_not_exist_is_null() -> None:
    told = as_json(Overlaps({POOLED: WIDE | {"hd95": Score(nan, nan, nan)}}, {POOLED: 8}, {}, 10, "mm", "files"))
    assert told["pooled"]["hd95"] == {"value": None, "low": None, "high": None}
    assert (told["grid"], told["unit"], told["sites"]) == ("files", "mm", {})


def test_a_distance_says_of_how_many_images_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    counts = {SITE: {"dice_images": 8, "hd95_images": 3}, POOLED: {"dice_images": 9, "hd95_images": 9}}
    found = replace(FOUND, withheld={SITE: ()}, measured=counts)
    note = "HD95 of 3 of 8 images (mask and prediction show it)"
    told = as_json(found)
    assert (told["sites"][SITE]["hd95_images"], told["pooled"]["hd95_images"]) == (3, 9)
    assert (told["sites"][SITE]["note"], told["hd95_missed"]) == (note, "omit")
    assert "note" not in told["pooled"]
    show(found)
    assert capsys.readouterr().out.endswith(f"{SITE}: {note}\n")
    several = replace(found, measured={SITE: {"dice_images": 8, "hd95_images": 3, "dice_images_1": 4}})
    assert "of 3 of 8 structures in images" in as_json(several)["sites"][SITE]["note"]
    assert "takes the image's diagonal" in as_json(replace(found, missed="diagonal"))["pooled"]["note"]


def test_a_structure_that_only_files_show_is_told() -> None:
    truth = torch.tensor([[0, 1], [255, 2]])
    asked = EvaluateMasks(structures=3, tolerance=1.0)
    assert asked._scored(truth.clamp_max(2), truth, (1.0, 1.0)).shape == (3, 2)
    with pytest.raises(Refused, match=r"structure 2 in its masks is too small to be seen at data\.size"):
        EvaluateMasks(structures=2, tolerance=1.0)._scored(truth * 0, truth, (1.0, 1.0))


def test_scores_that_look_like_a_mistake_are_explained(capsys: pytest.CaptureFixture[str]) -> None:
    nothing = {"dice": Score(0.0, 0.0, 0.1), "hd95": Score(nan, nan, nan), "surface_dice": Score(0.0, 0.0, 0.1)}
    show(Overlaps({SITE: nothing, POOLED: nothing}, {SITE: 8, POOLED: 8}, {}, 10, "mm", "files"))
    said = capsys.readouterr().out
    assert "HD95 -: no distance exists" in said
    assert "Dice 0.000: nothing was predicted where the masks are" in said
    show(FOUND)
    assert "HD95 -" not in capsys.readouterr().out
