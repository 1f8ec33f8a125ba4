# SPDX-License-Identifier: Apache-2.0
"""What goes into a MainNet: texts or images. One object per modality, the only place that knows how they differ for a
model: its inputs, their axes, the example rows that it is probed with, the poolings that read its blocks, and what
its preprocessor is called. How rows of data become such inputs is for `hf_sidenet.data`.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import transformers
from transformers import PretrainedConfig, PreTrainedModel


# Three rows of different lengths: no other axis of a usual model is 3, and every mask row differs.
PROBE_LENGTHS = (8, 6, 5)
DEFAULT_IMAGE_SIZE = 224
# How x_c is pooled to one vector per row; see [`pool`].
POOLINGS = ("auto", "mean", "cls", "gap", "flatten")
# Of MainNets that name no vocabulary because they read characters.
DEFAULT_VOCABULARY = 100


class Modality:
    """A kind of input.

    Attributes:
        name (`str`): `"text"` or `"image"`, as it is written to files.
        plural (`str`): for messages.
        main_inputs (`tuple[str, ...]`): of these a batch has one.
        row_inputs (`tuple[str, ...]`): inputs that have one entry per row.
        axes (`tuple[str, ...]`): the axes of a batch that are of any size, the first being the rows.
        poolings (`tuple[str, ...]`): those that can read the blocks of some MainNet of this modality.
        keeps_form (`bool`): whether x_c has the same form after every block.
        rows_share_inputs (`bool`):
            Whether a later stage needs the inputs of one row only, which stands for the size of all.
        processor_name (`str`): what its preprocessor is called.
        processor_file (`str`): the file by which a saved one is known.
        processor_class_name (`str`): the Auto class that loads it.
    """

    name: str
    plural: str
    main_inputs: tuple[str, ...]
    row_inputs: tuple[str, ...]
    axes: tuple[str, ...]
    poolings: tuple[str, ...]
    keeps_form: bool
    rows_share_inputs: bool
    processor_name: str
    processor_file: str
    processor_class_name: str

    @property
    def has_tokens(self) -> bool:
        """Whether rows are sequences of different lengths, which are sorted, padded and trimmed."""
        return len(self.axes) > 1

    @property
    def processor_class(self) -> type:
        """The Auto class of transformers that loads its preprocessor."""
        return getattr(transformers, self.processor_class_name)

    def input_size(self, config: PretrainedConfig, recorded: list[int] | None = None) -> list[int] | None:
        """Size of one row, without the batch axis, that a MainNet is probed with; `None` where rows have none.

        Args:
            config (`PretrainedConfig`): of the MainNet.
            recorded (`list[int]`, *optional*): `input_size` of a [`SideNetConfig`], which goes first.
        """
        raise NotImplementedError

    def example_inputs(self, mainnet: PreTrainedModel, input_size: list[int] | None) -> dict[str, torch.Tensor]:
        """Three example rows, of different lengths where rows have lengths.

        Args:
            mainnet (`PreTrainedModel`): a task model.
            input_size (`list[int]`, *optional*): of [`~Modality.input_size`].
        """
        raise NotImplementedError

    def check_hidden(self, name: str, hidden: torch.Tensor) -> None:
        """Refuse hidden states of the example rows that SideNets would misread.

        Args:
            name (`str`): of the block that gets them.
            hidden (`torch.Tensor` of shape `(batch, ...)`): between two blocks.

        Raises:
            ValueError: their axes are not where they must be.
        """
        raise NotImplementedError

    def block_shape(self, hidden: torch.Tensor) -> list[int]:
        """Shape of x_c without the axes that are of any size."""
        return list(hidden.shape[len(self.axes) :])

    def pooled_size(self, shape: Sequence[int], pooling: str) -> int:
        """Width of the pooled representation of a block, and the check that this pooling fits it.

        Args:
            shape (`Sequence[int]`): of [`~Modality.block_shape`].
            pooling (`str`): see [`pool`].

        Raises:
            ValueError: the pooling cannot read this representation.
        """
        if pooling == "flatten":
            if self.has_tokens:
                raise ValueError(
                    f"`pooling='flatten'` needs inputs of one size, and {self.plural} differ: use 'mean' or 'cls'."
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
        """Poolings that are tried for a block by default."""
        return ("gap",) if len(shape) == 3 else ("mean", "cls")

    def main_input(self, inputs: Mapping[str, Any]) -> str | None:
        """Which of its main inputs a batch has."""
        return next((name for name in self.main_inputs if name in inputs), None)

    def later_inputs(self, inputs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """What a stage after the first needs of the inputs of a batch."""
        return {name: value[:1] for name, value in inputs.items()} if self.rows_share_inputs else inputs


class Text(Modality):
    """Token ids, or embeddings in their place."""

    name = "text"
    plural = "texts"
    main_inputs = ("input_ids", "inputs_embeds")
    row_inputs = ("input_ids", "attention_mask", "token_type_ids", "position_ids", "inputs_embeds")
    axes = ("rows", "tokens")
    poolings = ("mean", "cls")
    keeps_form = True
    rows_share_inputs = False
    processor_name = "tokenizer"
    processor_file = "tokenizer.json"
    processor_class_name = "AutoTokenizer"

    def input_size(self, config: PretrainedConfig, recorded: list[int] | None = None) -> None:
        """See [`Modality.input_size`]: texts have none."""

    def example_inputs(self, mainnet: PreTrainedModel, input_size: list[int] | None) -> dict[str, torch.Tensor]:
        """See [`Modality.example_inputs`]."""
        generator = torch.Generator().manual_seed(0)
        vocabulary = getattr(mainnet.config, "vocab_size", DEFAULT_VOCABULARY)
        input_ids = torch.randint(3, vocabulary, (len(PROBE_LENGTHS), max(PROBE_LENGTHS)), generator=generator)
        lengths = torch.tensor(PROBE_LENGTHS).unsqueeze(1)
        attention_mask = (torch.arange(max(PROBE_LENGTHS)) < lengths).long()
        pad = getattr(mainnet.config, "pad_token_id", None) or 0
        input_ids = input_ids.where(attention_mask.bool(), torch.tensor(pad))
        return {"input_ids": input_ids.to(mainnet.device), "attention_mask": attention_mask.to(mainnet.device)}

    def check_hidden(self, name: str, hidden: torch.Tensor) -> None:
        """See [`Modality.check_hidden`]."""
        if hidden.dim() != 3 or hidden.shape[1] != max(PROBE_LENGTHS):
            raise ValueError(
                f"blocks must pass one vector per token, but {name} gets {tuple(hidden.shape)} for "
                f"{len(PROBE_LENGTHS)} texts of {max(PROBE_LENGTHS)} tokens, so the attention mask does not fit."
            )


class Image(Modality):
    """Pixels, in one size per batch."""

    name = "image"
    plural = "images"
    main_inputs = ("pixel_values",)
    row_inputs = ("pixel_values",)
    axes = ("rows",)
    poolings = ("gap", "flatten", "mean", "cls")
    keeps_form = False
    rows_share_inputs = True
    processor_name = "image processor"
    processor_file = "preprocessor_config.json"
    processor_class_name = "AutoImageProcessor"

    def input_size(self, config: PretrainedConfig, recorded: list[int] | None = None) -> list[int]:
        """See [`Modality.input_size`]: `[channels, height, width]`, 224 px where the config does not say."""
        if recorded is not None:
            return recorded
        pretrained_cfg = getattr(config, "pretrained_cfg", None) or {}
        # What timm's models are built with, whatever their weights were made for.
        channels = (getattr(config, "model_args", None) or {}).get("in_chans")
        if "input_size" in pretrained_cfg:
            size = list(pretrained_cfg["input_size"])
            return [channels or size[0], *size[1:]]
        config = getattr(config, "vision_config", config)
        size = getattr(config, "image_size", None) or DEFAULT_IMAGE_SIZE
        height, width = (size, size) if isinstance(size, int) else size
        return [channels or getattr(config, "num_channels", 3), height, width]

    def example_inputs(self, mainnet: PreTrainedModel, input_size: list[int] | None) -> dict[str, torch.Tensor]:
        """See [`Modality.example_inputs`]: noise."""
        assert input_size is not None  # Images have one.
        generator = torch.Generator().manual_seed(0)
        pixels = torch.randn(len(PROBE_LENGTHS), *input_size, generator=generator)
        return {"pixel_values": pixels.to(mainnet.device, mainnet.dtype)}

    def check_hidden(self, name: str, hidden: torch.Tensor) -> None:
        """See [`Modality.check_hidden`]."""
        # Square images give square maps.
        if hidden.dim() == 4 and hidden.shape[1] == hidden.shape[2] != hidden.shape[3]:
            raise ValueError(
                f"feature maps must have the channels first, but those between the blocks, at {name}, are "
                f"{tuple(hidden.shape)}."
            )


TEXT, IMAGE = Text(), Image()
MODALITIES: dict[str, Modality] = {modality.name: modality for modality in (TEXT, IMAGE)}
