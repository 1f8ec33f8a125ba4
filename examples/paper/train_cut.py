# SPDX-License-Identifier: Apache-2.0
"""Fine-tune the first blocks of a MainNet together with a head shaped like a SideNet, on texts.

Takes the arguments of run_text_classification.py; `--config_overrides '{"num_hidden_layers": 3}'` sets the number of
blocks to keep.
"""

import sys

from cut_model import CutMainNet
from rows import data_module, parse
from transformers import AutoModel, DataCollatorWithPadding, Trainer, set_seed

from hf_sidenet.data import align_labels
from hf_sidenet.models.modalities import TEXT
from hf_sidenet.training import load_config, trainer_optimizer


def main(words: list[str]) -> None:
    mainnet_args, data_args, sidenet_args, training_args = parse(words, modality=TEXT)
    data = data_module(modality=TEXT)
    set_seed(training_args.seed)
    config = load_config(mainnet_args)
    splits = data.load_texts(data_args, training_args.seed)
    splits, names = align_labels(splits, data_args.label_column, config, new_head=True)
    tokenizer = data.load_tokenizer(mainnet_args)
    config.num_labels = len(names)
    encoder = AutoModel.from_pretrained(mainnet_args.model_name_or_path, config=config)
    model = CutMainNet(config, encoder, sidenet_args.sidenet_hidden_size)
    trainer = Trainer(
        model,
        training_args,
        train_dataset=data.tokenize(splits["train"], data_args, tokenizer, config),
        data_collator=DataCollatorWithPadding(tokenizer),
        processing_class=tokenizer,
        optimizer_cls_and_kwargs=trainer_optimizer(model, training_args, sidenet_args.sidenet_learning_rate),
    )
    trainer.train(resume_from_checkpoint=training_args.resume_from_checkpoint)
    trainer.save_model()


if __name__ == "__main__":
    main(sys.argv[1:])
