# SPDX-License-Identifier: Apache-2.0
"""Tiny classifiers that are right often, on data that is made here, and what `attach` makes of them."""

import random
from pathlib import Path

import numpy as np
import torch
from datasets import ClassLabel, Dataset, Features, Image, Value
from PIL import Image as Pictures
from transformers import AutoTokenizer, ConvNextImageProcessor

from hf_sidenet.attaching.attach import AttachResult, attach
from hf_sidenet.models.modalities import IMAGE, TEXT, Modality
from hf_sidenet.training.heads import HeadTraining
from hf_sidenet.training.joint import JointTraining

from .examples.commands import BAD, GOOD, OTHER, minilm
from .models import tiny


SIZES = {"train": 240, "validation": 240, "test": 80}
CLASSES = ["bad", "good"]


def sentences(**sizes: int) -> dict[str, Dataset]:
    """Sentences that have one telling word, all different; `sizes` of splits may be other than usual."""
    sizes = {**SIZES, **sizes}
    chance = random.Random(0)
    rows: dict[str, int] = {}
    while len(rows) < sum(sizes.values()):
        label = chance.randrange(2)
        words = chance.choices(OTHER.split(), k=chance.randint(6, 11))
        words.insert(chance.randint(0, len(words)), chance.choice((GOOD if label else BAD).split()))
        # Some are labeled wrongly, so that nothing is sure of everything.
        rows[" ".join(words)] = label ^ (chance.random() < 0.1)
    features = Features({"text": Value("string"), "label": ClassLabel(names=CLASSES)})
    return _cut({"text": list(rows), "label": list(rows.values())}, features, sizes)


def pictures() -> dict[str, Dataset]:
    """Noise around two shades."""
    chance = np.random.default_rng(0)
    shades = chance.integers(0, 2, sum(SIZES.values()))
    labels = (shades ^ (chance.random(len(shades)) < 0.1)).tolist()
    images = [
        Pictures.fromarray(chance.normal(190 if shade else 60, 40, (32, 32, 3)).clip(0, 255).astype(np.uint8))
        for shade in shades
    ]
    features = Features({"image": Image(), "label": ClassLabel(names=CLASSES)})
    return _cut({"image": images, "label": labels}, features, SIZES)


def save_text_mainnet(folder: Path, rows: Dataset) -> str:
    """A tiny BERT that learned these rows."""
    torch.manual_seed(0)
    tokenizer = AutoTokenizer.from_pretrained(minilm())
    model = tiny.bert(vocab_size=len(tokenizer), num_labels=2, id2label=dict(enumerate(CLASSES)))
    inputs = tokenizer(rows["text"][:], padding=True, return_tensors="pt")
    return learn_and_save(model, inputs, torch.tensor(rows["label"][:]), tokenizer, folder)


def save_image_mainnet(folder: Path, rows: Dataset) -> str:
    """A tiny ResNet that learned these rows."""
    torch.manual_seed(0)
    processor = ConvNextImageProcessor(size={"shortest_edge": 32}, crop_pct=1.0)
    model = tiny.resnet(num_labels=2, id2label=dict(enumerate(CLASSES)))
    inputs = processor(rows["image"][:], return_tensors="pt")
    return learn_and_save(model, inputs, torch.tensor(rows["label"][:]), processor, folder)


class Runs:
    """Short runs of `attach`, each made once, in one folder.

    Args:
        folder (`Path`): for MainNets and caches.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self._results: dict[str, AttachResult] = {}
        self._inputs: dict[Modality, tuple[str, dict[str, Dataset]]] = {}

    def text(self, **kwargs) -> AttachResult:
        """A guarantee, and test rows."""
        return self._run("text", **kwargs)

    def image(self) -> AttachResult:
        """The same for pictures."""
        return self._run("image", modality=IMAGE)

    def joint(self) -> AttachResult:
        """Fine-tuned together, two kinds of target, no test rows."""
        target = ["accuracy_drop<=0.1", "flops<=0.95"]
        return self._run("joint", target=target, tune="joint", joint=JointTraining(num_epochs=1), has_test=False)

    def budget(self) -> AttachResult:
        """Nothing guaranteed."""
        return self._run("budget", target="params<=0.99")

    def refused(self) -> AttachResult:
        """A budget that cannot be kept."""
        return self._run("refused", target="flops<=0.0001")

    def _run(self, name: str, *, modality: Modality = TEXT, has_test: bool = True, **kwargs) -> AttachResult:
        if name not in self._results:
            if modality not in self._inputs:
                rows = sentences() if modality is TEXT else pictures()
                save = save_text_mainnet if modality is TEXT else save_image_mainnet
                self._inputs[modality] = save(self.folder / f"mainnet-{name}", rows["train"]), rows
            mainnet, rows = self._inputs[modality]
            options = {"target": "accuracy_drop<=0.05", "batch_size": 16, "progress": False, **kwargs}
            self._results[name] = attach(
                mainnet,
                rows["train"],
                rows["validation"],
                rows["test"] if has_test else None,
                cache_dir=self.folder / f"cache-{name}",
                heads=HeadTraining(max_epochs=2, batch_size=32, learning_rate=3e-3),
                **options,
            )
        return self._results[name]


def _cut(columns: dict[str, list], features: Features, sizes: dict[str, int]) -> dict[str, Dataset]:
    splits, start = {}, 0
    for name, size in sizes.items():
        part = {column: values[start : start + size] for column, values in columns.items()}
        splits[name] = Dataset.from_dict(part, features=features)
        start += size
    return splits


def learn_and_save(model, inputs, labels, processor, folder: Path) -> str:
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    model.train()
    for _ in range(4):
        for rows in torch.randperm(len(labels)).split(32):
            model(**{name: x[rows] for name, x in inputs.items()}, labels=labels[rows]).loss.backward()
            optimizer.step()
            optimizer.zero_grad()
    model.eval().save_pretrained(folder)
    processor.save_pretrained(folder)
    return str(folder)
