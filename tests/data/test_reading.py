# SPDX-License-Identifier: Apache-2.0
import json

import pytest

from hf_sidenet.data.loading import read_data_set, read_file

from .files import TEXTS, datasets, pictures, save, table


@pytest.mark.parametrize("kind", ["csv", "tsv", "json", "jsonl", "parquet"])
def test_every_kind_of_file_has_the_same_rows(tmp_path, kind):
    # A folder's name may look like a pattern.
    (tmp_path / "run[1]*").mkdir()
    rows = read_file("train_file", save(tmp_path / "run[1]*" / f"t.{kind}"))
    assert list(zip(rows["text"][:], rows["label"][:], strict=True)) == TEXTS


def test_names_of_columns(tmp_path):
    rows = read_file("train_file", table(tmp_path / "t.tsv", TEXTS, columns=None), ["text", "label"])
    assert rows[:] == read_file("train_file", save(tmp_path / "t.csv"))[:]


def test_a_file_that_starts_with_a_byte_order_mark(tmp_path):
    (tmp_path / "t.csv").write_text("text,label\na,1\n", encoding="utf-8-sig")
    assert read_file("train_file", tmp_path / "t.csv").column_names == ["text", "label"]


def test_pictures_with_metadata_take_their_labels_from_it(tmp_path):
    folder = pictures(tmp_path / "p", count=1)
    lines = [{"file_name": f"{name}/0.png", "label": name[::-1]} for name in ("dark", "light")]
    (folder / "metadata.jsonl").write_text("\n".join(map(json.dumps, lines)))
    assert sorted(read_file("train_file", folder)["label"][:]) == ["krad", "thgil"]


def test_data_sets(tmp_path):
    made = datasets.DatasetDict({"train": datasets.Dataset.from_dict({"text": ["a"]})})
    made.save_to_disk(tmp_path / "saved")
    (tmp_path / "files").mkdir()
    made["train"].to_parquet(tmp_path / "files" / "train.parquet")
    for name in ("saved", "files"):
        assert read_data_set(str(tmp_path / name), None)["train"]["text"][:] == ["a"]
    with pytest.raises(ValueError, match=r"^`dataset_name` '.*files' could not be read: .*other"):
        read_data_set(str(tmp_path / "files"), "other")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("no.csv", None, "must be a file or a folder of pictures, got .*no.csv', which does not exist"),
        ("t.csv", "", "must have rows, got .*, which is empty"),
        ("t.tsv", "text\tlabel\n", "must have rows, got .* with only a header line"),
        ("t.xls", "x", r"must be a folder of pictures or one of \['.csv', '.json', .*\], got .*t.xls"),
        ("t.parquet", "x", "'.*t.parquet' could not be read: Parquet file size is 1 bytes"),
        ("t.json", "{]", "'.*t.json' could not be read: JSON parse error"),
        ("t.csv", "text,label\na,b,1\n", r"must have a cell for each of the columns \['text', 'label'\], got 3"),
        ("t.csv", "text,label\na,1\nb,c,1\n", "'.*t.csv' could not be read: .*Expected 2 fields in line 3, saw 3"),
    ],
)
def test_files_that_cannot_be_read(tmp_path, name, content, message):
    path = tmp_path / name
    if content is not None:
        path.write_text(content)
    with pytest.raises(ValueError, match=f"^`test_file` {message}") as error:
        read_file("test_file", path)
    assert "\n" not in str(error.value)
