# SPDX-License-Identifier: Apache-2.0
"""Models and rows whose features are cached, here and in the processes that the tests start."""

import torch

from hf_sidenet.training.features import cache_features, default_candidates

from ..models import tiny


NUM_ROWS = 23


def model(name="bert"):
    torch.manual_seed(0)
    return tiny.bert_with_sidenets((1, 3)) if name == "bert" else tiny.resnet_with_sidenet((1, 3))


def rows(name="bert", padded=True, num_rows=NUM_ROWS):
    """Texts of different lengths, in no order, or images."""
    generator = torch.Generator().manual_seed(1)
    labels = torch.arange(num_rows) % 3
    if name == "resnet":
        pixels = torch.randn(num_rows, 3, 32, 32, generator=generator)
        return [{"pixel_values": x, "labels": y} for x, y in zip(pixels, labels, strict=True)]
    lengths = torch.randint(2, 12, (num_rows,), generator=generator) if padded else torch.full((num_rows,), 7)
    ids = [torch.randint(3, 99, (length,), generator=generator) for length in lengths]
    return [{"input_ids": x, "labels": y} for x, y in zip(ids, labels, strict=True)]


def collate(chosen):
    """A padded batch; no mask where there is no padding."""
    batch = {name: [row[name] for row in chosen] for name in chosen[0]}
    stacked = {name: torch.stack(values) for name, values in batch.items() if name != "input_ids"}
    if "input_ids" in batch:
        ids = batch["input_ids"]
        stacked["input_ids"] = torch.nn.utils.rnn.pad_sequence(ids, batch_first=True)
        if len({len(x) for x in ids}) > 1:
            stacked["attention_mask"] = (stacked["input_ids"] > 0).long()
    return stacked


def cache(directory, name="bert", sidenets=None, dataset=None, **kwargs):
    """Six shards: five of four rows, in two batches each, and the rest."""
    sidenets = model(name) if sidenets is None else sidenets
    fields = {
        "collate_fn": collate,
        "candidates": default_candidates(sidenets),
        "data_fingerprint": "rows",
        "batch_size": 2,
        "rows_per_shard": 4,
        "progress": False,
    }
    return cache_features(sidenets, rows(name) if dataset is None else dataset, directory, **{**fields, **kwargs})


def contents(folder):
    """Every file in a folder, hidden ones too."""
    return {path.name: path.read_bytes() for path in folder.iterdir()}
