# SPDX-License-Identifier: Apache-2.0
"""Export one stage as a minimal `torch.export` program, for any number of rows and texts of any length.

A stage is traced with the whole MainNet around it, including blocks that already ran and embeddings whose result is
replaced by x_c. This dead code is removed, with its weights and the inputs that only it reads, so that each stage
contains only its own blocks.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn
from torch.export import Dim, ExportedProgram
from torch.fx import GraphModule
from torch.fx.experimental.symbolic_shapes import is_concrete_int
from torch.fx.graph import CodeGen
from torch.utils._pytree import tree_leaves
from transformers import PretrainedConfig

from ..inference.stages import Stages
from ..models.errors import ArgumentError
from ..models.modalities import DEFAULT_VOCABULARY, Modality
from ..models.row_inputs import TOKEN_INPUTS


HIDDEN = "hidden"
# Three rows, eight tokens: axes must not have equal sizes by chance, nor size 1, which tracing takes for a constant.
EXAMPLE = (3, 8)
# Checks of what tracing saw, which would keep otherwise unused inputs alive.
ASSERTIONS = frozenset(
    {
        torch.ops.aten._assert_tensor_metadata.default,
        torch.ops.aten._assert_scalar.default,
        torch.ops.aten.sym_constrain_range_for_size.default,
        torch.ops.aten.sym_constrain_range.default,
    }
)


class ExportError(RuntimeError):
    """A stage cannot be exported, or its export answers differently."""


@dataclass(frozen=True)
class TokenInput:
    """Input of an exported chain of texts that may be missing.

    Args:
        missing (`int`): value that is equivalent to a missing input.
        limit (`int`): limit of the values of examples.
        shape (`tuple[int, ...]`): further axes, after rows and tokens.
    """

    missing: int
    limit: int
    shape: tuple[int, ...] = ()

    def filled(self, size: Sequence[int]) -> torch.Tensor:
        """Return a tensor that stands for a missing input.

        Args:
            size (`Sequence[int]`): rows and tokens.
        """
        return torch.full((*size, *self.shape), self.missing)


def token_inputs(config: PretrainedConfig) -> dict[str, TokenInput]:
    """Return the inputs of texts, besides token ids, that an exported chain has: those with a known missing value.

    Args:
        config (`PretrainedConfig`): config of the MainNet.
    """

    def limit(name: str) -> int:
        return getattr(config, TOKEN_INPUTS[name] or "", 0) or 0

    found = {"attention_mask": TokenInput(1, 2)}
    # GPT-2 takes them too, but as word ids: there, zeros are not equivalent to a missing input.
    if hasattr(config, "type_vocab_size"):
        found["token_type_ids"] = TokenInput(0, limit("token_type_ids") or 1)
    names = ["bbox", "task_type_ids"]
    # Otherwise RoCBert leaves its embeddings out where they are missing.
    names += ["input_shape_ids", "input_pronunciation_ids"] if getattr(config, "concat_input", False) else []
    shapes, missing = {"bbox": (4,)}, {}
    if hasattr(config, "tag_pad_id"):
        shapes |= dict.fromkeys(["xpath_tags_seq", "xpath_subs_seq"], (config.max_depth,))
        missing = {"xpath_tags_seq": config.tag_pad_id, "xpath_subs_seq": config.subs_pad_id}
    for name in (*names, *missing):
        if limit(name):
            found[name] = TokenInput(missing.get(name, 0), limit(name), shapes.get(name, ()))
    return found


def input_names(stages: Stages) -> tuple[str, ...]:
    """Return the names of an exported chain's inputs.

    Args:
        stages ([`Stages`]): the chain.
    """
    if not stages.modality.has_tokens:
        return stages.modality.main_inputs
    names = ("input_ids", *token_inputs(stages.config.mainnet_config))
    return tuple(name for name in names if name in stages.input_names)


def example_rows(stages: Stages, num_rows: int, num_tokens: int, seed: int = 0) -> dict[str, torch.Tensor]:
    """Make random rows: texts of different lengths, padded to `num_tokens`, or images of the recorded size.

    Args:
        stages ([`Stages`]): the chain.
        num_rows (`int`): number of rows.
        num_tokens (`int`): tokens of the longest text; ignored for images.
        seed (`int`, *optional*, defaults to 0): seed of the random values.
    """
    generator = torch.Generator().manual_seed(seed)
    if not stages.modality.has_tokens:
        size = stages.config.input_size
        assert size is not None  # Images have a size.
        pixels = torch.randn(num_rows, *size, generator=generator)
        return {"pixel_values": pixels.to(stages.device, stages.dtype)}
    config = stages.config.mainnet_config
    vocabulary = getattr(config, "vocab_size", None) or DEFAULT_VOCABULARY
    lengths = (num_tokens - torch.arange(num_rows) % 3 * (num_tokens // 4)).clamp(min=1).unsqueeze(1)
    mask = (torch.arange(num_tokens) < lengths).long()
    ids = torch.randint(min(3, vocabulary - 1), vocabulary, mask.shape, generator=generator)
    ids = ids.where(mask.bool(), torch.tensor(getattr(config, "pad_token_id", None) or 0))
    made = {"input_ids": ids, "attention_mask": mask}
    for name, each in token_inputs(config).items():
        if name in made:
            continue
        made[name] = torch.randint(each.limit, (*mask.shape, *each.shape), generator=generator)
        if name == "bbox":
            # Left and top come first.
            made[name] = made[name].view(*mask.shape, 2, 2).sort(2).values.flatten(2)
    return {name: made[name].to(stages.device) for name in input_names(stages)}


def example_of(stages: Stages, index: int) -> dict[str, torch.Tensor]:
    """Return example inputs for tracing one stage.

    Args:
        stages ([`Stages`]): the chain.
        index (`int`): index of the stage.
    """
    inputs = example_rows(stages, *EXAMPLE)
    hidden = None
    with torch.no_grad():
        for earlier in range(index):
            hidden, _ = stages(earlier, hidden, inputs)
    if hidden is None:
        return inputs
    # For images, a later stage only needs the size, which is the recorded one. Cloned, because views are traced too.
    return {HIDDEN: hidden.clone(), **({} if stages.modality.one_for_all(inputs) else inputs)}


def export_stage(stages: Stages, index: int, example: dict[str, torch.Tensor] | None = None) -> ExportedProgram:
    """Export one stage.

    Args:
        stages ([`Stages`]): the chain.
        index (`int`): index of the stage.
        example (`dict[str, torch.Tensor]`, *optional*):
            Inputs for tracing, for all but stage 0 with x_c as `hidden` first; at least two rows of at least two
            tokens, with sizes that no other axis has. Random by default.

    Returns:
        `ExportedProgram`: program that takes the tensors the stage needs, in the order of
        `program.graph_signature.user_inputs`, and returns `(x_c, logits)`, or `(logits,)` for the last stage. Axis 0
        has variable size, and for texts axis 1 too.

    Raises:
        ValueError: `index` is not a stage.
        ExportError: the stage cannot be traced, or not for any number of rows and tokens.
    """
    if not 0 <= index < len(stages):
        raise ArgumentError("index", f"must be in [0, {len(stages)}), got {index}")
    example = example_of(stages, index) if example is None else example
    whole = _traced(_Positional(stages.modules[index], tuple(example)), example, stages, index)
    graph, needed = _cleaned(whole, tuple(example))
    program = _traced(graph, {name: example[name] for name in needed}, stages, index)
    for node in program.graph.nodes:
        # Contains file names of this machine.
        node.meta.pop("stack_trace", None)
    return program


def user_inputs(program: ExportedProgram) -> list[str]:
    """Return the names of a program's input tensors, in order."""
    # There are no other constants, because stages take only tensors.
    return [str(name) for name in program.graph_signature.user_inputs]


class _Positional(nn.Module):
    """Stage that takes positional inputs and always returns a tuple."""

    def __init__(self, stage: nn.Module, names: tuple[str, ...]):
        super().__init__()
        self.stage = stage
        self.names = names

    def forward(self, *tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
        result = self.stage(**dict(zip(self.names, tensors, strict=True)))
        return result if isinstance(result, tuple) else (result,)


def _traced(module: nn.Module, example: dict[str, torch.Tensor], stages: Stages, index: int) -> ExportedProgram:
    axes = dict.fromkeys(range(len(stages.modality.axes)), Dim.AUTO)
    free = tuple(axes for _ in example)
    # `*tensors` counts as one argument.
    shapes = free if isinstance(module, GraphModule) else (free,)
    try:
        with torch.no_grad():
            program = torch.export.export(module, tuple(example.values()), dynamic_shapes=shapes, strict=False)
    except Exception as error:
        line = " ".join(str(error).split())[:300]
        raise ExportError(
            f"stage {index} of {stages.config.mainnet_config.model_type} cannot be traced: {line}"
        ) from error
    # Checked for both programs: code may branch on a size, which leaves no other trace in the graph.
    _check_free(program, stages.modality, index)
    return program


def _cleaned(program: ExportedProgram, names: Sequence[str]) -> tuple[GraphModule, list[str]]:
    """Remove dead code, dead weights and unused inputs; return the graph and the names of its inputs."""
    # Turns in-place operations into ordinary ones, which can be removed.
    root = program.run_decompositions({}).module(check_guards=False)
    graph = root.graph
    inputs = graph.find_nodes(op="placeholder")
    for node in list(graph.nodes):
        if node.target in ASSERTIONS:
            graph.erase_node(node)
        elif node.target is torch.ops.aten.sym_size.int and node.args[0] in inputs:
            # All inputs have the same rows and tokens, so any of them can provide the size.
            node.args = (inputs[0], *node.args[1:])
    graph.eliminate_dead_code()
    needed = []
    for node, name in zip(inputs, names, strict=True):
        if node.users:
            node.target = name
            needed.append(name)
        else:
            graph.erase_node(node)
    graph.output_node().args = (tuple(tree_leaves(graph.output_node().args)),)
    # Replaces the codegen that packs and unpacks the stage's arguments.
    graph.set_codegen(CodeGen())
    return GraphModule(root, graph), needed


def _check_free(program: ExportedProgram, modality: Modality, index: int) -> None:
    inputs = set(program.graph_signature.user_inputs)
    for node in program.graph.find_nodes(op="placeholder"):
        if node.name not in inputs:
            continue
        for axis, what in enumerate(modality.axes):
            size = node.meta["val"].shape[axis]
            if is_concrete_int(size):
                raise ExportError(
                    f"stage {index} cannot be exported for any number of {what}: its code needs exactly {size}."
                )
