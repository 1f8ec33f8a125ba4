# SPDX-License-Identifier: Apache-2.0
"""SST-2 (the paper's 5,000 / 1,613 / 3,000 split) with a BERT as MainNet and SideNets on its first blocks.

Frozen: the MainNet is fine-tuned, then SideNets are trained on it. Joint (`--freeze_mainnet none`): both are trained
together.
"""

import argparse
import os
from pathlib import Path

import torch
from datasets import load_dataset
from steps import paper_schedule, report, save_and_reload
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    DataCollatorWithPadding,
    Trainer,
    TrainingArguments,
    set_seed,
)

from hf_sidenet import SideNetForSequenceClassification, compute_exit_metrics


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data_dir", default=os.environ.get("SIDENET_DATA"), help="folder that contains sst2/*.tsv")
    parser.add_argument("--mainnet", default=os.environ.get("SIDENET_BERT"), help="folder or Hub id of a BERT")
    parser.add_argument("--freeze_mainnet", default="all", choices=["all", "body", "none"])
    parser.add_argument("--exit_layers", type=int, nargs="+", default=[2])
    parser.add_argument("--pooling", default="auto", choices=["auto", "mean", "cls"])
    parser.add_argument("--epochs", type=int, default=3, help="epochs of the MainNet, alone or jointly")
    parser.add_argument("--sidenet_epochs", type=int, default=10, help="epochs of the SideNets on a frozen MainNet")
    parser.add_argument("--learning_rate", type=float, default=5e-5)
    parser.add_argument("--sidenet_learning_rate", type=float, default=1e-3, help="for frozen and joint training")
    parser.add_argument("--max_drop", type=float, default=0.005, help="accuracy that θ may cost on validation rows")
    parser.add_argument("--max_rows", type=int, help="maximum rows per split, for a quick run")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output_dir", type=Path, default=Path("outputs/demo-text"))
    args = parser.parse_args()
    for name in ("data_dir", "mainnet"):
        if not getattr(args, name):
            parser.error(f"--{name} is needed (or the environment variable SIDENET_DATA / SIDENET_BERT)")
    return args


def load_sst2(data_dir: str, seed: int):
    """Return all 9,613 sentences, shuffled with `seed` and split 5,000 / 1,613 / 3,000 as in the paper (§4)."""
    files = [str(Path(data_dir) / "sst2" / f"{name}.tsv") for name in ("train", "dev", "test")]
    columns = {"column_names": ["text", "label"], "delimiter": "\t", "quoting": 3}
    rows = load_dataset("csv", data_files=files, split="train", **columns).shuffle(seed=seed)
    return rows.select(range(5000)), rows.select(range(5000, 6613)), rows.select(range(6613, 9613))


def plain_accuracy(prediction) -> dict[str, float]:
    return {"accuracy": float((prediction.predictions.argmax(-1) == prediction.label_ids).mean())}


def main() -> None:
    args = arguments()
    set_seed(args.seed)
    tokenizer = AutoTokenizer.from_pretrained(args.mainnet)
    splits = [s.select(range(min(args.max_rows or len(s), len(s)))) for s in load_sst2(args.data_dir, args.seed)]

    def tokenize(batch):
        return {**tokenizer(batch["text"], truncation=True, max_length=128), "labels": batch["label"]}

    train, validation, test = (s.map(tokenize, batched=True, remove_columns=["text", "label"]) for s in splits)
    collator = DataCollatorWithPadding(tokenizer)

    def fit(model, epochs, learning_rate, name, schedule):
        training_args = TrainingArguments(
            output_dir=args.output_dir / name,
            num_train_epochs=epochs,
            learning_rate=learning_rate,
            per_device_train_batch_size=32,
            per_device_eval_batch_size=128,
            seed=args.seed,
            **schedule,
        )
        has_exits = isinstance(model, SideNetForSequenceClassification)
        sidenets, others = [], []
        for key, parameter in model.named_parameters():
            if parameter.requires_grad:
                (sidenets if key.startswith("sidenets.") else others).append(parameter)
        groups = [{"params": others, "lr": learning_rate}, {"params": sidenets, "lr": args.sidenet_learning_rate}]
        optimizer = torch.optim.Adam([group for group in groups if group["params"]])
        trainer = Trainer(
            model,
            training_args,
            train_dataset=train,
            eval_dataset=validation,
            data_collator=collator,
            compute_metrics=compute_exit_metrics(model) if has_exits else plain_accuracy,
            optimizers=(optimizer, None),
        )
        trainer.train()
        return trainer.model

    fine_tuning = {
        **paper_schedule(),
        "lr_scheduler_type": "linear",
        "lr_scheduler_kwargs": {},
        "warmup_steps": 0.1,
        "metric_for_best_model": "accuracy",
        "greater_is_better": True,
    }
    labels = {"num_labels": 2, "id2label": {0: "negative", 1: "positive"}, "label2id": {"negative": 0, "positive": 1}}
    sidenets = {"exit_layers": args.exit_layers, "pooling": args.pooling, "freeze_mainnet": args.freeze_mainnet}
    if args.freeze_mainnet == "none":
        model = SideNetForSequenceClassification.from_mainnet(args.mainnet, **sidenets, **labels)
        model = fit(model, args.epochs, args.learning_rate, "joint", fine_tuning)
    else:
        mainnet = AutoModelForSequenceClassification.from_pretrained(args.mainnet, **labels)
        mainnet = fit(mainnet, args.epochs, args.learning_rate, "mainnet", fine_tuning)
        model = SideNetForSequenceClassification.from_mainnet(mainnet, **sidenets)
        model = fit(model, args.sidenet_epochs, args.sidenet_learning_rate, "sidenets", paper_schedule())

    title = f"SST-2, {Path(args.mainnet).name}, exits after {args.exit_layers}, freeze_mainnet={args.freeze_mainnet}"
    thresholds = report(
        model,
        validation,
        test,
        collator,
        batch_size=32,
        max_drop=args.max_drop,
        title=f"{title}, seed {args.seed}",
        output_dir=args.output_dir,
    )
    save_and_reload(model, tokenizer, test, collator, thresholds, args.output_dir)
    print(
        f"\nCheckpoint: {args.output_dir}/checkpoint   table: {args.output_dir}/report.md   figure: "
        f'{args.output_dir}/accuracy_cost.png\nNext, try it:\n  python -c "from transformers import pipeline; '
        f"print(pipeline('text-classification', '{args.output_dir}/checkpoint', trust_remote_code=True)"
        "('a gorgeous, witty film'))\""
    )


if __name__ == "__main__":
    main()
