# SPDX-License-Identifier: Apache-2.0
"""One stage as a program of `torch.export`: for any number of rows, texts of any length, and nothing else in it.

A stage is traced with the whole MainNet around it: blocks that ran before, embeddings whose result is replaced by x_c.
Nobody reads what they compute, so it is taken out, with its weights and with inputs that only it had read. Of two
stages, each carries its own blocks.
"""

from collections.abc import Sequence

import torch
from torch import nn
from torch.export import Dim, ExportedProgram
from torch.fx import GraphModule
from torch.fx.experimental.symbolic_shapes import is_concrete_int
from torch.fx.graph import CodeGen
from torch.utils._pytree import tree_leaves

from ..inference.stages import Stages
from ..models.errors import ArgumentError
from ..models.modalities import DEFAULT_VOCABULARY, Modality


HIDDEN = "hidden"
# What a missing input stands for; `token_type_ids` only where the MainNet has a table of their own.
DEFAULTS = {"attention_mask": 1, "token_type_ids": 0}
# Three rows and eight tokens: no two axes are as long by accident, and none is 1, which tracing takes for a constant.
EXAMPLE = (3, 8)
# They say what tracing saw, and would keep inputs alive that nothing else reads.
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


def input_names(stages: Stages) -> tuple[str, ...]:
    """The inputs that an exported chain takes.

    Args:
        stages ([`Stages`]): the chain.
    """
    if not stages.modality.has_tokens:
        return stages.modality.main_inputs
    names = ("input_ids", "attention_mask")
    # GPT-2 takes them too, as words: there zeros are not what a missing input stands for.
    if hasattr(stages.config.mainnet_config, "type_vocab_size"):
        names += ("token_type_ids",)
    return tuple(name for name in names if name in stages.input_names)


def example_rows(stages: Stages, num_rows: int, num_tokens: int, seed: int = 0) -> dict[str, torch.Tensor]:
    """Rows of noise: texts of different lengths, padded to `num_tokens`, or images of the recorded size.

    Args:
        stages ([`Stages`]): the chain that they are for.
        num_rows (`int`): how many.
        num_tokens (`int`): of the longest text; images have none.
        seed (`int`, *optional*, defaults to 0): of the noise.
    """
    generator = torch.Generator().manual_seed(seed)
    if not stages.modality.has_tokens:
        size = stages.config.input_size
        assert size is not None  # Images have one.
        pixels = torch.randn(num_rows, *size, generator=generator)
        return {"pixel_values": pixels.to(stages.device, stages.dtype)}
    config = stages.config.mainnet_config
    vocabulary = getattr(config, "vocab_size", None) or DEFAULT_VOCABULARY
    lengths = (num_tokens - torch.arange(num_rows) % 3 * (num_tokens // 4)).clamp(min=1).unsqueeze(1)
    mask = (torch.arange(num_tokens) < lengths).long()
    ids = torch.randint(min(3, vocabulary - 1), vocabulary, mask.shape, generator=generator)
    ids = ids.where(mask.bool(), torch.tensor(getattr(config, "pad_token_id", None) or 0))
    made = {"input_ids": ids, "attention_mask": mask}
    types = getattr(config, "type_vocab_size", 0) or 1
    made["token_type_ids"] = torch.randint(types, mask.shape, generator=generator)
    return {name: made[name].to(stages.device) for name in input_names(stages)}


def example_of(stages: Stages, index: int) -> dict[str, torch.Tensor]:
    """Inputs of one stage to trace it with.

    Args:
        stages ([`Stages`]): the chain.
        index (`int`): which stage.
    """
    inputs = example_rows(stages, *EXAMPLE)
    hidden = None
    with torch.no_grad():
        for earlier in range(index):
            hidden, _ = stages(earlier, hidden, inputs)
    if hidden is None:
        return inputs
    # Of images a later stage needs only the size, which is the recorded one. Cloned, since views are traced as such.
    return {HIDDEN: hidden.clone(), **({} if stages.modality.rows_share_inputs else inputs)}


def export_stage(stages: Stages, index: int, example: dict[str, torch.Tensor] | None = None) -> ExportedProgram:
    """Export one stage.

    Args:
        stages ([`Stages`]): the chain.
        index (`int`): which stage.
        example (`dict[str, torch.Tensor]`, *optional*):
            Inputs to trace with, x_c as `hidden` first for all but stage 0; at least two rows of at least two tokens,
            as long as no other axis. By default noise.

    Returns:
        `ExportedProgram`: it takes the tensors that the stage needs, in the order of
        `program.graph_signature.user_inputs`, and gives `(x_c, logits)`, of the last stage `(logits,)`. Axis 0 is
        free, for texts axis 1 too.

    Raises:
        ValueError: `index` is no stage.
        ExportError: the stage cannot be traced, or not for any number of rows and tokens.
    """
    if not 0 <= index < len(stages):
        raise ArgumentError("index", f"must be in [0, {len(stages)}), got {index}")
    example = example_of(stages, index) if example is None else example
    whole = _traced(_Positional(stages.modules[index], tuple(example)), example, stages, index)
    graph, needed = _cleaned(whole, tuple(example))
    program = _traced(graph, {name: example[name] for name in needed}, stages, index)
    for node in program.graph.nodes:
        # File names of this machine.
        node.meta.pop("stack_trace", None)
    return program


def user_inputs(program: ExportedProgram) -> list[str]:
    """Names of the tensors that a program takes, in their order."""
    # Constants of other types are none: stages take tensors only.
    return [str(name) for name in program.graph_signature.user_inputs]


class _Positional(nn.Module):
    """A stage that takes its inputs in order, and always gives a tuple."""

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
    # Arguments of `*tensors` are one entry.
    shapes = free if isinstance(module, GraphModule) else (free,)
    try:
        with torch.no_grad():
            program = torch.export.export(module, tuple(example.values()), dynamic_shapes=shapes, strict=False)
    except Exception as error:
        line = " ".join(str(error).split())[:300]
        raise ExportError(
            f"stage {index} of {stages.config.mainnet_config.model_type} cannot be traced: {line}"
        ) from error
    # Of both: the code may ask for a number that leaves no trace in the graph but the branch it took.
    _check_free(program, stages.modality, index)
    return program


def _cleaned(program: ExportedProgram, names: Sequence[str]) -> tuple[GraphModule, list[str]]:
    """The graph without dead code, dead weights and inputs that nobody reads, and the names of the inputs it has."""
    # Operations in place become ordinary ones, which can be taken out.
    root = program.run_decompositions({}).module(check_guards=False)
    graph = root.graph
    inputs = graph.find_nodes(op="placeholder")
    for node in list(graph.nodes):
        if node.target in ASSERTIONS:
            graph.erase_node(node)
        elif node.target is torch.ops.aten.sym_size.int and node.args[0] in inputs:
            # All inputs have the same rows and tokens; which one was asked is an accident.
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
    # In the place of the one that packs and unpacks the arguments of the stage.
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
                    f"stage {index} cannot be exported for any number of {what}: its code asks for {size} of them."
                )
