from __future__ import annotations

from dataclasses import replace
from math import nan

import pytest
import torch

from fedcore.errors import Refused
from fedtune.evaluation.classification import POOLED
from fedtune.evaluation.scores import Score
from fedtune.evaluation.segmentation import (
    EvaluateSegmenter,
    SegmentationScores,
    format_distance,
    print_scores,
    to_json,
)

WIDE = {"dice": Score(0.71, 0.58, 0.81), "hd95": Score(19.477, 10.08, 30.13), "surface_dice": Score(0.275, 0.22, 0.33)}
SITE = "brightfield_purple"
FOUND = SegmentationScores({SITE: WIDE, POOLED: WIDE}, {SITE: 8, POOLED: 8}, {SITE: (2,)}, 10, "pixels", "64 x 64")


def test_format_distance() -> None:
    assert format_distance(Score(19.477, 10.08, 30.13)) == "19.5 (10-30)"
    assert format_distance(Score(1.852, 1.67, 2.06)) == "1.9 (1.7-2.1)"
    assert format_distance(Score(2.0, nan, nan)) == "2.0"
    assert format_distance(Score(nan, nan, nan)) == "-"


def test_the_table_fits_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    print_scores(FOUND)
    out = capsys.readouterr().out
    assert max(map(len, out.splitlines())) <= 80
    for part in ("brightfield_purple", "0.710 (0.58-0.81)", "19.5 (10-30)", "0.275 (0.22-0.33)", "HD95 (pixels)"):
        assert part in out
    note = "fewer than 10 test patients of structure 2; not counted"
    assert out.endswith(f"measured on the grid of 64 x 64 pixels\n{SITE}: {note}\n")
    assert to_json(FOUND)["sites"][SITE]["note"] == note


def test_a_score_that_does_not_exist_is_null() -> None:
    content = to_json(
        SegmentationScores({POOLED: WIDE | {"hd95": Score(nan, nan, nan)}}, {POOLED: 8}, {}, 10, "mm", "files")
    )
    assert content["pooled"]["hd95"] == {"value": None, "low": None, "high": None}
    assert (content["grid"], content["distance_unit"], content["sites"]) == ("files", "mm", {})


def test_a_distance_has_its_number_of_images(capsys: pytest.CaptureFixture[str]) -> None:
    counts = {SITE: {"dice_images": 8, "hd95_images": 3}, POOLED: {"dice_images": 9, "hd95_images": 9}}
    found = replace(FOUND, withheld={SITE: ()}, image_counts=counts)
    note = "HD95 of 3 of 8 images (mask and prediction have it)"
    content = to_json(found)
    assert (content["sites"][SITE]["hd95_images"], content["pooled"]["hd95_images"]) == (3, 9)
    assert (content["sites"][SITE]["note"], content["hd95_missing"]) == (note, "omit")
    assert "note" not in content["pooled"]
    print_scores(found)
    assert capsys.readouterr().out.endswith(f"{SITE}: {note}\n")
    several = replace(found, image_counts={SITE: {"dice_images": 8, "hd95_images": 3, "dice_images_1": 4}})
    assert "of 3 of 8 structures in images" in to_json(several)["sites"][SITE]["note"]
    assert "takes the image's diagonal" in to_json(replace(found, missing="diagonal"))["pooled"]["note"]


def test_a_structure_that_only_files_have_is_an_error() -> None:
    truth = torch.tensor([[0, 1], [255, 2]])
    evaluation = EvaluateSegmenter(num_classes=3, tolerance=1.0)
    assert evaluation._metrics(truth.clamp_max(2), truth, (1.0, 1.0)).shape == (3, 2)
    with pytest.raises(Refused, match=r"structure 2 in its masks is too small for data\.size"):
        EvaluateSegmenter(num_classes=2, tolerance=1.0)._metrics(truth * 0, truth, (1.0, 1.0))


def test_scores_that_look_like_an_error_are_explained(capsys: pytest.CaptureFixture[str]) -> None:
    nothing = {"dice": Score(0.0, 0.0, 0.1), "hd95": Score(nan, nan, nan), "surface_dice": Score(0.0, 0.0, 0.1)}
    print_scores(SegmentationScores({SITE: nothing, POOLED: nothing}, {SITE: 8, POOLED: 8}, {}, 10, "mm", "files"))
    out = capsys.readouterr().out
    assert "HD95 -: no distance exists" in out
    assert "Dice 0.000: nothing was predicted where the masks are" in out
    print_scores(FOUND)
    assert "HD95 -" not in capsys.readouterr().out
