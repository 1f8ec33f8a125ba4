# SPDX-License-Identifier: Apache-2.0
import pytest

from hf_sidenet.data import Columns, load_splits
from hf_sidenet.data.preparing import without_bad_rows

from .files import datasets, pictures, table


TEXT = Columns(("text",), "label", "text")


def made(**columns):
    return datasets.Dataset.from_dict(columns)


@pytest.mark.parametrize("missing", [None, "", " "])
def test_a_label_that_is_missing_is_named_with_its_row(missing):
    rows = made(text=["a", "b", "c"], label=["x", missing, "y"])
    with pytest.raises(
        ValueError, match=r"^`train` must have a text and a label in every row, but row 2 has no label"
    ):
        without_bad_rows(rows, "train", TEXT, skip=False)
    kept, count = without_bad_rows(rows, "train", TEXT, skip=True)
    assert (kept["text"][:], count) == (["a", "c"], 1)


def test_numbers_that_are_missing():
    rows = made(text=["a", "b", "c", "d"], label=[1.0, float("nan"), None, 0.0])
    with pytest.raises(ValueError, match=r"row 2 has no label in 'label'; row 3 has .*: 2 of 4 rows in total"):
        without_bad_rows(rows, "test", TEXT, skip=False)
    kept, count = without_bad_rows(rows, "test", TEXT, skip=True)
    assert (kept["label"][:], count) == ([1.0, 0.0], 2)


def test_texts_that_are_missing_in_a_pair():
    rows = made(a=["1", None, "3"], b=["1", "2", None], label=[0, 1, 0])
    columns = Columns(("a", "b"), "label", "text")
    with pytest.raises(ValueError, match=r"row 2 has no text in 'a'; row 3 has no text in 'b'"):
        without_bad_rows(rows, "train", columns, skip=False)
    assert without_bad_rows(rows, "train", columns, skip=True)[0]["a"][:] == ["1"]


def test_rows_are_counted_as_they_were_chosen():
    """A selection of a table whose other rows are bad."""
    rows = made(text=["a", None, "c"], label=[0, 1, None])
    assert without_bad_rows(rows.select([0]), "train", TEXT, skip=False)[1] == 0
    with pytest.raises(ValueError, match="row 2 has no text"):
        without_bad_rows(rows.select([0, 1]), "train", TEXT, skip=False)


def test_whole_rows_and_rows_without_labels_stay_as_they_are():
    rows = made(text=["a", ""], label=[0, 1])
    assert without_bad_rows(rows, "train", TEXT, skip=False) == (rows, 0)
    bare = rows.remove_columns("label")
    assert without_bad_rows(bare, "train", TEXT, skip=False) == (bare, 0)


def test_nothing_is_left():
    rows = made(text=[None, None], label=[0, 1])
    with pytest.raises(ValueError, match=r"2 of 2 rows in total\.$"):
        without_bad_rows(rows, "train", TEXT, skip=True)


def spoil(path, how):
    content = path.read_bytes()
    path.write_bytes({"empty": b"", "text": b"no picture", "cut": content[: len(content) // 2]}[how])


@pytest.mark.parametrize("how", ["empty", "text", "cut"])
def test_pictures_that_cannot_be_read(tmp_path, how):
    folder = pictures(tmp_path / "p", count=3)
    spoil(folder / "dark" / "1.png", how)
    splits, columns = load_splits(files={"train": folder})
    with pytest.raises(ValueError, match=r"^`train` must have a picture .* row 2 has a picture .*dark.1\.png' that"):
        without_bad_rows(splits["train"], "train", columns, skip=False)
    kept, count = without_bad_rows(splits["train"], "train", columns, skip=True)
    assert (len(kept), count) == (5, 1)
    assert [row["image"].size for row in kept] == [(8, 8)] * 5


def test_paths_of_pictures_that_are_not_there(tmp_path):
    folder = pictures(tmp_path / "p")
    lines = [(folder / "light" / "0.png", "light"), (folder / "light" / "9.png", "light")]
    path = table(tmp_path / "t.csv", lines, columns=("image", "label"))
    splits, columns = load_splits(files={"test": str(path)})
    with pytest.raises(ValueError, match=r"row 2 has a picture .*9\.png' that cannot be read"):
        without_bad_rows(splits["test"], "test", columns, skip=False)
    assert without_bad_rows(splits["test"], "test", columns, skip=True)[1] == 1
