from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from fedcore.data.duplicates import duplicate_warnings, pixel_digest
from fedcore.data.manifest.row import Row
from fedcore.data.source import Data


def row(number: int, site: str = "A", split: str = "train", index: int | None = None) -> Row:
    return Row(number, Path(f"{number}.png"), site, split, None, None, str(number), index=index)


def test_digests_differ_for_other_values_shapes_and_types() -> None:
    one = np.arange(12, dtype=np.float32).reshape(3, 4)
    others = [one.T, one.reshape(4, 3), one.astype(np.float64), one + np.eye(3, 4, dtype=np.float32)]
    assert pixel_digest(one) == pixel_digest(np.asfortranarray(one))
    assert len({pixel_digest(one), *map(pixel_digest, others)}) == 5


def test_duplicates_are_grouped_by_split_and_site() -> None:
    rows = [row(2), row(3), row(4, split="test"), row(5), row(6, "B"), row(7), row(8, index=3), row(9), row(10)]
    lines = duplicate_warnings(rows, ["a", "a", "a", "b", "b", "c", "c", "", ""])
    assert len(lines) == 3
    assert "1 image occurs more than once (equal pixels) in several splits" in lines[0]
    assert lines[0].endswith("rows 2 = 3 = 4")
    assert "at several sites" in lines[1]
    assert lines[1].endswith("rows 5 = 6")
    assert "at one site" in lines[2]
    assert lines[2].endswith("rows 7 = 8 [3]")


def test_many_duplicates_are_counted_and_some_listed() -> None:
    rows = [row(number) for number in range(40)]
    (line,) = duplicate_warnings(rows, [str(number // 2) for number in range(40)])
    assert line.startswith("20 images occur")
    assert line.endswith("8 = 9 and 15 more")


def test_duplicates_in_different_file_formats_are_found(tmp_path: Path) -> None:
    """In another format, and inside an .npz; constant images are ignored."""
    pictures = np.random.default_rng(0).integers(0, 255, (3, 16, 16), dtype=np.uint8)
    Image.fromarray(pictures[0]).save(tmp_path / "secret_name.png")
    Image.fromarray(pictures[0]).save(tmp_path / "again.tif")
    for name in ("flat.png", "plain.png"):
        Image.new("L", (16, 16), 9).save(tmp_path / name)
    np.savez(tmp_path / "m.npz", train_images=pictures[1:], test_images=pictures[2:])
    lines = ["secret_name.png,A,train", "again.tif,B,test", "flat.png,A,train", "plain.png,A,train", "m.npz,A,"]
    (tmp_path / "m.csv").write_text("\n".join(["image,site,split", *lines]))
    data = Data(str(tmp_path / "m.csv"), 8, cache=tmp_path / "cache")
    for cohort in (data.load(), data.load()):  # the second one from the cache
        (warning,) = [text for text in cohort.warnings if "equal pixels" in text]
        assert warning.startswith("2 images occur more than once (equal pixels) in several splits")
        assert warning.endswith("rows 2 = 3; 6 [1] = 6 [0]")
        assert "secret" not in warning
