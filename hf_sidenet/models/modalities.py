# SPDX-License-Identifier: Apache-2.0
"""Modalities: what a MainNet reads, texts or images.

One object per modality holds everything that differs for a model: input names and axes, example rows for probing,
poolings and preprocessor. `hf_sidenet.data` turns rows of data into such inputs.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
import transformers
from transformers import PretrainedConfig, PreTrainedModel

from .errors import ArgumentError
from .row_inputs import row_inputs


# Three rows of different lengths, so that every row of a mask differs, also where it is pooled.
PROBE_LENGTHS = (8, 6, 3)
# Others to compare with, which show the axes of the rows and of the tokens: no other axis of a usual model is as long.
PROBE_MORE_ROWS = (8, 6, 3, 7, 5)
PROBE_LONGER, PROBE_LONGER_MORE_ROWS = (11, 9, 3), (11, 9, 3, 10, 7)
DEFAULT_IMAGE_SIZE = 224
# Ways to pool x_c to one vector per row; see [`pool`].
POOLINGS = ("auto", "mean", "cls", "gap", "flatten")
# Ways to read x_0, the input; see `input_exit.py`.
NGRAMS, EMBEDDINGS, PIXELS = "ngrams", "embeddings", "pixels"
BOTH = f"{NGRAMS}+{EMBEDDINGS}"
# For MainNets without a vocabulary size, which read characters.
DEFAULT_VOCABULARY = 100


class Modality:
    """Kind of input.

    Attributes:
        name (`str`): `"text"` or `"image"`, as stored in files.
        plural (`str`): plural for messages.
        main_inputs (`tuple[str, ...]`): names of the main input; a batch has one of them.
        usual_inputs (`tuple[str, ...]`): inputs with one entry per row that most MainNets take.
        axes (`tuple[str, ...]`): axes of a batch with variable size, the rows first.
        poolings (`tuple[str, ...]`): poolings that fit some MainNet of this modality.
        readings (`tuple[str, ...]`): what a SideNet before the first block can read, everything first.
        rows_share_inputs (`bool`):
            Whether a later stage needs the main input of only one row, which gives the size of all.
        processor_name (`str`): name of its preprocessor.
        processor_file (`str`): file that identifies a saved preprocessor.
        processor_class_name (`str`): Auto class that loads the preprocessor.
    """

    name: str
    plural: str
    main_inputs: tuple[str, ...]
    usual_inputs: tuple[str, ...]
    axes: tuple[str, ...]
    poolings: tuple[str, ...]
    readings: tuple[str, ...]
    rows_share_inputs: bool
    processor_name: str
    processor_file: str
    processor_class_name: str

    @property
    def has_tokens(self) -> bool:
        """Whether rows are sequences of different lengths, to be sorted, padded and trimmed."""
        return len(self.axes) > 1

    @property
    def processor_class(self) -> type:
        """Auto class of transformers that loads the preprocessor."""
        return getattr(transformers, self.processor_class_name)

    def input_size(self, config: PretrainedConfig, recorded: list[int] | None = None) -> list[int] | None:
        """Return the size of one row for probing, without the batch axis; `None` if rows have no fixed size.

        Args:
            config (`PretrainedConfig`): config of the MainNet.
            recorded (`list[int]`, *optional*): `input_size` of a [`SideNetConfig`], which takes precedence.
        """
        raise NotImplementedError

    def example_inputs(
        self, mainnet: PreTrainedModel, input_size: list[int] | None, lengths: Sequence[int] = PROBE_LENGTHS
    ) -> dict[str, torch.Tensor]:
        """Return example rows, texts of different lengths.

        Args:
            mainnet (`PreTrainedModel`): a task model.
            input_size (`list[int]`, *optional*): size from [`~Modality.input_size`].
            lengths (`Sequence[int]`, *optional*): number of tokens of each text; for images, only how many count.
        """
        raise NotImplementedError

    def reads(self, pooling: str) -> tuple[str, ...]:
        """Return what a SideNet before the first block reads.

        Args:
            pooling (`str`): one of `readings`, or `"auto"` for everything.

        Raises:
            ValueError: it is another one.
        """
        if pooling not in ("auto", *self.readings):
            raise ArgumentError("pooling", f"must be 'auto' or one of {self.readings} before the first block", pooling)
        return tuple((self.readings[0] if pooling == "auto" else pooling).split("+"))

    def block_shape(self, hidden: torch.Tensor) -> list[int]:
        """Return the shape of x_c without the axes of variable size."""
        return list(hidden.shape[len(self.axes) :])

    def pooled_size(self, shape: Sequence[int], pooling: str) -> int:
        """Return the width of the pooled representation of a block, checking that the pooling fits it.

        Args:
            shape (`Sequence[int]`): shape from [`~Modality.block_shape`].
            pooling (`str`): see [`pool`].

        Raises:
            ValueError: the pooling cannot read this representation.
        """
        if pooling not in POOLINGS:
            raise ArgumentError("pooling", f"must be one of {POOLINGS} after a block", pooling)
        if pooling == "flatten":
            if self.has_tokens:
                raise ValueError(
                    f"`pooling='flatten'` needs inputs of one size, but {self.plural} differ: use 'mean' or 'cls'."
                )
            return torch.Size(shape).numel()
        is_map = len(shape) == 3
        if (pooling == "gap" and not is_map) or (pooling in ("mean", "cls") and is_map):
            kind, fitting = ("feature map", "gap") if is_map else ("sequence of tokens", "mean' or 'cls")
            raise ValueError(
                f"`pooling={pooling!r}` does not fit a {kind} of shape {list(shape)}: use '{fitting}' or 'auto'."
            )
        return shape[0] if is_map else shape[-1]

    def candidate_poolings(self, shape: Sequence[int]) -> tuple[str, ...]:
        """Return the poolings to try for a block by default."""
        return ("gap",) if len(shape) == 3 else ("mean", "cls")

    def main_input(self, inputs: Mapping[str, Any]) -> str | None:
        """Return the name of the batch's main input."""
        return next((name for name in self.main_inputs if name in inputs), None)

    def row_inputs(self, taken: Iterable[str]) -> tuple[str, ...]:
        """Return the inputs of a MainNet with one entry per row, the usual ones first.

        Args:
            taken (`Iterable[str]`): arguments of its forward.
        """
        return row_inputs(taken, self.usual_inputs)

    def one_for_all(self, inputs: Iterable[str]) -> bool:
        """Return whether one row of these inputs is enough after the first block: whether only sizes still matter.

        Args:
            inputs (`Iterable[str]`): names of the inputs. Masks and the like differ between rows.
        """
        return self.rows_share_inputs and set(inputs) <= set(self.main_inputs)

    def later_inputs(self, inputs: dict[str, torch.Tensor], hidden: torch.Tensor | None) -> dict[str, torch.Tensor]:
        """Return the inputs of a batch that the next stage needs.

        Args:
            inputs (`dict[str, torch.Tensor]`): inputs of the batch.
            hidden (`torch.Tensor`, *optional*): x_c at its start; `None` if no block has run.
        """
        if hidden is None or not self.one_for_all(inputs):
            return inputs
        return {name: value[:1] for name, value in inputs.items()}


class Text(Modality):
    """Token ids or embeddings."""

    name = "text"
    plural = "texts"
    main_inputs = ("input_ids", "inputs_embeds")
    usual_inputs = ("input_ids", "attention_mask", "token_type_ids", "position_ids", "inputs_embeds")
    axes = ("rows", "tokens")
    poolings = ("mean", "cls")
    readings = (BOTH, NGRAMS, EMBEDDINGS)
    rows_share_inputs = False
    processor_name = "tokenizer"
    processor_file = "tokenizer.json"
    processor_class_name = "AutoTokenizer"

    def input_size(self, config: PretrainedConfig, recorded: list[int] | None = None) -> None:
        """See [`Modality.input_size`]: texts have no fixed size."""

    def example_inputs(
        self, mainnet: PreTrainedModel, input_size: list[int] | None, lengths: Sequence[int] = PROBE_LENGTHS
    ) -> dict[str, torch.Tensor]:
        """See [`Modality.example_inputs`]. A text ends in EOS if the MainNet has one, and has no other."""
        generator = torch.Generator().manual_seed(0)
        config = mainnet.config.get_text_config()
        vocabulary = getattr(config, "vocab_size", DEFAULT_VOCABULARY)
        input_ids = torch.randint(3, vocabulary, (len(lengths), max(lengths)), generator=generator)
        ends = torch.tensor(lengths).unsqueeze(1)
        attention_mask = (torch.arange(max(lengths)) < ends).long()
        pad = getattr(config, "pad_token_id", None) or 0
        eos = getattr(config, "eos_token_id", None)
        eos = eos[0] if isinstance(eos, list | tuple) else eos
        if isinstance(eos, int) and 0 <= eos < vocabulary and eos != pad:
            others = input_ids.where(input_ids != eos, torch.tensor(3 if eos != 3 else 4))
            input_ids = others.scatter(1, ends - 1, eos)
        input_ids = input_ids.where(attention_mask.bool(), torch.tensor(pad))
        return {"input_ids": input_ids.to(mainnet.device), "attention_mask": attention_mask.to(mainnet.device)}


class Image(Modality):
    """Pixels, one size per batch."""

    name = "image"
    plural = "images"
    main_inputs = ("pixel_values",)
    usual_inputs = ("pixel_values",)
    axes = ("rows",)
    poolings = ("gap", "flatten", "mean", "cls")
    readings = (PIXELS,)
    rows_share_inputs = True
    processor_name = "image processor"
    processor_file = "preprocessor_config.json"
    processor_class_name = "AutoImageProcessor"

    def input_size(self, config: PretrainedConfig, recorded: list[int] | None = None) -> list[int]:
        """See [`Modality.input_size`]: `[channels, height, width]`, 224 px if the config does not say."""
        if recorded is not None:
            return recorded
        pretrained_cfg = getattr(config, "pretrained_cfg", None) or {}
        # timm builds the model with this, regardless of what its weights were trained for.
        channels = (getattr(config, "model_args", None) or {}).get("in_chans")
        if "input_size" in pretrained_cfg:
            size = list(pretrained_cfg["input_size"])
            return [channels or size[0], *size[1:]]
        config = getattr(config, "vision_config", config)
        size = getattr(config, "image_size", None) or DEFAULT_IMAGE_SIZE
        height, width = (size, size) if isinstance(size, int) else size
        return [channels or getattr(config, "num_channels", 3), height, width]

    def example_inputs(
        self, mainnet: PreTrainedModel, input_size: list[int] | None, lengths: Sequence[int] = PROBE_LENGTHS
    ) -> dict[str, torch.Tensor]:
        """See [`Modality.example_inputs`]: noise."""
        assert input_size is not None  # Images have a size.
        generator = torch.Generator().manual_seed(0)
        pixels = torch.randn(len(lengths), *input_size, generator=generator)
        return {"pixel_values": pixels.to(mainnet.device, mainnet.dtype)}


TEXT, IMAGE = Text(), Image()
MODALITIES: dict[str, Modality] = {modality.name: modality for modality in (TEXT, IMAGE)}
