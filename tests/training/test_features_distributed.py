# SPDX-License-Identifier: Apache-2.0
"""Two processes share the shards, and both get the features that one process gets."""

import pytest
import torch
from safetensors import safe_open

from .feature_cases import cache, contents
from .feature_processes import launch


pytestmark = pytest.mark.distributed


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shared")
    launch("shared", folder, processes=2)
    return folder


@pytest.mark.parametrize("rank", [0, 1])
def test_every_process_gets_all_rows_and_computes_half_of_them(folder, rank, tmp_path):
    expected = cache(tmp_path)
    with safe_open(folder / f"rank-{rank}.safetensors", framework="pt") as file:
        # Three of the six shards, two batches each.
        assert file.metadata() == {"first": "6", "second": "0", "processes": "2"}
        for candidate in expected.candidates:
            assert torch.equal(file.get_tensor(candidate.name), expected.features(candidate))
        assert torch.equal(file.get_tensor("mainnet_logits"), expected.mainnet_logits)
        assert torch.equal(file.get_tensor("labels"), expected.labels)


def test_the_files_are_those_of_one_process(folder, tmp_path):
    expected = cache(tmp_path)
    assert contents(folder / "features" / expected.directory.name) == contents(expected.directory)
