from __future__ import annotations

import unicodedata
from pathlib import Path

import pytest

from fedcore.data.manifest.columns import Columns
from fedcore.data.manifest.manifest import Manifest, read_manifest
from fedcore.errors import InputErrors


def written(folder: Path, text: str | bytes, files: str = "a.png b.png c.png") -> Path:
    for name in files.split():
        (folder / name).write_bytes(b"x")
    path = folder / "manifest.csv"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def errors_of(path: Path) -> str:
    with pytest.raises(InputErrors) as caught:
        read_manifest(path)
    return "\n".join(caught.value.errors)


def read(folder: Path, text: str) -> Manifest:
    return read_manifest(written(folder, text))


def test_all_columns_are_read(tmp_path: Path) -> None:
    found = read(
        tmp_path,
        "image,site,split,label,mask,patient,licence\n"
        "a.png,north,train,cat,c.png,p1,CC0\n\n"
        'b.png,south 2,Validation,,,"p2",CC0\n',
    )
    first, second = found.rows
    assert (first.number, first.image, first.mask) == (2, tmp_path / "a.png", tmp_path / "c.png")
    assert (second.number, second.split, second.label, second.mask) == (4, "val", None, None)
    assert (found.classes, found.has_split) == (("cat",), True)
    assert found.warnings == ("columns ignored: 'licence'",)


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_delimiters_marks_and_line_ends_are_recognised(tmp_path: Path, delimiter: str, mark: bytes, end: str) -> None:
    text = f"image{delimiter}site{end}a.png{delimiter}north{end}b.png{delimiter}south{end}"
    rows = read_manifest(written(tmp_path, mark + text.encode())).rows
    assert [row.site for row in rows] == ["north", "south"]


def test_without_split_and_patient_all_images_are_for_training(tmp_path: Path) -> None:
    found = read(tmp_path, "image,site\na.png,n\nb.png,n\n")
    assert {row.split for row in found.rows} == {"train"}
    assert len({row.patient for row in found.rows}) == 2
    assert not found.has_split
    assert "no column split" in found.warnings[-1]


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("", "empty"),
        ("image,site\n", "no rows"),
        ("image,label\na.png,x\n", "column 'site' is missing"),
        ("image,site,patients\na.png,n,x\n", "unknown column 'patients'; did you mean 'patient'?"),
        ("image,site,site\na.png,n,m\n", "column 'site' occurs 2 times"),
        ("image,site\nmissing.png,n\n", "row 2: missing.png is missing"),
        ("image,site,mask\na.png,n,none.png\n", "row 2: none.png is missing"),
        ("image,site\n,n\n", "row 2: image is empty"),
        ("image,site\na.png,n\na.png,m\n", "row 3: the same image as row 2"),
        ("image,site\na.png,\n", "row 2: site is empty"),
        ("image,site\na.png,../up\n", "row 2: a site's name"),
        (
            f"image,site\na.png,{'x' * 201}\n",
            "row 2: a site's name must have at most 200 bytes; 'xxxxxxxxxxxxxxxxxxxx...'",
        ),
        (f"image,site\na.png,{'д' * 101}\n", "row 2: a site's name must have at most 200 bytes"),
        ("image,site\n\0.png,n\n", "not a text file (NUL in line 2); save it as 'CSV UTF-8'"),
        ("image,site,split\na.png,n,training\n", "row 2: split must be train, val or test; got 'training'"),
        ("image,site,split\na.png,n,\n", "row 2: split must be train, val or test"),
        ("image,site\na.png,n,extra\n", "row 2: 3 cells, 2 columns"),
        (
            "image,site,split,patient\na.png,n,train,p\nb.png,n,test,p\n",
            "row 3: patient in test, but in train in row 2",
        ),
        ("image,site,patient,position\na.png,n,p,12;5\n", "row 2: position must be a number such as 12.5; got '12;5'"),
        ("image,site,patient,position\na.png,n,p,inf\n", "row 2: position must be a number such as 12.5; got 'inf'"),
        ("image,site\na.png,NaN\n", "row 2: site 'NaN' is a word for a missing value; give the hospital a name"),
        ("image,site\nnull,n\n", "row 2: image is empty"),
        ("image,site,split\na.png,n,nan\n", "row 2: split must be train, val or test"),
        ("image,site,label\na.png,n,None\n", "row 2: label 'None' is ambiguous"),
        ("image,site,label\na.png,n,Mass|nan\n", "row 2: label 'Mass|nan' contains a finding and 'nan'"),
        ("image,site\na.png,St Anna\nb.png,st_anna\n", "sites 'St Anna' (row 2) and 'st_anna' (row 3) seem to be one"),
        ("image,site,patient,position\na.png,n,,3\n", "row 2: position without patient"),
        ("image,site,positions\na.png,n,3\n", "unknown column 'positions'; did you mean 'position'?"),
        (b"image,site\n\xff.png,n\n", "not UTF-8 text (byte 11)"),
    ],
)
def test_errors_have_their_row(tmp_path: Path, text: str | bytes, error: str) -> None:
    assert error in errors_of(written(tmp_path, text))


def test_positions_run_from_0_to_1_in_each_patient_of_a_site(tmp_path: Path) -> None:
    text = "image,site,patient,position\n"
    records = [
        ("n", "p", "-4.5"),
        ("n", "p", "10"),
        ("n", "p", ""),
        ("n", "q", "3"),
        ("s", "p", "900"),
        ("n", "p", "0"),
    ]
    records += [("s", "p", "1e3")]
    names = [f"{at}.png" for at in range(len(records))]
    text += "".join(f"{name},{','.join(record)}\n" for name, record in zip(names, records, strict=True))
    rows = read_manifest(written(tmp_path, text, files=" ".join(names))).rows
    assert [row.position for row in rows] == [0, 1, None, 0.5, 0, pytest.approx(4.5 / 14.5), 1]


def test_empty_files_and_folders_are_an_error(tmp_path: Path) -> None:
    (tmp_path / "empty.png").touch()
    (tmp_path / "series").mkdir()
    errors = errors_of(written(tmp_path, "image,site\nempty.png,n\nseries,n\n"))
    assert "row 2: empty.png is empty" in errors
    assert "row 3: series is empty" in errors


def test_all_errors_are_reported_together(tmp_path: Path) -> None:
    errors = errors_of(written(tmp_path, "image,site,split\nmissing.png,,x\na.png,n,train\na.png,n,train\n"))
    assert len(errors.splitlines()) == 4
    assert "row 2: missing.png is missing" in errors
    assert "row 4" in errors


def test_a_missing_manifest_is_an_error(tmp_path: Path) -> None:
    assert "cannot be read: No such file or directory; give the path of a CSV file" in errors_of(tmp_path / "none.csv")


def test_words_for_a_missing_value_are_read_as_empty(tmp_path: Path) -> None:
    text = "image,site,label,mask,patient,position\na.png,n,nan,None,N/A,-\nb.png,n,<NA>,,p,3\nc.png,n,x,null,p,4\n"
    found = read(tmp_path, text)
    assert [row.label for row in found.rows] == [None, None, "x"]
    assert [row.mask for row in found.rows] == [None] * 3
    assert [row.position for row in found.rows] == [None, 0, 1]
    assert [row.patient for row in found.rows] == ["n/a.png", "n/p", "n/p"]
    assert "column 'label': 2 cells such as nan or N/A are read as empty; these images have no label" in found.warnings
    assert "column 'mask': 2 cells such as nan or N/A are read as empty; these images have no mask" in found.warnings
    assert any(text.startswith("column 'patient': 1 cell such as nan or N/A is read") for text in found.warnings)


def test_floats_of_pandas_become_whole_numbers(tmp_path: Path) -> None:
    text = "image,site,split,label,patient\na.png,1.0,train,0.0,12\nb.png,1,train,0,12.0\nc.png,1,train,1.0|2.0,7\n"
    found = read(tmp_path, text)
    assert found.classes == ("0", "1|2")
    assert {row.site for row in found.rows} == {"1"}
    assert len({row.patient for row in found.rows}) == 2
    assert "column 'label': 1 number such as 12.0 is read as 12" in found.warnings
    assert "column 'patient': 1 number such as 12.0 is read as 12" in found.warnings


def test_similar_classes_are_one_error(tmp_path: Path) -> None:
    text = "image,site,label\na.png,n,Normal\nb.png,n,normal\nc.png,n,01|Mass\nd.png,n,mass|1\n"
    errors = errors_of(written(tmp_path, text, files="a.png b.png c.png d.png"))
    assert "classes 'Normal' (row 2) and 'normal' (row 3) seem to be one" in errors
    assert "classes '01' (row 4) and '1' (row 5)" in errors
    assert "classes 'Mass' (row 4) and 'mass' (row 5)" in errors


def test_two_forms_of_an_accent_are_one_name(tmp_path: Path) -> None:
    names = [unicodedata.normalize(form, "São Paulo é") for form in ("NFC", "NFD")]
    (tmp_path / f"{names[1]}.png").write_bytes(b"x")
    text = f"image,site,label\n{names[0]}.png,{names[0]},{names[0]}\na.png,{names[1]},{names[1]}\n"
    found = read(tmp_path, text)
    assert found.classes == (names[0],)
    assert {row.site for row in found.rows} == {names[0]}
    assert found.rows[0].image.exists()


TWO_HOSPITALS = "image,site,split,patient\na.png,A,train,1\nb.png,A,test,2\nc.png,B,test,1\nd.png,B,train,2\n"


def test_patient_numbers_are_per_site_by_default(tmp_path: Path) -> None:
    path = written(tmp_path, TWO_HOSPITALS, files="a.png b.png c.png d.png")
    found = read_manifest(path)
    assert len({row.patient for row in found.rows}) == 4
    assert "2 patient numbers occur at several sites" in found.warnings[0]
    assert found.warnings[0].endswith("set data.patients_are_global true (2 of them are then in several splits)")


def test_global_patient_numbers_are_one_patient_at_all_sites(tmp_path: Path) -> None:
    path = written(tmp_path, TWO_HOSPITALS, files="a.png b.png c.png d.png")
    with pytest.raises(
        InputErrors, match="row 4: patient in test at site 'B', but in train at site 'A' in row 2"
    ) as caught:
        read_manifest(path, patients_are_global=True)
    assert "set data.patients_are_global false" in caught.value.errors[0]
    path.write_text(TWO_HOSPITALS.replace("test", "train"))
    assert len({row.patient for row in read_manifest(path, patients_are_global=True).rows}) == 2


def test_similar_patient_numbers_have_a_warning(tmp_path: Path) -> None:
    found = read(tmp_path, "image,site,patient\na.png,n,007\nb.png,n,7\nc.png,m,7\n")
    expected = "1 patient number is written in several ways, as 7 and 007 (rows 2, 3)"
    assert any(expected in text for text in found.warnings)


def test_columns_can_have_other_names(tmp_path: Path) -> None:
    path = written(tmp_path, "Path,hospital,Target\na.png,north,x\n")
    columns = Columns(image="path", site="Hospital", label="target")
    (row,) = read_manifest(path, columns).rows
    assert (row.image, row.site, row.label) == (tmp_path / "a.png", "north", "x")
    errors = errors_of(path)
    assert "if it is 'path', set data.columns.image path" in errors
    assert "if it is 'hospital', set" in errors


def test_skip_omits_rows_without_files_and_no_others(tmp_path: Path) -> None:
    (tmp_path / "empty.png").touch()
    text = "image,site,mask\na.png,n,\ngone.png,n,\nempty.png,n,\nb.png,n,no.png\n"
    found = read_manifest(written(tmp_path, text), on_error="skip")
    assert [row.number for row in found.rows] == [2]
    assert [(row.number, text.split(" ")[2]) for row, text in found.missing] == [
        (3, "missing"),
        (4, "empty"),
        (5, "missing"),
    ]
    with pytest.raises(InputErrors, match="site is empty"):
        read_manifest(written(tmp_path, text + "c.png,,\n"), on_error="skip")
    with pytest.raises(InputErrors, match=r"gone\.png is missing"):
        read_manifest(written(tmp_path, "image,site\ngone.png,n\n"), on_error="skip")
