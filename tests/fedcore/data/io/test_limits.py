"""Headers that declare more than a machine has: a clear error, and no memory is allocated."""

from __future__ import annotations

import gzip
import io
import tracemalloc
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import nibabel
import numpy as np
import pydicom
import pytest
from PIL import Image
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian

from fedcore.data.io import npz
from fedcore.data.io.error import ImageError
from fedcore.data.io.readers import read_image
from fedcore.data.manifest.manifest import read_manifest
from fedcore.errors import InputErrors
from fedcore.site.figure_files import read_arrays

MEGABYTES = 50


def npy_of(shape: tuple[int, ...], kind: str = "<f4", content: bytes = b"\0" * 64) -> bytes:
    stream = io.BytesIO()
    np.lib.format.write_array_header_1_0(stream, {"descr": kind, "fortran_order": False, "shape": shape})
    return stream.getvalue() + content


def nifti_of(shape: tuple[int, ...]) -> bytes:
    header = nibabel.Nifti1Header()
    header.set_data_dtype(np.uint8)
    header.set_data_shape(shape)
    header["vox_offset"], header["magic"] = 352, b"n+1"
    return bytes(header.binaryblock) + bytes(4 + 64)


def dicom_of(rows: int, columns: int, frames: int) -> bytes:
    meta = FileMetaDataset()
    meta.TransferSyntaxUID, meta.MediaStorageSOPClassUID = (
        ExplicitVRLittleEndian,
        pydicom.uid.SecondaryCaptureImageStorage,
    )
    meta.MediaStorageSOPInstanceUID = pydicom.uid.generate_uid(entropy_srcs=["limits"])
    file = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    file.Rows, file.Columns, file.NumberOfFrames, file.SamplesPerPixel = rows, columns, frames, 1
    file.BitsAllocated = file.BitsStored = 8
    file.HighBit, file.PixelRepresentation, file.PhotometricInterpretation = 7, 0, "MONOCHROME2"
    file.PixelData = b"\0" * 64
    stream = io.BytesIO()
    pydicom.dcmwrite(stream, file, enforce_file_format=True)
    return stream.getvalue()


def png_of(width: int, height: int) -> bytes:
    """A whole small picture whose header is another."""
    stream = io.BytesIO()
    Image.new("L", (4, 4)).save(stream, "png")
    data = stream.getvalue()
    head = b"IHDR" + width.to_bytes(4, "big") + height.to_bytes(4, "big") + data[24:29]
    return data[:12] + head + zlib.crc32(head).to_bytes(4, "big") + data[33:]


@pytest.mark.parametrize(
    ("name", "data", "text"),
    [
        ("a.npy", npy_of((10**6, 10**6)), "npy of 1000000 x 1000000 pixels; an image may have at most 1,073,741,824"),
        ("a.npy", npy_of((2**15, 2**15)), r"truncated or unreadable \(npy\): its header declares 32768 x 32768 values"),
        ("a.nii", nifti_of((32767, 32767, 32767)), "NIfTI of 32767 x 32767 x 32767 pixels"),
        ("a.nii.gz", gzip.compress(nifti_of((32767, 32767, 32767))), "NIfTI of 32767 x 32767 x 32767 pixels"),
        ("a.nii", nifti_of((1000, 1000, 1000)), "unreadable"),
        ("a.dcm", dicom_of(65535, 65535, 1000), "DICOM of 1000 x 65535 x 65535 x 1 pixels"),
        ("a.png", png_of(60000, 60000), "larger than 179 million pixels"),
        ("a.png", png_of(2**31 - 1, 2**31 - 1), "larger than 179 million pixels"),
    ],
    ids=["npy", "npy truncated", "nifti", "nifti zipped", "nifti truncated", "dicom", "png", "png largest"],
)
def test_an_image_that_declares_terabytes_is_an_error(name: str, data: bytes, text: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises(ImageError, match=r"."):
        read_image(tmp_path / name)  # what is imported on the way is not counted
    tracemalloc.start()
    with pytest.raises(ImageError, match=text):
        read_image(tmp_path / name)
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert most < MEGABYTES << 20 or "unreadable" in text


def test_data_after_the_voxels_of_a_nifti_is_not_read(tmp_path: Path) -> None:
    with gzip.open(tmp_path / "a.nii.gz", "wb") as file:
        file.write(nifti_of((4, 4, 4)))
        for _ in range(256):
            file.write(bytes(2**20))
    read_image(tmp_path / "a.nii.gz")
    tracemalloc.start()
    assert read_image(tmp_path / "a.nii.gz").shape == (1, 4, 4, 4)
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert most < MEGABYTES << 20


def packed(path: Path, **members: bytes) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(f"{name}.npy", data)
    return path


@pytest.mark.parametrize(
    ("images", "text"),
    [
        (npy_of((10**12, 8, 8)), "is truncated: its header declares 1000000000000 x 8 x 8 values"),
        (npy_of((10**12, 0)), "has 1,000,000,000,000 rows; an .npz may have at most 10,000,000"),
        (npy_of((1,), "|O"), "arrays of Python objects are not read"),
        (b"no array", "."),
    ],
)
def test_a_damaged_npz_of_a_manifest_is_an_error(images: bytes, text: str, tmp_path: Path) -> None:
    packed(tmp_path / "a.npz", train_images=images)
    (tmp_path / "m.csv").write_text("image,site\na.npz,a\n")
    with pytest.raises(InputErrors, match=f"row 2: a.npz: .*{text}"):
        read_manifest(tmp_path / "m.csv")


def test_an_npz_larger_than_the_disk_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = packed(tmp_path / "a.npz", train_images=npy_of((4, 4), content=bytes(64)))
    usage: Callable[[str], object] = lambda _: type("Usage", (), {"free": 100})  # noqa: E731
    monkeypatch.setattr("shutil.disk_usage", usage)
    with pytest.raises(ImageError, match="the temporary folder has"):
        npz.item(file, "train_images", 0)


def test_files_that_a_site_kept_have_a_limit(tmp_path: Path) -> None:
    folder = tmp_path / "sites" / "a"
    folder.mkdir(parents=True)
    packed(folder / "x.npz", small=npy_of((16,)), large=bytes(300 << 20))
    with pytest.raises(ValueError, match=r"x.npz unpacks to 300 MiB; at most 256 are allowed"):
        read_arrays(folder / "x.npz")
    packed(folder / "x.npz", small=npy_of((10**12,)))
    with pytest.raises(ValueError, match=r"small.npy is truncated"):
        read_arrays(folder / "x.npz")
    packed(folder / "x.npz", small=npy_of((16,)))
    assert read_arrays(folder / "x.npz")["small"].shape == (16,)
    (folder / "x.npz").write_bytes(npy_of((10**12,)))
    with pytest.raises(zipfile.BadZipFile):
        read_arrays(folder / "x.npz")


def test_a_manifest_with_a_nul_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "m.csv").write_bytes(b"image,site\na\0.png,a\n")
    with pytest.raises(InputErrors, match=r"not a text file \(NUL in line 2\)"):
        read_manifest(tmp_path / "m.csv")
