# SPDX-License-Identifier: Apache-2.0
"""Run by test_hub_round_trip.py in a separate process, where hf_sidenet cannot be imported and nothing is cached:
what somebody does who finds a checkpoint on the Hub.

usage: load_shared.py OUTPUT.safetensors use REPO FIRST_COMMIT
       load_shared.py OUTPUT.safetensors again REPO...
"""

import sys

import torch
from safetensors.torch import save_file
from transformers import AutoModelForSequenceClassification, AutoTokenizer, Trainer, TrainingArguments, pipeline


sys.modules["hf_sidenet"] = None
torch.set_num_threads(1)
torch.manual_seed(0)

TEXTS = ["a good film", "a very bad one", "not so good", "bad"]
output, job, *arguments = sys.argv[1:]
answers = {}


def load(repo, **kwargs):
    model = AutoModelForSequenceClassification.from_pretrained(repo, trust_remote_code=True, **kwargs)
    assert type(model).__module__.startswith("transformers_modules."), type(model).__module__
    return model


def mark(model):
    return getattr(sys.modules[type(model).__module__], "MARK", None)


def answer(name, model, tokenizer):
    inputs = tokenizer(TEXTS, padding=True, return_tensors="pt")
    with torch.no_grad():
        found = model.eval()(**inputs)
    answers[f"{name}.logits"], answers[f"{name}.exit_index"] = found.logits, found.exit_index
    answers[f"{name}.thresholds"] = torch.tensor(model.config.thresholds, dtype=torch.float64)


def fine_tune(model, tokenizer, repo):
    rows = [{**tokenizer(text), "labels": i % 3} for i, text in enumerate(TEXTS * 4)]
    args = TrainingArguments(
        f"{output}.trained", max_steps=3, per_device_train_batch_size=4, learning_rate=1e-2, report_to="none",
        use_cpu=True, disable_tqdm=True, save_strategy="no", hub_model_id=repo,
    )  # fmt: skip
    trainer = Trainer(model, args, train_dataset=rows, processing_class=tokenizer)
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    trainer.train()
    changed = {name.split(".")[0] for name, weight in model.state_dict().items() if not weight.equal(before[name])}
    # The MainNet is frozen.
    assert changed == {"sidenets"}, changed
    return trainer


if job == "use":
    repo, first = arguments
    tokenizer = AutoTokenizer.from_pretrained(repo, trust_remote_code=True)
    model = load(repo)
    answer("latest", model, tokenizer)
    assert mark(model) is None
    answer("first", load(repo, revision=first), tokenizer)
    branch = load(repo, revision="try")
    answer("branch", branch, tokenizer)
    # Code comes from the same revision as weights.
    assert mark(branch) == "of a branch"
    classify = pipeline("text-classification", model=repo, trust_remote_code=True)
    answers["pipeline.scores"] = torch.tensor([each["score"] for each in classify(TEXTS)])
    model.train()
    trainer = fine_tune(model, tokenizer, "you/trained")
    trainer.push_to_hub()
    model.push_to_hub("you/model")
    tokenizer.push_to_hub("you/model")
    answer("tuned", model, tokenizer)
else:
    for repo in arguments:
        answer(repo, load(repo), AutoTokenizer.from_pretrained(repo, trust_remote_code=True))
save_file(answers, output)
