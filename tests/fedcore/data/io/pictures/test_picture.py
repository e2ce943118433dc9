from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image, ImageOps

from fedcore.data.io.error import ImageError
from fedcore.data.io.pictures.greyscale import known_greyscale
from fedcore.data.io.readers import read_image

RNG = np.random.default_rng(0)
GREYSCALE = np.arange(12, dtype=np.uint8).reshape(3, 4)
DEEP = RNG.integers(0, 65536, (5, 6, 4)).astype(np.uint16)
DEPTHS = ["bool", "uint8", "int8", "uint16", "int16", "uint32", "int32", "float16", "float32", "float64"]


def some(dtype: str) -> np.ndarray:
    """Over all of the type's range."""
    if dtype == "bool":
        return RNG.random((5, 7)) > 0.5
    if dtype.startswith("float"):
        return RNG.normal(0, 3, (5, 7)).astype(dtype)
    ends = np.iinfo(dtype)
    return RNG.integers(ends.min, ends.max, (5, 7), dtype=dtype, endpoint=True)


def same(path: Path, truth: np.ndarray) -> bool:
    """`truth` is (h, w) or (h, w, c)."""
    expected = np.moveaxis(truth, -1, 0) if truth.ndim == 3 else truth[None]
    return np.array_equal(read_image(path), expected.astype(np.float32))


def error_of(path: Path) -> str:
    with pytest.raises(ImageError) as caught:
        read_image(path)
    return str(caught.value)


@pytest.mark.parametrize("dtype", DEPTHS)
@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("compression", [None, "deflate"])
def test_in_tiff_of_every_depth_large_is_bright(
    tmp_path: Path, dtype: str, order: str, compression: str | None
) -> None:
    stored = some(dtype)
    if stored.dtype.kind == "f":
        mirrored = -stored
    elif stored.dtype.kind == "b":
        mirrored = ~stored
    else:
        mirrored = np.iinfo(dtype).max + np.iinfo(dtype).min - stored.astype(np.int64)
    for photometric, truth in (("minisblack", stored), ("miniswhite", mirrored)):
        path = tmp_path / f"{photometric}.tif"
        tifffile.imwrite(path, stored, photometric=photometric, byteorder=order, compression=compression, metadata=None)
        assert same(path, truth)
        assert known_greyscale(path)


@pytest.mark.parametrize("array", [some("uint8"), some("uint16"), some("int32"), some("float32"), some("bool")])
def test_tiff_compressed_by_lzw_is_read(tmp_path: Path, array: np.ndarray) -> None:
    """Which only Pillow decodes."""
    Image.fromarray(array).save(tmp_path / "a.tif", compression="tiff_lzw")
    assert same(tmp_path / "a.tif", array)


@pytest.mark.parametrize("settings", [
    {"tile": (32, 48)}, {"tile": (32, 48), "compression": "deflate", "predictor": True}, {"bigtiff": True},
    {"imagej": True}, {"rowsperstrip": 7}, {"metadata": {"axes": "YX"}},
])  # fmt: skip
def test_all_layouts_of_tiff_are_read(tmp_path: Path, settings: dict[str, object]) -> None:
    array = RNG.integers(0, 65536, (70, 100)).astype(np.uint16)
    tifffile.imwrite(tmp_path / "a.tif", array, **settings)
    assert same(tmp_path / "a.tif", array)


@pytest.mark.parametrize("planar", ["contig", "separate"])
def test_tiff_of_16_bits_per_colour_is_read(tmp_path: Path, planar: str) -> None:
    for count, extra in ((3, ()), (4, ("unassalpha",))):
        array = DEEP[..., :count] if planar == "contig" else np.moveaxis(DEEP[..., :count], -1, 0)
        path = tmp_path / "a.tif"
        tifffile.imwrite(path, array, photometric="rgb", planarconfig=planar, extrasamples=extra, metadata=None)
        assert same(path, DEEP[..., :3])
        assert not known_greyscale(path)
    greyscale = {"photometric": "minisblack", "planarconfig": "contig", "metadata": None}
    tifffile.imwrite(path, DEEP[..., :2], extrasamples=("unassalpha",), **greyscale)
    assert same(path, DEEP[..., 0])
    tifffile.imwrite(path, DEEP[..., :3], **greyscale)
    assert error_of(path).startswith("TIFF of 3 samples per pixel, only 1, or 1 and alpha, are supported")


def test_palettes_and_jpeg_in_tiff_are_read(tmp_path: Path) -> None:
    path, table = tmp_path / "a.tif", RNG.integers(0, 65536, (3, 256)).astype(np.uint16)
    tifffile.imwrite(path, GREYSCALE, photometric="palette", colormap=table, metadata=None)
    assert same(path, np.moveaxis((table >> 8)[:, GREYSCALE], 0, -1))
    ramp = np.linspace(0, 255, 64)
    smooth = np.stack(np.broadcast_arrays(ramp, ramp[:, None], 90), -1).astype(np.uint8)
    Image.fromarray(smooth).save(path, compression="jpeg", quality=95)
    assert np.abs(read_image(path) - np.moveaxis(smooth, -1, 0)).max() < 6


def png(path: Path, samples: np.ndarray, bits: int, colour: int, *chunks: bytes) -> Path:
    """A PNG of rows of bytes, as the format's specification has them: Pillow does not write 16 bits."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    height, width = samples.shape[:2]
    if bits == 16:
        rows = [row.astype(">u2").tobytes() for row in samples]
    else:
        unpacked = (samples[..., None] >> np.arange(bits - 1, -1, -1)) & 1
        rows = [np.packbits(row).tobytes() for row in unpacked.reshape(height, -1)]
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0))
    extra = b"".join(chunk(one[:4], one[4:]) for one in chunks)
    body = chunk(b"IDAT", zlib.compress(b"".join(b"\0" + row for row in rows)))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + head + extra + body + chunk(b"IEND", b""))
    return path


@pytest.mark.parametrize(("colour", "channels", "kept"), [(0, 1, 1), (4, 2, 1), (2, 3, 3), (6, 4, 3)])
def test_png_of_16_bits_is_read(tmp_path: Path, colour: int, channels: int, kept: int) -> None:
    gamma = b"gAMA" + struct.pack(">I", 100_000)
    path = png(tmp_path / "a.png", DEEP[..., :channels], 16, colour, gamma)
    assert same(path, DEEP[..., :kept])


def test_a_transparent_colour_changes_nothing(tmp_path: Path) -> None:
    for channels, colour in ((1, 0), (3, 2)):
        samples = DEEP[..., :channels]
        path = png(tmp_path / "a.png", samples, 16, colour, b"tRNS" + samples[0, 0].astype(">u2").tobytes())
        assert same(path, samples)


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_png_of_few_bits_keeps_its_numbers(tmp_path: Path, bits: int) -> None:
    samples = RNG.integers(0, 2**bits, (4, 8)).astype(np.uint8)
    assert same(png(tmp_path / "a.png", samples, bits, 0), samples)


def bare_tiff(path: Path, array: np.ndarray, bits: int, photometric: int) -> Path:
    """Of samples that no writer here packs."""
    packed = np.packbits(((array[..., None] >> np.arange(bits - 1, -1, -1)) & 1).reshape(len(array), -1), axis=1)
    tags = [(256, array.shape[1]), (257, len(array)), (258, bits), (259, 1), (262, photometric), (273, 134), (277, 1),
            (278, len(array)), (279, packed.size), (339, 1)]  # fmt: skip
    head = b"II*\0" + struct.pack("<IH", 8, len(tags)) + b"".join(struct.pack("<HHII", tag, 4, 1, v) for tag, v in tags)
    path.write_bytes(head + bytes(4) + packed.tobytes())
    return path


def test_tiff_of_packed_bits_is_read(tmp_path: Path) -> None:
    for bits in (2, 4, 12):
        array = RNG.integers(0, 2**bits, (4, 8))
        assert same(bare_tiff(tmp_path / "a.tif", array, bits, 1), array)
        path = bare_tiff(tmp_path / "a.tif", array, bits, 0)
        if bits == 12:  # neither library reads it
            assert "12 bits with compression NONE is not supported" in error_of(path)
        else:
            assert same(path, 2**bits - 1 - array)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_is_applied(tmp_path: Path, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(GREYSCALE).save(tmp_path / "a.png", exif=exif)
    with Image.open(tmp_path / "a.png") as picture:
        expected = np.asarray(ImageOps.exif_transpose(picture))
    tifffile.imwrite(tmp_path / "a.tif", GREYSCALE, extratags=[(274, 3, 1, orientation, True)], metadata=None)
    Image.fromarray(GREYSCALE).save(tmp_path / "lzw.tif", compression="tiff_lzw", tiffinfo={274: orientation})
    for name in ("a.png", "a.tif", "lzw.tif"):
        assert same(tmp_path / name, expected)


def test_the_content_decides_the_kind_of_file(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", DEEP[..., 0], metadata=None)
    assert same((tmp_path / "a.tif").rename(tmp_path / "a.png"), DEEP[..., 0])


@pytest.mark.parametrize(("mode", "suffix", "text"), [
    ("CMYK", "tif", "printing inks"), ("CMYK", "jpg", "printing inks"), ("LAB", "tif", "CIELAB"),
    ("YCbCr", "tif", "YCbCr"),
])  # fmt: skip
def test_unsupported_colours_are_an_error(tmp_path: Path, mode: str, suffix: str, text: str) -> None:
    Image.new("RGB", (8, 8)).convert(mode).save(tmp_path / f"a.{suffix}")
    assert text in error_of(tmp_path / f"a.{suffix}")


@pytest.mark.parametrize("settings", [{}, {"truncate": True}, {"imagej": True}])
def test_stacks_are_an_error(tmp_path: Path, settings: dict[str, bool]) -> None:
    tifffile.imwrite(tmp_path / "a.tif", np.stack([DEEP[..., 0]] * 5), **settings)
    assert error_of(tmp_path / "a.tif").startswith("5 pages; save one picture per file")
    frames = [Image.new("L", (8, 8), level) for level in (1, 2)]
    frames[0].save(tmp_path / "a.png", save_all=True, append_images=frames[1:])
    assert error_of(tmp_path / "a.png").startswith("2 frames; save one picture per file")


def test_errors_name_the_reason(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, RNG.integers(0, 255, (99, 99)), compression="deflate", rowsperstrip=9, metadata=None)
    path.write_bytes(path.read_bytes()[:-2000])
    assert "truncated or unreadable (TIFF): its pixels end at byte" in error_of(path)
    path.write_bytes(b"II*\0garbage, and more of it")
    assert "truncated or unreadable (TIFF)" in error_of(path)
    path.write_bytes(b"GIF89a and more")
    assert error_of(path) == "truncated or unreadable: its first bytes are not those of PNG, JPEG, BMP or TIFF"
    data = io.BytesIO()
    Image.fromarray(GREYSCALE).save(data, "JPEG")
    deep = bytearray(data.getvalue())
    deep[deep.index(b"\xff\xc0") + 4] = 12
    path.write_bytes(deep)
    assert error_of(path).startswith("JPEG of 12 bits per sample, only 8 are supported")


def test_too_many_pixels_are_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 2_000_000)
    Image.new("1", (2001, 2000)).save(tmp_path / "a.png")
    assert error_of(tmp_path / "a.png") == "larger than 4 million pixels; save a smaller picture, or tiles of it"
    Image.new("1", (2001, 2000)).save(tmp_path / "a.tif", compression="group4")
    assert error_of(tmp_path / "a.tif").startswith("larger than 4 million pixels")
