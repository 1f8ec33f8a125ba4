# SPDX-License-Identifier: Apache-2.0
"""A checkpoint's own code is loaded before this package is imported; what each way of running the model answers, as a
line of JSON. Its arguments are the folders of the checkpoint and of what is written."""

import json
import sys
from pathlib import Path

import torch
from torch.utils.data import default_collate
from transformers import AutoModelForSequenceClassification


def main():
    model = AutoModelForSequenceClassification.from_pretrained(sys.argv[1], trust_remote_code=True).eval()
    assert type(model).__module__.startswith("transformers_modules.")
    assert "hf_sidenet" not in sys.modules

    from hf_sidenet import SideNetRunner, collect
    from hf_sidenet.export import TorchStages, export_torch
    from hf_sidenet.measurement.costs import measure_costs
    from hf_sidenet.training.features import cache_features, default_candidates

    ids = torch.arange(5, 45).view(8, 5)
    rows = [{"input_ids": row} for row in ids]
    with torch.no_grad():
        expected = model(ids, thresholds=0.6)
        full = model(ids, thresholds=1.0)

    def right(runner):
        found = list(runner.predict(rows))
        return [each.exit_index for each in found] == expected.exit_index.tolist() and torch.allclose(
            torch.stack([each.logits for each in found]), expected.logits, atol=1e-5
        )

    out = Path(sys.argv[2])
    export_torch(model, out / "torch")
    batches = [{"input_ids": ids, "labels": torch.zeros(8, dtype=torch.long)}]
    features = cache_features(
        model,
        [{"input_ids": row, "attention_mask": torch.ones_like(row)} for row in ids],
        out / "features",
        collate_fn=default_collate,
        candidates=default_candidates(model, None, None),
        data_fingerprint="x",
        progress=False,
    )
    found = {
        routing: right(SideNetRunner(model, thresholds=0.6, routing=routing))
        for routing in ("auto", "pooled", "per_batch", "gates", "all_blocks")
    }
    found["compiled"] = right(SideNetRunner(model, thresholds=0.6, compile={"backend": "eager"}))
    found["exported"] = right(SideNetRunner(TorchStages.load(out / "torch", trust_programs=True), thresholds=0.6))
    found["collect"] = torch.allclose(collect(model, batches, progress=False).exit_logits, full.exit_logits, atol=1e-5)
    found["features"] = torch.allclose(features.mainnet_logits, full.logits, atol=1e-5)
    found["costs"] = len(measure_costs(model, batches[:1]).flops) == 3
    found["several exits"] = len(set(expected.exit_index.tolist())) > 1
    print(json.dumps(found))


if __name__ == "__main__":
    main()
