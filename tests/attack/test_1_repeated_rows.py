# SPDX-License-Identifier: Apache-2.0
"""Rows that repeat by nature certify; rows that leaked do not."""

import random

import pytest
from datasets import concatenate_datasets

from hf_sidenet.attaching.attach import attach
from hf_sidenet.calibration import RepeatedRowsError
from hf_sidenet.training.heads import HeadTraining

from ..attached import save_text_mainnet, sentences


@pytest.fixture(scope="module")
def drawn():
    """Splits whose rows are drawn from one heap of sentences, of which some are common, as search queries are."""
    heap = concatenate_datasets(list(sentences(train=400, validation=200, test=100).values()))
    chance, weights = random.Random(0), [(i + 1) ** -0.5 for i in range(len(heap))]
    sizes = {"train": 500, "validation": 480}
    return {name: heap.select(chance.choices(range(len(heap)), weights, k=size)) for name, size in sizes.items()}


@pytest.fixture(scope="module")
def call(drawn, tmp_path_factory):
    folder = tmp_path_factory.mktemp("work")
    mainnet = save_text_mainnet(folder / "mainnet", sentences()["train"])
    heads = HeadTraining(max_epochs=2, batch_size=32, learning_rate=3e-3)

    def run(validation, **kwargs):
        return attach(
            mainnet,
            drawn["train"],
            validation,
            target="accuracy_drop<=0.05",
            heads=heads,
            exit_layers=[1, 2],
            cache_dir=folder / "cache",
            progress=False,
            **kwargs,
        )

    return run


@pytest.mark.medium
def test_common_texts_certify(drawn, call):
    report = call(drawn["validation"]).report
    repeated = report["certification"]["repeated_rows"]
    assert repeated["num_rows"] == report["data"]["num_certification_rows"] == 360
    assert repeated["num_repeated"] > 100
    assert repeated["num_repeated"] / 360 == pytest.approx(repeated["expected"], abs=0.1)


def test_copies_of_training_rows_do_not(drawn, call):
    fresh = drawn["validation"].select(range(240))
    copies = drawn["train"].select(range(240))
    # Other letters, spaces and signs make no other text.
    near = copies.map(lambda row: {"text": f"  {row['text'].title()} !"})
    for copied in (copies, near):
        with pytest.raises(RepeatedRowsError, match=r"repeat a training or design row; of fresh"):
            call(concatenate_datasets([fresh, copied]))
