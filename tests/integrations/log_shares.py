# SPDX-License-Identifier: Apache-2.0
"""Train and evaluate a tiny model with trackers, in a process of its own: trackio reads its folder once.

Prints the shares of rows that the exits answered at the model's θ.
"""

import sys

import torch

from hf_sidenet import compute_exit_metrics
from hf_sidenet.training import routed_exit_metrics
from tests.integrations.cases import labeled, middle_threshold, trainer_of
from tests.models import tiny


def main(folder: str, *trackers: str) -> None:
    torch.manual_seed(0)
    model, inputs = tiny.bert_with_sidenets(), tiny.texts(24)
    theta = middle_threshold(model, inputs)
    fields = {"report_to": list(trackers), "run_name": "shares", "project": "sidenets"}
    metrics = compute_exit_metrics(model, thresholds=theta)
    trainer = trainer_of(
        model, folder, labeled(inputs), eval_strategy="epoch", compute_metrics=metrics, num_train_epochs=1, **fields
    )
    trainer.train()
    model.config.thresholds = [theta, 1.0]
    trainer.compute_metrics = routed_exit_metrics(model)
    trainer.evaluate(metric_key_prefix="test")
    with torch.no_grad():
        exit_index = model(**inputs).exit_index
    print("shares", *(torch.bincount(exit_index, minlength=3) / 24).tolist())


if __name__ == "__main__":
    main(*sys.argv[1:])
