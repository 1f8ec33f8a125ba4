# SPDX-License-Identifier: Apache-2.0
"""Train SideNets on any image classifier, including timm's, with the Trainer, then sweep θ: accuracy against cost.

Without --exit_layers only the MainNet is trained, in the same way.
"""

import logging
import sys
from pathlib import Path

import numpy as np
from image_data import DataArguments, collate, load_images, load_processor, prepare
from torch.utils.data import DataLoader
from transformers import EvalPrediction, HfArgumentParser, Trainer, TrainingArguments, set_seed

from hf_sidenet import ExitRecords, SideNetForImageClassification, compute_exit_metrics
from hf_sidenet.calibration.label_checks import Answered, check_class_order
from hf_sidenet.data import find_classes, number_labels
from hf_sidenet.data.limits import num_channels_of
from hf_sidenet.evaluation import ExitReport
from hf_sidenet.hub.push import push_checkpoint, write_model_card
from hf_sidenet.measurement import CURRENCIES, measure_costs
from hf_sidenet.training import (
    MainNetArguments,
    SameStatisticsCallback,
    SideNetArguments,
    build_model,
    learns_classes,
    load_config,
    trainer_optimizer,
)


logger = logging.getLogger(__name__)


def plain_accuracy(prediction: EvalPrediction) -> dict[str, float]:
    return {"accuracy": float(np.mean(prediction.predictions.argmax(-1) == prediction.label_ids))}


def main() -> None:
    parser = HfArgumentParser((MainNetArguments, DataArguments, SideNetArguments, TrainingArguments))
    mainnet_args, data_args, sidenet_args, training_args = parser.parse_args_into_dataclasses()
    logging.basicConfig(level=logging.INFO if training_args.should_log else logging.WARNING, stream=sys.stdout)
    set_seed(training_args.seed)
    # Pushed once, at the end: the Trainer's own pushes would include its pickled state.
    push_to_hub, training_args.push_to_hub = training_args.push_to_hub, False

    # Columns are read lazily, so none is unused.
    training_args.remove_unused_columns = False
    config = load_config(mainnet_args)
    processor = load_processor(mainnet_args, data_args.image_size)
    with training_args.main_process_first(desc="data"):
        splits = load_images(data_args, training_args.seed)
        # A frozen MainNet has already learned its classes: keep its own order.
        new_head = learns_classes(config, sidenet_args)
        column = data_args.label_column
        classes = find_classes(splits, column, config, labels=data_args.labels, new_head=new_head)
        splits = {name: number_labels(rows, column, classes) for name, rows in splits.items()}
    splits = {
        name: prepare(rows, data_args, processor, data_args.augment and name == "train", num_channels_of(config))
        for name, rows in splits.items()
    }
    input_size = list(splits["train"][0]["pixel_values"].shape)
    model = build_model(
        SideNetForImageClassification, config, list(classes.names), mainnet_args, sidenet_args, input_size=input_size
    )

    has_exits = isinstance(model, SideNetForImageClassification)
    if has_exits:
        # Trained, selected and recorded with exits off; θ is chosen afterward.
        model.config.thresholds = 1.0
    trainer = Trainer(
        model,
        training_args,
        train_dataset=splits["train"],
        eval_dataset=splits["validation"],
        data_collator=collate,
        processing_class=processor,
        compute_metrics=compute_exit_metrics(model) if has_exits else plain_accuracy,
        callbacks=[SameStatisticsCallback()],
        optimizer_cls_and_kwargs=trainer_optimizer(model, training_args, sidenet_args.sidenet_learning_rate),
    )
    if push_to_hub:
        # Created before training, so that a wrong token or name shows now.
        trainer.init_hf_repo()
    if training_args.do_train:
        trained = trainer.train(resume_from_checkpoint=training_args.resume_from_checkpoint)
        trainer.log_metrics("train", trained.metrics)
        trainer.save_metrics("train", trained.metrics)
        trainer.save_state()
        trainer.save_model()
    if training_args.do_eval:
        records = {}
        for name in [split for split in ("validation", "test") if split in splits]:
            predictions = trainer.predict(splits[name], metric_key_prefix=name)
            trainer.log_metrics(name, predictions.metrics)
            trainer.save_metrics(name, predictions.metrics)
            if has_exits:
                records[name] = ExitRecords.from_predictions(predictions, chain=model.config.chain)
        if has_exits and not new_head:
            check_class_order([Answered.from_records("validation", records["validation"])], classes)
        if has_exits and (trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled):
            logger.warning("Costs are measured in one process: run --do_eval alone on %s.", training_args.output_dir)
        elif has_exits and trainer.is_world_process_zero():
            name = "test" if "test" in splits else "validation"
            rows = DataLoader(splits[name], training_args.per_device_eval_batch_size, collate_fn=trainer.data_collator)
            report = ExitReport.from_records(
                records[name],
                measure_costs(trainer.model, rows, progress=not training_args.disable_tqdm),
                # θ is chosen on other rows than those in the report.
                records["validation"] if name == "test" else None,
                thresholds=sidenet_args.thresholds,
                max_accuracy_drop=sidenet_args.max_accuracy_drop,
            )
            publish(trainer, report, data_args.name(), name)
    if push_to_hub and trainer.is_world_process_zero():
        pushed = push_checkpoint(
            training_args.output_dir,
            trainer.hub_model_id,
            token=training_args.hub_token,
            revision=training_args.hub_revision,
        )
        logger.info("Pushed to %s", pushed.commit_url)


def publish(trainer: Trainer, report: ExitReport, data: str, split: str) -> None:
    """Print and save the report, write the chosen θ into the checkpoint, and the results into logs and model card."""
    model, output_dir = trainer.model, Path(trainer.args.output_dir)
    mainnet = model.config.name_or_path
    # A MainNet created here has no name.
    called = Path(mainnet).name or model.config.mainnet_config.model_type
    print("\n" + report.text() + "\n")
    if report.chosen is not None:
        model.config.thresholds = report.chosen.thresholds
        chosen = {f"{split}_routed_{name}": getattr(report.chosen, name) for name in ("accuracy", *CURRENCIES)}
        trainer.log({f"{split}_mainnet_accuracy": report.fixed[0].accuracy, **chosen})
    # The whole checkpoint: evaluation alone has not written one.
    trainer.save_model()
    report.save(output_dir, f"{data}, {called} with SideNets after {model.config.exit_layers}")
    write_model_card(
        output_dir,
        report,
        task=model.task.pipelines[model.modality.name],
        mainnet=mainnet,
        dataset=data,
        split=split,
    )


if __name__ == "__main__":
    main()
