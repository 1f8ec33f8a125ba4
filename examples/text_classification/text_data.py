# SPDX-License-Identifier: Apache-2.0
"""Labeled texts from the Hub or from files, as train, validation and test splits that share no row by position."""

from dataclasses import dataclass, field
from pathlib import Path

from datasets import Dataset, DatasetDict, concatenate_datasets, load_dataset
from transformers import PretrainedConfig, PreTrainedTokenizerBase

from hf_sidenet.data import Columns, load_processor, prepare
from hf_sidenet.models.modalities import TEXT
from hf_sidenet.training import MainNetArguments


READERS = {"csv": "csv", "tsv": "csv", "json": "json", "jsonl": "json", "parquet": "parquet"}
SPLITS = ("train", "validation", "test")


@dataclass
class DataArguments:
    """The texts to use, and how they are split."""

    dataset_name: str | None = field(default=None, metadata={"help": "Dataset on the Hub, or its local folder."})
    dataset_config_name: str | None = field(
        default=None, metadata={"help": "Its configuration, such as sst2 of glue."}
    )
    train_file: str | None = field(default=None, metadata={"help": "CSV, TSV, JSON, JSONL or Parquet file."})
    validation_file: str | None = field(default=None, metadata={"help": "The same for validation, where θ is chosen."})
    test_file: str | None = field(default=None, metadata={"help": "The same for test, where results are reported."})
    column_names: list[str] | None = field(
        default=None, metadata={"help": "Column names of a CSV or TSV file without a header line."}
    )
    text_columns: list[str] = field(
        default_factory=lambda: ["text"], metadata={"help": "The column with the text, or two for pairs."}
    )
    label_column: str = field(default="label", metadata={"help": "The column with the class."})
    labels: list[str] | None = field(
        default=None,
        metadata={"help": "The data's names for the MainNet's outputs, in order, if its own names differ."},
    )
    validation_split: float = field(
        default=0.1, metadata={"help": "Share of the training rows used for validation if there are none."}
    )
    resplit: list[int] | None = field(
        default=None,
        metadata={"help": "Three sizes: pool all rows, shuffle them, and split them like this."},
    )
    max_seq_length: int = field(default=128, metadata={"help": "Maximum text length, in tokens."})
    split_seed: int | None = field(
        default=None, metadata={"help": "Seed for --resplit and --validation_split, by default --seed."}
    )
    max_train_samples: int | None = field(default=None, metadata={"help": "Use only the first rows."})
    max_eval_samples: int | None = field(default=None, metadata={"help": "The same for validation and test rows."})

    def name(self) -> str:
        """Return the name of the data in reports: the Hub id, or the folder's name."""
        if self.dataset_name is not None and not Path(self.dataset_name).exists():
            return self.dataset_name
        return Path(self.dataset_name or Path(self.train_file).parent).resolve().name


def load_texts(args: DataArguments, seed: int) -> DatasetDict:
    """Load rows with the columns of the files, in up to three splits; validation always exists.

    Raises:
        ValueError: there are no training rows, a file type is not supported, or a column is missing.
    """
    splits = {name: rows for name, rows in _read(args).items() if name in SPLITS}
    if "train" not in splits:
        raise ValueError(f"the data must have training rows, got the splits {sorted(splits) or 'none'}.")
    for name, rows in splits.items():
        missing = sorted({*args.text_columns, args.label_column} - set(rows.column_names))
        if missing:
            raise ValueError(f"{missing} must be columns of the {name} rows, which have {rows.column_names}.")
    if "test" in splits and splits["test"].unique(args.label_column) == [-1]:
        print("The test rows have no labels (-1) and are left out.")
        del splits["test"]
    if args.split_seed is not None:
        seed = args.split_seed
    if args.resplit is not None:
        splits = _split_again(list(splits.values()), args.resplit, seed)
    elif "validation" not in splits:
        halves = splits["train"].train_test_split(args.validation_split, seed=seed)
        splits |= {"train": halves["train"], "validation": halves["test"]}
    for name, rows in splits.items():
        most = args.max_train_samples if name == "train" else args.max_eval_samples
        splits[name] = rows.select(range(min(most or len(rows), len(rows))))
    return DatasetDict(splits)


def load_tokenizer(mainnet_args: MainNetArguments) -> PreTrainedTokenizerBase:
    """Load the MainNet's tokenizer.

    Raises:
        ValueError: a new MainNet has none.
    """
    if mainnet_args.model_name_or_path is None:
        raise ValueError("`model_name_or_path` must be given for texts: a MainNet of `model_type` has no tokenizer.")
    return load_processor(mainnet_args.model_name_or_path, modality=TEXT, **mainnet_args.loading())


def tokenize(
    rows: Dataset, args: DataArguments, tokenizer: PreTrainedTokenizerBase, config: PretrainedConfig
) -> Dataset:
    """Compute token ids and `labels`; batches pad them. Texts are truncated to the MainNet's number of positions."""
    columns = Columns(tuple(args.text_columns), args.label_column)
    return prepare(rows, columns, tokenizer, config, max_length=args.max_seq_length)


def _read(args: DataArguments) -> DatasetDict:
    if args.dataset_name is not None:
        return load_dataset(args.dataset_name, args.dataset_config_name)
    files = {name: path for name in SPLITS if (path := getattr(args, f"{name}_file"))}
    kinds = {Path(path).suffix.lstrip(".") for path in files.values()}
    if len(kinds) != 1 or not kinds <= READERS.keys():
        raise ValueError(f"give --dataset_name, or files of one kind out of {sorted(READERS)}, got {files or 'none'}.")
    kind = kinds.pop()
    options = {"column_names": args.column_names} if args.column_names else {}
    if kind == "tsv":
        # Quotation marks are part of the text there.
        options |= {"delimiter": "\t", "quoting": 3}
    return load_dataset(READERS[kind], data_files=files, **options)


def _split_again(parts: list[Dataset], sizes: list[int], seed: int) -> dict[str, Dataset]:
    rows = concatenate_datasets(parts).shuffle(seed=seed)
    if len(sizes) != 3 or min(sizes) < 1 or sum(sizes) > len(rows):
        raise ValueError(f"`resplit` must be three numbers ≥ 1, at most {len(rows)} together, got {sizes}.")
    ends = [sum(sizes[: i + 1]) for i in range(3)]
    starts = [0, *ends]
    return {name: rows.select(range(starts[i], ends[i])) for i, name in enumerate(SPLITS)}
