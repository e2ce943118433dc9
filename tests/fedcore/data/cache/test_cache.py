from __future__ import annotations

import errno
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fedcore.data.cache import cache
from fedcore.data.cache.cache import Store, decode_sites
from fedcore.data.manifest.manifest import Row
from fedcore.data.preprocess import decode
from fedcore.data.preprocess.decode import Decoding
from fedcore.data.preprocess.scaling import FullRange, Percentiles
from fedcore.errors import InputError, InputErrors

UNKNOWN = "truncated or unreadable: no PNG, JPEG, BMP or TIFF by its first bytes"
HOW = Decoding(FullRange(), (6, 6), 1)
Sites = dict[str, list[Row]]


@pytest.fixture
def sites(tmp_path: Path) -> Sites:
    """Two sites of five images, image i filled with 20 i but for one bright pixel."""
    rows = []
    for at in range(10):
        pixels = np.full((6, 6), 20 * at, np.uint8)
        pixels[at // 2, 0] = 255
        Image.fromarray(pixels).save(tmp_path / f"{at}.png")
        rows.append(Row(at + 2, tmp_path / f"{at}.png", "", "train", None, None, f"{at}"))
    return {"north": rows[:5], "south": rows[5:]}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "cache"


def stored(stores: dict[str, Store]) -> dict[str, list[int]]:
    return {
        site: np.rint((store.pixels[:, 0, 5, 5] + 1.0) * 127.5).astype(int).tolist() for site, store in stores.items()
    }


def no_decoding(patch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise AssertionError("decoded again")

    patch.setattr(decode, "read_image", fail)


def test_images_come_in_their_order(sites: Sites, folder: Path) -> None:
    done: list[tuple[int, int]] = []
    stores = decode_sites(sites, HOW, folder, progress=lambda *now: done.append(now))
    assert stored(stores) == {"north": [0, 20, 40, 60, 80], "south": [100, 120, 140, 160, 180]}
    assert isinstance(stores["north"].pixels, np.memmap)
    assert (stores["north"].pixels.dtype, stores["north"].masks) == (np.float16, None)
    assert done == [(at, 10) for at in range(1, 11)]
    assert folder.stat().st_mode & 0o077 == 0


def test_a_hit_decodes_nothing(sites: Sites, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = stored(decode_sites(sites, HOW, folder))
    no_decoding(monkeypatch)
    assert stored(decode_sites(sites, HOW, folder)) == first
    renamed = {"east": sites["north"]}
    assert stored(decode_sites(renamed, HOW, folder))["east"] == first["north"]


def test_an_unchanged_set_is_not_read(sites: Sites, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    decode_sites(sites, HOW, folder)
    opened: list[str] = []
    honest = Path.open
    monkeypatch.setattr(Path, "open", lambda path, *args, **kw: opened.append(path.suffix) or honest(path, *args, **kw))
    decode_sites(sites, HOW, folder)
    assert ".png" not in opened


def test_a_changed_file_is_decoded_anew(sites: Sites, folder: Path) -> None:
    decode_sites(sites, HOW, folder)
    path = sites["north"][0].image
    Image.new("L", (6, 6), 200).save(path)
    os.utime(path, ns=(1, 1))
    counts: list[int] = []
    stores = decode_sites(sites, HOW, folder, progress=lambda _, total: counts.append(total))
    assert stored(stores)["north"] == [200, 20, 40, 60, 80]
    assert set(counts) == {5}  # the other site is served from the cache


@pytest.mark.parametrize(
    "how",
    [
        Decoding(Percentiles(), (6, 6), 1),
        Decoding(FullRange(), (6, 7), 1),
        Decoding(FullRange(), (6, 6), 3),
        replace(HOW, mask_255="class"),
        replace(HOW, nan="minimum"),
    ],
)
def test_settings_are_part_of_the_key(sites: Sites, folder: Path, how: Decoding) -> None:
    decode_sites(sites, HOW, folder)
    stores = decode_sites(sites, how, folder)
    assert stores["north"].pixels.shape == (5, how.channels, *how.size)
    assert len([path for path in folder.iterdir() if path.is_dir()]) == 4


def test_faults_of_all_sites_at_once(sites: Sites, folder: Path) -> None:
    sites["north"][1].image.write_bytes(b"no picture")
    sites["south"][3].image.write_bytes(b"")
    np.save(sites["south"][4].image.with_suffix(".npy"), np.zeros((5, 6, 7)))
    sites["south"].append(Row(99, sites["south"][4].image.with_suffix(".npy"), "", "train", None, None, "v"))
    with pytest.raises(InputErrors) as caught:
        decode_sites(sites, HOW, folder)
    assert caught.value.faults == (
        f"site 'north', row 3, 1.png: {UNKNOWN}",
        "site 'south', row 10, 8.png: zero bytes",
        "site 'south', row 99, 9.npy: a 3D image among 2D ones; put them in manifests of their own",
    )
    assert [path.name for path in folder.iterdir()] == ["known.json"]


def test_skip_leaves_faulty_rows_out(sites: Sites, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sites["north"][1].image.write_bytes(b"no picture")
    store = decode_sites(sites, HOW, folder, on_error="skip")["north"]
    assert (store.kept, store.faults) == ((0, 2, 3, 4), ((1, UNKNOWN),))
    assert stored({"north": store})["north"] == [0, 40, 60, 80]
    with monkeypatch.context() as patch:
        no_decoding(patch)
        assert decode_sites(sites, HOW, folder, on_error="skip")["north"].faults == store.faults
    with pytest.raises(InputErrors):
        decode_sites(sites, HOW, folder)


def test_a_site_without_a_readable_image(sites: Sites, folder: Path) -> None:
    for row in sites["north"]:
        row.image.write_bytes(b"")
    assert decode_sites(sites, HOW, folder, on_error="skip")["north"].pixels.shape == (0, 1, 6, 6)


def test_constant_images_are_kept_and_told(sites: Sites, folder: Path) -> None:
    Image.new("L", (6, 6), 9).save(sites["north"][2].image)
    store = decode_sites(sites, Decoding(Percentiles(), (6, 6), 1), folder)["north"]
    assert store.constant == (2,)
    assert (store.pixels[2] == -1).all()


def test_masks(sites: Sites, folder: Path, tmp_path: Path) -> None:
    rows = sites["north"]
    Image.fromarray(np.eye(6, dtype=np.uint8) * 2).save(tmp_path / "m.png")
    rows[1] = Row(3, rows[1].image, "", "train", None, tmp_path / "m.png", "1")
    masks = decode_sites(sites, HOW, folder)["north"].masks
    assert masks is not None
    assert masks[1].tolist() == (np.eye(6) * 2).tolist()
    assert (masks[0] == 255).all()  # nobody labelled it
    Image.new("L", (6, 7)).save(tmp_path / "m.png")
    os.utime(tmp_path / "m.png", ns=(1, 1))
    with pytest.raises(InputErrors, match="mask has shape 7 x 6, its image 6 x 6"):
        decode_sites(sites, HOW, folder)


@pytest.mark.parametrize("error", [KeyboardInterrupt(), MemoryError()])
def test_a_killed_decode_leaves_nothing(
    sites: Sites, folder: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    def interrupt(*_: int) -> None:
        raise error

    with pytest.raises(type(error)):
        decode_sites(sites, HOW, folder, progress=interrupt)
    assert [path.name for path in folder.iterdir()] == ["known.json"]
    assert stored(decode_sites(sites, HOW, folder))["north"] == [0, 20, 40, 60, 80]


def test_what_a_killed_process_left_is_swept(sites: Sites, folder: Path) -> None:
    for name, age in (("old", 10**6), ("new", 0)):
        left = folder / f".decoding-{name}"
        left.mkdir(parents=True)
        os.utime(left, (left.stat().st_mtime - age,) * 2)
    decode_sites(sites, HOW, folder)
    assert [path.name for path in folder.glob(".decoding-*")] == [".decoding-new"]


def test_a_full_disk(sites: Sites, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(cache.GrowingArray, "extend", full)
    with pytest.raises(InputError, match="No space left on device"):
        decode_sites(sites, HOW, folder)
    assert [path.name for path in folder.iterdir()] == ["known.json"]


def test_a_folder_that_cannot_be_made(sites: Sites, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="cannot be written"):
        decode_sites(sites, HOW, tmp_path / "file" / "cache")


def test_default_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("FEDPRETRAIN_CACHE", str(tmp_path))
    assert cache.default_folder() == tmp_path
    monkeypatch.delenv("FEDPRETRAIN_CACHE")
    assert cache.default_folder() == Path.home() / ".cache" / "fedpretrain"
