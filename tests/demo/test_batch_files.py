# SPDX-License-Identifier: Apache-2.0
"""Files that visitors upload."""

import csv
import io

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from hf_sidenet.demo import batch_files
from hf_sidenet.demo.batch_files import (
    Upload,
    UploadError,
    check_text,
    read_picture,
    read_pictures,
    read_table,
    write_answers,
)
from hf_sidenet.demo.html import picture_html


def write(folder, content, name="rows.csv"):
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def test_a_table(tmp_path):
    batch = read_table(write(tmp_path, '\ufeffid,Text,label\n1,"one, two",good\n\n2,three,bad\n'))
    assert batch.columns == ["id", "Text", "label"]
    assert batch.rows == ["one, two", "three"]
    assert batch.labels == ["good", "bad"]
    assert batch.cells == [["1", "one, two", "good"], ["2", "three", "bad"]]


def test_quotation_marks_are_text_in_a_tsv_file(tmp_path):
    batch = read_table(write(tmp_path, 'sentence\tx\n"so" they say\t1\n', "rows.TSV"))
    assert (batch.rows, batch.labels) == (['"so" they say'], None)


def test_pairs(tmp_path):
    path = write(tmp_path, "text,text_pair,label\na,b,0\n")
    assert read_table(path, is_pair=True).rows == [("a", "b")]
    # Half of a pair is no text.
    with pytest.raises(UploadError, match="a column named one of: text, sentence"):
        read_table(path)
    path = write(tmp_path, "premise,hypothesis,label\na,b,0\n")
    assert read_table(path, is_pair=True).rows == [("a", "b")]
    with pytest.raises(UploadError, match="two columns named one of: text and text_pair, sentence1 and"):
        read_table(write(tmp_path, "text\na\n"), is_pair=True)


@pytest.mark.parametrize(
    ("content", "name", "message"),
    [
        ("text\na\n", "rows.xlsx", "must be one of .csv, .tsv, got rows.xlsx"),
        ("", "rows.csv", "must have a header line and at least one row, got an empty file."),
        ("text\n", "rows.csv", "must have a header line and at least one row, got only a header."),
        (b"text\n\xff\xfe\n", "rows.csv", "must be UTF-8 text: invalid start byte at byte 5"),
        (b"\x89PNG\r\n\x1a\n", "rows.csv", "must be UTF-8 text"),
        ('text\n"never closed\n', "rows.csv", "is not a valid csv file: unexpected end of data"),
        ("text,x\na\n", "rows.csv", "a cell for each of the 2 columns, got 1 in row 1"),
        ("words\na\n", "rows.csv", r"a column named one of: text, sentence, review, content; got 'words'"),
        ("text" + ",x" * 100 + "\na" + "," * 100 + "\n", "rows.csv", "at most 100 columns, got 101"),
        ("text\na\n \n", "rows.csv", "must have a text in every row, got none in row 2"),
        ("text\n" + "x" * 20_001 + "\n", "rows.csv", "at most 20,000 characters, got 20,001 in row 1"),
        ("text\n" + "x" * 200_000 + "\n", "rows.csv", "is not a valid csv file: field larger than field limit"),
        ("text\n" + "a\n" * 10_001, "rows.csv", "at most 10,000 rows, got more"),
    ],
)
def test_what_cannot_be_read(tmp_path, content, name, message):
    with pytest.raises(UploadError, match=message):
        read_table(write(tmp_path, content, name))


def test_too_large_a_file(tmp_path, monkeypatch):
    monkeypatch.setattr(batch_files, "MAX_BYTES", 2**20)
    with pytest.raises(UploadError, match=r"at most 1 MB, got 1,048,582 bytes"):
        read_table(write(tmp_path, "text\n" + "a" * 2**20 + "\n"))


def test_nothing_given():
    for read in (read_table, read_picture, read_pictures):
        with pytest.raises(UploadError, match=r"Choose .* first"):
            read(None)
    for text in (None, "", " \n"):
        with pytest.raises(UploadError, match="Type something first: the text is empty"):
            check_text(text)
    with pytest.raises(UploadError, match="the text has half of a surrogate pair"):
        check_text("\ud800 x")
    with pytest.raises(UploadError, match="at most 20,000 characters: the text has 20,001"):
        check_text("x" * 20_001)


@given(st.binary(max_size=200))
def test_any_bytes_are_read_or_refused(tmp_path_factory, content):
    path = write(tmp_path_factory.mktemp("any"), b"text\n" + content)
    try:
        batch = read_table(path)
    except UploadError:
        return
    assert len(batch.rows) == len(batch.cells) > 0
    assert all(row.strip() for row in batch.rows)


CELLS = st.text(st.characters(codec="utf-8", exclude_characters="\r\n\0", exclude_categories=["Cc", "Cs"]), min_size=1)


@given(st.lists(st.tuples(CELLS, CELLS), min_size=1, max_size=5))
def test_answers_stand_beside_the_rows_as_they_were(tmp_path_factory, rows):
    path = tmp_path_factory.mktemp("out") / "answers.csv"
    batch = Upload(["text", "predicted"], [list(row) for row in rows], [row[0] for row in rows], None)
    write_answers(path, batch, [("good", "")] * len(rows), ("predicted", "error"))
    read = list(csv.reader(io.StringIO(path.read_text(encoding="utf-8"), newline="")))
    assert read == [["text", "predicted", "predicted_", "error"], *([*row, "good", ""] for row in rows)]


def test_pictures(tmp_path):
    Image.new("RGBA", (4, 3), (255, 0, 0, 10)).save(tmp_path / "a.png")
    Image.new("L", (5, 5)).save(tmp_path / "b.jpg")
    batch = read_pictures([str(tmp_path / "a.png"), str(tmp_path / "b.jpg")])
    # As they are: the runner brings them to the channels that the MainNet reads.
    assert [(picture.mode, picture.size) for picture in batch.rows] == [("RGBA", (4, 3)), ("L", (5, 5))]
    shown = [picture_html(picture) for picture in [*batch.rows, Image.new("CMYK", (3, 3))]]
    assert all(text.startswith("<img class='sidenet-picture' src='data:image/png;base64,") for text in shown)
    assert (batch.columns, batch.cells, batch.labels) == (["file"], [["a.png"], ["b.jpg"]], None)
    with pytest.raises(UploadError, match="at most 200 pictures at once, got 201"):
        read_pictures([str(tmp_path / "a.png")] * 201)


def test_pictures_of_a_telephone_stand_upright(tmp_path):
    picture = Image.new("RGB", (4, 3))
    picture.putpixel((0, 0), (255, 255, 255))
    exif = Image.Exif()
    exif[274] = 6  # to be turned by 90° clockwise
    picture.save(tmp_path / "a.png", exif=exif)
    read = read_picture(tmp_path / "a.png")
    assert (read.size, read.getpixel((2, 0))) == ((3, 4), (255, 255, 255))


def test_what_is_no_picture(tmp_path, monkeypatch):
    Image.new("RGB", (64, 64), (1, 2, 3)).save(tmp_path / "whole.png")
    whole = (tmp_path / "whole.png").read_bytes()
    for name, content in (
        ("text.png", b"no picture"),
        ("cut.png", whole[:60]),
        ("empty.jpg", b""),
        ("a.eps", b"%!PS-Adobe"),
    ):
        with pytest.raises(UploadError, match=f"{name} cannot be read as a picture"):
            read_picture(write(tmp_path, content, name))
    monkeypatch.setattr(batch_files, "MAX_PIXELS", 4095)
    with pytest.raises(UploadError, match=r"at most 4,095 pixels, got 64 × 64 in whole\.png"):
        read_picture(tmp_path / "whole.png")
