# SPDX-License-Identifier: Apache-2.0
"""The same as run_text_classification.py in a plain loop with Accelerate, for those who want to change the loop.

Run it with `accelerate launch` for several processes, or with python for one.
"""

import logging
import math
import sys
from dataclasses import dataclass, field
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import DataLoaderConfiguration, ProjectConfiguration, set_seed
from text_data import DataArguments, load_texts, load_tokenizer, tokenize
from torch.utils.data import DataLoader
from tqdm.auto import tqdm
from transformers import (
    DataCollatorWithPadding,
    HfArgumentParser,
    PreTrainedTokenizerBase,
    get_scheduler,
)

from hf_sidenet import ExitRecords, SideNetForSequenceClassification
from hf_sidenet.calibration.label_checks import Answered, check_class_order
from hf_sidenet.data import find_classes, number_labels
from hf_sidenet.evaluation import ExitReport
from hf_sidenet.hub.push import push_checkpoint, write_model_card
from hf_sidenet.measurement import measure_costs
from hf_sidenet.training import (
    MainNetArguments,
    SideNetArguments,
    build_model,
    learns_classes,
    load_config,
    parameter_groups,
)


logger = logging.getLogger(__name__)


@dataclass
class LoopArguments:
    """Arguments of the loop."""

    output_dir: str = field(metadata={"help": "Folder for checkpoint, report and model card."})
    num_train_epochs: int = field(default=3, metadata={"help": "Passes over the training rows; 0 evaluates only."})
    per_device_train_batch_size: int = field(default=32, metadata={"help": "Rows per process and step."})
    per_device_eval_batch_size: int = field(default=32, metadata={"help": "The same, in evaluation."})
    gradient_accumulation_steps: int = field(default=1, metadata={"help": "Steps before the weights change."})
    learning_rate: float = field(default=1e-3, metadata={"help": "Of the SideNets and all else that is trained."})
    weight_decay: float = field(default=0.0, metadata={"help": "Not applied to biases and norms."})
    lr_scheduler_type: str = field(default="linear", metadata={"help": "A scheduler name in transformers."})
    warmup_ratio: float = field(default=0.0, metadata={"help": "Share of warm-up steps."})
    mixed_precision: str = field(default="no", metadata={"help": "bf16 or fp16.", "choices": ["no", "bf16", "fp16"]})
    cpu: bool = field(default=False, metadata={"help": "Use the CPU even if there is a GPU."})
    seed: int = field(default=42, metadata={"help": "Of weights, data order and dropout."})
    resume_from_checkpoint: str | None = field(default=None, metadata={"help": "An epoch_N folder of this script."})
    report_to: list[str] = field(default_factory=list, metadata={"help": "tensorboard, trackio or other trackers."})
    push_to_hub: bool = field(default=False, metadata={"help": "Upload output_dir when done."})
    hub_model_id: str | None = field(
        default=None, metadata={"help": "Target repository, by default the folder's name."}
    )
    hub_token: str | None = field(
        default=None, metadata={"help": "Hub token, if it is not the one you logged in with."}
    )


@torch.no_grad()
def record(accelerator: Accelerator, model: torch.nn.Module, loader: DataLoader) -> ExitRecords:
    """Record every exit's logits for every row, from all processes, each row once."""
    model.eval()
    exit_logits, labels = [], []
    for batch in loader:
        output = model(**batch, thresholds=1.0)
        gathered = accelerator.gather_for_metrics((output.exit_logits.float(), batch["labels"]))
        exit_logits.append(gathered[0].cpu())
        labels.append(gathered[1].cpu())
    logits = torch.cat(exit_logits)
    return ExitRecords(exit_logits=logits, labels=torch.cat(labels), mainnet_logits=logits[:, -1].clone())


def accuracies(records: ExitRecords) -> dict[str, float]:
    right = (records.exit_logits.argmax(-1) == records.labels.unsqueeze(1)).float().mean(0)
    return {f"exit_{index}_accuracy": value for index, value in enumerate(right.tolist())}


def main() -> None:
    parser = HfArgumentParser((MainNetArguments, DataArguments, SideNetArguments, LoopArguments))
    mainnet_args, data_args, sidenet_args, args = parser.parse_args_into_dataclasses()
    accelerator = Accelerator(
        cpu=args.cpu,
        mixed_precision=args.mixed_precision,
        gradient_accumulation_steps=args.gradient_accumulation_steps,
        log_with=args.report_to or None,
        # An epoch's order depends only on its number, so that a resumed run reads the same.
        dataloader_config=DataLoaderConfiguration(use_seedable_sampler=True, data_seed=args.seed),
        project_config=ProjectConfiguration(project_dir=args.output_dir),
    )
    logging.basicConfig(level=logging.INFO if accelerator.is_main_process else logging.WARNING, stream=sys.stdout)
    set_seed(args.seed)

    config = load_config(mainnet_args)
    with accelerator.main_process_first():
        splits = load_texts(data_args, args.seed)
        # A frozen MainNet has already learned its classes: keep its own order.
        new_head = learns_classes(config, sidenet_args)
        column = data_args.label_column
        classes = find_classes(splits, column, config, labels=data_args.labels, new_head=new_head)
        splits = {name: number_labels(rows, column, classes) for name, rows in splits.items()}
        tokenizer = load_tokenizer(mainnet_args)
        splits = {name: tokenize(rows, data_args, tokenizer, config) for name, rows in splits.items()}
    model = build_model(SideNetForSequenceClassification, config, list(classes.names), mainnet_args, sidenet_args)
    if not isinstance(model, SideNetForSequenceClassification):
        raise ValueError("`exit_layers` must be given, for example --exit_layers 2: this loop trains SideNets.")

    collator = DataCollatorWithPadding(tokenizer)
    optimizer = torch.optim.AdamW(
        parameter_groups(
            model,
            learning_rate=args.learning_rate,
            sidenet_learning_rate=sidenet_args.sidenet_learning_rate or args.learning_rate,
            weight_decay=args.weight_decay,
        )
    )
    train = DataLoader(
        splits["train"],
        args.per_device_train_batch_size,
        shuffle=True,
        collate_fn=collator,
        # Otherwise, starting to read would draw from dropout's generator.
        generator=torch.Generator(),
    )
    evaluation = {
        name: DataLoader(rows, args.per_device_eval_batch_size, collate_fn=collator)
        for name, rows in splits.items()
        if name != "train"
    }
    # Accelerate steps the scheduler once per process and step, hence the length before it shards the loader.
    moves = args.num_train_epochs * math.ceil(len(train) / args.gradient_accumulation_steps)
    scheduler = get_scheduler(
        args.lr_scheduler_type,
        optimizer,
        num_warmup_steps=int(args.warmup_ratio * moves),
        num_training_steps=moves,
    )
    model, optimizer, train, scheduler = accelerator.prepare(model, optimizer, train, scheduler)
    shared = {name: accelerator.prepare(loader) for name, loader in evaluation.items()}
    if args.report_to:
        # Trackers accept only plain values, and must not show a token.
        values = {**vars(args), **sidenet_args.config_fields(), "hub_token": None}
        accelerator.init_trackers("runs", config={name: str(value) for name, value in values.items()})

    first_epoch = 0
    if args.resume_from_checkpoint is not None:
        accelerator.load_state(args.resume_from_checkpoint)
        first_epoch = int(Path(args.resume_from_checkpoint).name.removeprefix("epoch_")) + 1
    steps = math.ceil(len(train) / args.gradient_accumulation_steps)
    progress = tqdm(
        total=args.num_train_epochs * steps, initial=first_epoch * steps, disable=not accelerator.is_main_process
    )
    for epoch in range(first_epoch, args.num_train_epochs):
        train.set_epoch(epoch)
        model.train()
        total = torch.zeros((), device=accelerator.device)
        for batch in train:
            with accelerator.accumulate(model):
                loss = model(**batch).loss
                accelerator.backward(loss)
                optimizer.step()
                scheduler.step()
                optimizer.zero_grad()
            total += loss.detach()
            if accelerator.sync_gradients:
                progress.update()
        # Exits off: θ is chosen after training.
        accuracy = accuracies(record(accelerator, model, shared["validation"]))
        log = {"train_loss": (total / len(train)).item(), **accuracy}
        logger.info("epoch %d: %s", epoch, log)
        accelerator.log(log, step=epoch)
        accelerator.save_state(Path(args.output_dir) / f"epoch_{epoch}")
    progress.close()

    records = {name: record(accelerator, model, loader) for name, loader in shared.items()}
    if not new_head:
        check_class_order([Answered.from_records("validation", records["validation"])], classes)
    if accelerator.is_main_process:
        model = accelerator.unwrap_model(model)
        split = "test" if "test" in records else "validation"
        report = ExitReport.from_records(
            records[split],
            measure_costs(model, evaluation[split], progress=True),
            # θ is chosen on other rows than those in the report.
            records["validation"] if split == "test" else None,
            thresholds=sidenet_args.thresholds,
            max_accuracy_drop=sidenet_args.max_accuracy_drop,
        )
        publish(model, tokenizer, report, data_args.name(), split, args)
        if report.chosen is not None:
            accelerator.log(
                {f"{split}_routed_accuracy": report.chosen.accuracy, f"{split}_flops": report.chosen.flops}
            )
    accelerator.end_training()


def publish(
    model: SideNetForSequenceClassification,
    tokenizer: PreTrainedTokenizerBase,
    report: ExitReport,
    data: str,
    split: str,
    args: LoopArguments,
) -> None:
    """Print and save the report, save the checkpoint with the chosen θ and its card, and upload them if asked."""
    mainnet = model.config.name_or_path
    print("\n" + report.text() + "\n")
    if report.chosen is not None:
        model.config.thresholds = report.chosen.thresholds
    model.save_pretrained(args.output_dir)
    tokenizer.save_pretrained(args.output_dir)
    report.save(args.output_dir, f"{data}, {Path(mainnet).name} with SideNets after {model.config.exit_layers}")
    task = model.task.pipelines[model.modality.name]
    write_model_card(args.output_dir, report, task=task, mainnet=mainnet, dataset=data, split=split)
    if args.push_to_hub:
        name = args.hub_model_id or Path(args.output_dir).name
        pushed = push_checkpoint(args.output_dir, name, token=args.hub_token)
        logger.info("Pushed to %s", pushed.commit_url)


if __name__ == "__main__":
    main()
