"""Names that are planted in the headers of images are in nothing that fedpretrain writes.

Marks stand in every text field of PNG, JPEG, TIFF, NIfTI and DICOM, in the column of patients and in the path of all
files. Whatever a run, a prediction, an export, a page or a synthetic set leaves is searched for them, byte by byte,
inside archives too.
"""

from __future__ import annotations

import csv
import gzip
import zipfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import nibabel
import numpy as np
import pytest
from jaxtyping import UInt8
from nibabel.nifti1 import Nifti1Extension
from PIL import Image, PngImagePlugin, TiffImagePlugin
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, SecondaryCaptureImageStorage, generate_uid

from fedcore.cli.main import main
from fedgen.diffusion.sampler import Sampler
from fedgen.sample_gallery import Exhibit

MARK, NUMBER, WARD = "DOE^JANE", "MRN 12345", "Ward-Seven-MRN"
NAMING_PATHS = ("recipe.yaml", "scores.json", "audit.json")
"""Work files of a run, which name the files and folders they were asked for."""
Pixels = UInt8[np.ndarray, "h w"]


def png(path: Path, pixels: Pixels) -> None:
    texts = PngImagePlugin.PngInfo()
    for key in ("Title", "Author", "Description", "Comment"):
        texts.add_text(key, f"{MARK} {NUMBER}")
    texts.add_itxt("XML:com.adobe.xmp", MARK)
    Image.fromarray(pixels).save(path, pnginfo=texts)


def jpeg(path: Path, pixels: Pixels) -> None:
    exif = Image.Exif()
    exif[0x010E], exif[0x013B], exif[0x9286] = MARK, NUMBER, MARK.encode()
    Image.fromarray(pixels).save(path, exif=exif, comment=NUMBER.encode(), quality=95)


def tiff(path: Path, pixels: Pixels) -> None:
    tags = TiffImagePlugin.ImageFileDirectory_v2()
    tags[270], tags[315], tags[316], tags[33432] = MARK, NUMBER, MARK, NUMBER
    Image.fromarray(pixels).save(path, tiffinfo=tags)


def nifti(path: Path, pixels: Pixels) -> None:
    image = nibabel.Nifti1Image(pixels, np.diag([2.0, 2.0, 2.0, 1.0]))
    for name in ("descrip", "aux_file", "db_name", "intent_name"):
        image.header[name] = (NUMBER if name == "db_name" else MARK).encode()
    image.header.extensions.append(Nifti1Extension("comment", f"{MARK} {NUMBER}".encode()))
    nibabel.save(image, path)


def dicom(path: Path, pixels: Pixels) -> None:
    made = Dataset()
    made.file_meta = FileMetaDataset()
    made.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    made.file_meta.MediaStorageSOPClassUID = made.SOPClassUID = SecondaryCaptureImageStorage
    made.file_meta.MediaStorageSOPInstanceUID = made.SOPInstanceUID = generate_uid()
    made.PatientName = made.StudyDescription = made.InstitutionName = MARK
    made.PatientID = made.PatientComments = NUMBER
    made.Rows, made.Columns = pixels.shape
    made.SamplesPerPixel, made.PhotometricInterpretation, made.PixelRepresentation = 1, "MONOCHROME2", 0
    made.BitsAllocated = made.BitsStored = 8
    made.HighBit, made.Modality, made.PixelData = 7, "OT", pixels.tobytes()
    made.save_as(path, enforce_file_format=True)


WRITERS = {"png": png, "jpg": jpeg, "tif": tiff, "nii.gz": nifti, "dcm": dicom}


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    """48 images of two sites, with masks; headers, patients and the path are marked."""
    folder, rng = tmp_path / WARD / "scans", np.random.default_rng(0)
    folder.mkdir(parents=True)
    rows, (y, x) = [["image", "site", "patient", "split", "label", "mask"]], np.mgrid[:32, :32]
    for site in ("north", "south"):
        for at in range(24):
            blob = (y - 10 - at % 8) ** 2 + (x - 12 - 5 * (at % 2)) ** 2 < (4 + 3 * (at % 2)) ** 2
            kind = list(WRITERS)[at % 5]
            image, mask = folder / f"{site}_{at}.{kind}", folder.with_name("masks") / f"{site}_{at}.png"
            mask.parent.mkdir(exist_ok=True)
            WRITERS[kind](image, (rng.uniform(0, 90, (32, 32)) + 150 * blob).astype(np.uint8))
            Image.fromarray(blob.astype(np.uint8)).save(mask)
            split = "train" if at < 16 else "test"
            rows.append([str(image), site, f"{MARK} {site} {at}", split, f"c{at % 2}", str(mask)])
    path = tmp_path / WARD / "mine.csv"
    with path.open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    return path


def said(*words: object, code: int = 0) -> None:
    with pytest.raises(SystemExit) as ended:
        main([str(word) for word in words])
    assert ended.value.code == code, words


def texts(path: Path) -> Iterator[bytes]:
    """What is in a file, and in what it packs."""
    yield path.read_bytes()
    if path.suffix == ".gz":
        yield gzip.decompress(path.read_bytes())
    if path.suffix == ".png":
        with Image.open(path) as image:
            yield repr(image.info).encode()
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as packed:
            yield from (packed.read(name) for name in packed.namelist())


def marks_in(path: Path) -> set[str]:
    marks = (MARK, "DOE JANE", NUMBER, WARD)
    forms = {mark: (mark.encode(), mark.encode("utf-16-le"), mark.encode("utf-32-le")) for mark in marks}
    held = list(texts(path))
    return {mark for mark, shapes in forms.items() if any(shape in text for shape in shapes for text in held)}


@pytest.mark.parametrize("kind", WRITERS)
def test_the_marks_are_found_where_they_were_planted(tmp_path: Path, kind: str) -> None:
    WRITERS[kind](tmp_path / f"a.{kind}", np.zeros((8, 8), np.uint8))
    assert marks_in(tmp_path / f"a.{kind}") == {MARK, NUMBER}


@pytest.mark.slow
def test_no_output_holds_a_name_from_a_header(manifest: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("onnxscript")
    monkeypatch.setattr("fedgen.training.Exhibit", partial(Exhibit, sampler=Sampler(steps=2)))
    out, scans = manifest.parent / "results", manifest.parent / "scans"
    out.mkdir()
    common = ["--data.manifest", manifest, "--data.size", 32, "--rounds.count", 1, "--visit.batch_size", 8]
    encoder = ["--encoder", "fedcore.models.resnet.ResNet", "--encoder.depth", 10, "--encoder.stem", 2]
    small = ["--network.init_args.encoder.init_args.stem", 4, "--network.init_args.widths", "[8,8,8,8,8]"]
    said("data", "preview", manifest, "--out", out / "preview.png")
    said("pretrain", "simclr", *common, *encoder, "--out", out / "enc")
    few = ["--policy.min_patients", 1]
    said("finetune", "classify", *common, *few, *encoder, "--start", out / "enc", "--label_fraction", 1,
         "--out", out / "cls")  # fmt: skip
    said("segment", "segment", *common, *few, *small, "--out", out / "seg")
    said("generate", "train", "diffusion", *common, "--generator.init_args.network.init_args.widths", "[8,16]",
         "--out", out / "gen")  # fmt: skip
    said("predict", out / "cls", scans, out / "tables")
    said("predict", out / "seg", scans, out / "masks")
    said("export", out / "enc", "--to", "monai")
    said("export", out / "cls", "--to", "onnx")
    said("generate", "sample", out / "gen", out / "set", "--count", 8, "--steps", 2)
    few_held_out = 2  # so the sites could not look for copies
    said("generate", "audit", out / "gen", out / "set", "--encoder", out / "enc", code=few_held_out)
    for kind in ("same", "dicom"):
        said("generate", "release", out / "set", out / f"released_{kind}", "--force", "true", "--kind", kind)
    for run in ("enc", "cls", "seg", "gen"):
        said("report", out / run)
    said("report", out / "cls", out / "seg")
    files = [path for path in out.rglob("*") if path.is_file()]
    assert {path.suffix for path in files} >= {".png", ".gz", ".npz", ".onnx", ".safetensors", ".html", ".dcm", ".csv"}
    assert {path.relative_to(out).as_posix(): marks for path in files if (marks := marks_in(path) - _paths(path))} == {}


def _paths(path: Path) -> set[str]:
    return {WARD} if path.name in NAMING_PATHS else set()
