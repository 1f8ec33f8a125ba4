# SPDX-License-Identifier: Apache-2.0
"""Tiny files of texts and pictures."""

import json

import numpy as np
import pytest
from PIL import Image


datasets = pytest.importorskip("datasets")

TEXTS = [("a film", "good"), ("dull", "bad"), ("lovely", "good")]


def table(path, rows=TEXTS, columns=("text", "label")):
    """A csv or tsv file as typed, without quotation; `columns` None: no header line."""
    delimiter = "\t" if path.suffix == ".tsv" else ","
    lines = [*([columns] if columns else []), *rows]
    path.write_text("".join(delimiter.join(map(str, line)) + "\n" for line in lines))
    return path


def save(path, rows=TEXTS):
    """The same rows in the kind that the name says."""
    texts, labels = zip(*rows, strict=True)
    if path.suffix in (".csv", ".tsv"):
        return table(path, rows)
    if path.suffix == ".json":
        path.write_text(json.dumps([{"text": text, "label": label} for text, label in rows]))
        return path
    made = datasets.Dataset.from_dict({"text": texts, "label": labels})
    (made.to_parquet if path.suffix == ".parquet" else made.to_json)(path)
    return path


def pictures(folder, count=2, classes=("dark", "light"), mode="RGB"):
    """`folder/CLASS/N.png`, the first class black, the second white."""
    for shade, name in enumerate(classes):
        (folder / name).mkdir(parents=True)
        for i in range(count):
            pixels = np.full((8, 8, 3), 255 * shade, dtype=np.uint8)
            Image.fromarray(pixels).convert(mode).save(folder / name / f"{i}.png")
    return folder
