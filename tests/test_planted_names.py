"""Names planted in the headers of images are in no file that fedpretrain writes.

Marks are in every text field of PNG, JPEG, TIFF, NIfTI and DICOM, in the column of patients and in the path of all
files. All files of runs, predictions, exports, pages and synthetic sets are searched for them, byte by byte, also
inside archives.
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
from fedgen.sample_gallery import SampleGallery

MARK, NUMBER, WARD = "DOE^JANE", "MRN 12345", "Ward-Seven-MRN"
NAMING_PATHS = ("recipe.yaml", "scores.json", "audit.json")
"""Files of a run that name the input files and folders, by intent."""
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
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID = SecondaryCaptureImageStorage
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID = generate_uid()
    dataset.PatientName = dataset.StudyDescription = dataset.InstitutionName = MARK
    dataset.PatientID = dataset.PatientComments = NUMBER
    dataset.Rows, dataset.Columns = pixels.shape
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation, dataset.PixelRepresentation = 1, "MONOCHROME2", 0
    dataset.BitsAllocated = dataset.BitsStored = 8
    dataset.HighBit, dataset.Modality, dataset.PixelData = 7, "OT", pixels.tobytes()
    dataset.save_as(path, enforce_file_format=True)


WRITERS = {"png": png, "jpg": jpeg, "tif": tiff, "nii.gz": nifti, "dcm": dicom}


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    """48 images of two sites with masks, and marks in headers, patients and path."""
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


def run_command(*arguments: object, code: int = 0) -> None:
    with pytest.raises(SystemExit) as ended:
        main([str(argument) for argument in arguments])
    assert ended.value.code == code, arguments


def texts(path: Path) -> Iterator[bytes]:
    """The bytes of a file, and those of what it packs."""
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
    monkeypatch.setattr("fedgen.training.SampleGallery", partial(SampleGallery, sampler=Sampler(steps=2)))
    out, scans = manifest.parent / "results", manifest.parent / "scans"
    out.mkdir()
    common = ["--data.manifest", manifest, "--data.size", 32, "--rounds.count", 1, "--visit.batch_size", 8]
    encoder = ["--encoder", "fedcore.models.resnet.ResNet", "--encoder.depth", 10, "--encoder.stem", 2]
    small = ["--network.init_args.encoder.init_args.stem", 4, "--network.init_args.decoder_channels", "[8,8,8,8,8]"]
    run_command("data", "preview", manifest, "--out", out / "preview.png")
    run_command("pretrain", "simclr", *common, *encoder, "--out", out / "enc")
    few = ["--policy.min_patients", 1]
    run_command("finetune", "classify", *common, *few, *encoder, "--pretrained", out / "enc", "--label_fraction", 1,
         "--out", out / "cls")  # fmt: skip
    run_command("segment", "segment", *common, *few, *small, "--out", out / "seg")
    run_command("generate", "train", "diffusion", *common, "--generator.init_args.network.init_args.widths", "[8,16]",
         "--out", out / "gen")  # fmt: skip
    run_command("predict", out / "cls", scans, out / "tables")
    run_command("predict", out / "seg", scans, out / "masks")
    run_command("export", out / "enc", "--to", "monai")
    run_command("export", out / "cls", "--to", "onnx")
    run_command("generate", "sample", out / "gen", out / "set", "--count", 8, "--steps", 2)
    too_few_held_out = 2  # exit code: copies could not be searched
    run_command("generate", "audit", out / "gen", out / "set", "--encoder", out / "enc", code=too_few_held_out)
    for kind in ("same", "dicom"):
        run_command("generate", "release", out / "set", out / f"released_{kind}", "--force", "true", "--kind", kind)
    for run in ("enc", "cls", "seg", "gen"):
        run_command("report", out / run)
    run_command("report", out / "cls", out / "seg")
    files = [path for path in out.rglob("*") if path.is_file()]
    assert {path.suffix for path in files} >= {".png", ".gz", ".npz", ".onnx", ".safetensors", ".html", ".dcm", ".csv"}
    assert {path.relative_to(out).as_posix(): marks for path in files if (marks := marks_in(path) - _paths(path))} == {}


def _paths(path: Path) -> set[str]:
    return {WARD} if path.name in NAMING_PATHS else set()
