# SPDX-License-Identifier: Apache-2.0
"""Inputs of a MainNet with one entry per row: which of its arguments these are, and which follow the tokens.

The two tables name what the classifiers of transformers take. They are also arguments of `forward` in
`modeling_sidenet.py`, because Trainer drops every column that is not: without the name there, it would train on rows
that lack an input. A MainNet of a newer transformers may take others, which pass through `forward` as `**kwargs`.
"""

import inspect
from collections.abc import Iterable, Sequence

from torch import nn


# Inputs with one entry per token, and the field of the MainNet's config that limits their values. Padding has value 0,
# which no MainNet reads where `attention_mask` is 0.
TOKEN_INPUTS: dict[str, str | None] = {
    "input_ids": "vocab_size",
    "attention_mask": None,
    "token_type_ids": "type_vocab_size",
    "position_ids": "max_position_embeddings",
    "inputs_embeds": None,
    "bbox": "max_2d_position_embeddings",
    "global_attention_mask": None,
    "input_pronunciation_ids": "pronunciation_vocab_size",
    "input_shape_ids": "shape_vocab_size",
    "langs": "n_langs",
    "mm_token_type_ids": None,
    "task_type_ids": "task_type_vocab_size",
    "xpath_subs_seq": "max_xpath_subs_unit_embeddings",
    "xpath_tags_seq": "max_xpath_tag_unit_embeddings",
}
# Inputs of another length, even if it happens to be the number of tokens, with the same field.
OTHER_INPUTS: dict[str, str | None] = {
    "decoder_attention_mask": None,
    "decoder_input_ids": "vocab_size",
    "decoder_inputs_embeds": None,
    "decoder_position_ids": "max_position_embeddings",
    "entity_attention_mask": None,
    "entity_ids": "entity_vocab_size",
    "entity_position_ids": None,
    "entity_token_type_ids": "type_vocab_size",
    "image": None,
    "lang_ids": None,
    "lengths": None,
    "perm_mask": None,
    "pixel_attention_mask": None,
    "pixel_values": None,
    "spatial_shapes": None,
    "target_mapping": None,
}
# Inputs that become hidden states of their own beside x_c: a stage would have to pass them on.
BESIDE_TOKENS = frozenset({"entity_attention_mask", "entity_ids", "entity_position_ids", "entity_token_type_ids"})
# Arguments of classifiers that are not data of the rows: targets, caches, switches, and inputs with one entry per
# picture or layer instead of per row. XLNet's `input_mask` is its `attention_mask` inverted, which SideNets cannot
# read; Perceiver's `inputs` are its `input_ids`.
NOT_ROWS = frozenset(
    {
        "cache", "cache_params", "cache_position", "cross_attn_head_mask", "decoder_head_mask", "encoder_outputs",
        "head_mask", "image_grid_thw", "image_hidden_states", "input_mask", "inputs", "labels", "logits_to_keep",
        "mems", "num_hashes", "num_items_in_batch", "output_attentions", "output_hidden_states",
        "output_router_logits", "past_key_values", "pixel_values_videos", "return_dict", "return_loss", "use_cache",
        "use_mems", "video_grid_thw",
    }
)  # fmt: skip
# One value for all rows of a call, which `forward` takes.
SWITCHES = frozenset({"interpolate_pos_encoding"})


def arguments_of(mainnet: nn.Module) -> frozenset[str]:
    """Return the names of the arguments of a MainNet's forward, without `**kwargs`, which may ignore what it gets.

    A forward of `*args, **kwargs` passes them on to that of the class above.

    Args:
        mainnet (`nn.Module`): the MainNet.
    """
    # A wrapped network, see `wrapped_network.py`.
    own = getattr(mainnet, "input_names", None)
    if isinstance(own, frozenset):
        return own
    above = (vars(kind)["forward"] for kind in type(mainnet).__mro__ if "forward" in vars(kind))
    names: set[str] = set()
    for forward in (mainnet.forward, *above):
        parameters = inspect.signature(forward).parameters.values()
        names |= {each.name for each in parameters if each.kind not in (each.VAR_KEYWORD, each.VAR_POSITIONAL)}
        if not {each.kind for each in parameters} >= {inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL}:
            break
    return frozenset(names - {"self"})


def row_inputs(taken: Iterable[str], usual: Sequence[str]) -> tuple[str, ...]:
    """Return the inputs with one entry per row, the usual ones first.

    Args:
        taken (`Iterable[str]`): arguments of the MainNet's forward.
        usual (`Sequence[str]`): usual inputs of its modality, in order.
    """
    taken = set(taken)
    others = taken - set(usual) - NOT_ROWS - SWITCHES
    return (*(name for name in usual if name in taken), *sorted(others))


def follows_tokens(name: str, shape: Sequence[int], length: int) -> bool:
    """Return whether an input has one entry per token, so that it is padded and trimmed with them.

    Args:
        name (`str`): name of the input.
        shape (`Sequence[int]`): its shape in one row, or in a batch without the rows.
        length (`int`): number of tokens, 0 for images.
    """
    if length == 0 or name in OTHER_INPUTS:
        return False
    # Of an input that is in neither table, only the length can tell. Where it is the same by chance, the rows of a
    # batch have as many entries as tokens each: nothing is padded that has a fixed size.
    return name in TOKEN_INPUTS or (len(shape) > 0 and shape[0] == length)
