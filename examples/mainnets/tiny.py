# SPDX-License-Identifier: Apache-2.0
"""Tiny random MainNets of every architecture: default configs made small, with weights that let inputs matter."""

from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from transformers import PretrainedConfig, PreTrainedModel
from transformers.models.auto.configuration_auto import CONFIG_MAPPING


NUM_LABELS = 3
VOCABULARY, WIDTH, HEADS, LAYERS = 99, 32, 4, 4
PAD, BOS, EOS = 0, 1, 2
IMAGE_SIZE = 64

# Fields that many configs have.
SMALL: dict[str, Any] = {
    **dict.fromkeys(("vocab_size", "entity_vocab_size", "pronunciation_vocab_size", "shape_vocab_size"), VOCABULARY),
    **dict.fromkeys(
        (
            "hidden_size", "d_model", "n_embd", "emb_dim", "dim", "embedding_size", "input_embedding_size",
            "output_embedding_size", "pooler_hidden_size", "prediction_head_size", "word_embed_proj_dim",
            "true_hidden_size", "entity_emb_size", "pronunciation_embed_dim", "shape_embed_dim", "d_latents",
            "out_hidden_size", "pooler_output_size", "projection_dim", "projection_size", "intra_bottleneck_size",
            "dim_model_base",
        ),
        WIDTH,
    ),
    **dict.fromkeys(
        (
            "intermediate_size", "d_ff", "dff", "encoder_ffn_dim", "decoder_ffn_dim", "ffn_dim", "hidden_dim",
            "n_inner", "d_inner", "moe_intermediate_size", "ffn_hidden_size", "shared_expert_intermediate_size",
            "feed_forward_size", "attention_hidden_size", "prompt_mid_dim", "xpath_unit_hidden_size",
        ),
        2 * WIDTH,
    ),
    **dict.fromkeys(
        (
            "num_hidden_layers", "num_layers", "n_layer", "n_layers", "encoder_layers", "decoder_layers",
            "num_decoder_layers", "depth", "num_self_attends_per_block",
        ),
        LAYERS,
    ),
    **dict.fromkeys(
        (
            "num_attention_heads", "n_head", "n_heads", "num_heads", "encoder_attention_heads",
            "decoder_attention_heads", "num_cross_attention_heads", "num_self_attention_heads",
        ),
        HEADS,
    ),
    **dict.fromkeys(("num_key_value_heads", "num_kv_heads"), HEADS // 2),
    **dict.fromkeys(
        (
            "head_dim", "d_kv", "d_head", "attention_head_size", "kv_channels", "v_head_dim", "qk_nope_head_dim",
            "qk_rope_head_dim", "linear_key_head_dim", "linear_value_head_dim", "index_head_dim",
        ),
        WIDTH // HEADS,
    ),
    **dict.fromkeys(("linear_num_key_heads", "index_n_heads"), 2),
    "linear_num_value_heads": HEADS,
    **dict.fromkeys(("q_lora_rank", "kv_lora_rank", "adapter_rank", "gated_norm_rank"), WIDTH // 2),
    **dict.fromkeys(
        ("max_position_embeddings", "n_positions", "max_seq_len", "max_2d_position_embeddings", "prompt_length"), 64
    ),
    **dict.fromkeys(("num_experts", "num_local_experts", "n_routed_experts"), 4),
    **dict.fromkeys(("num_experts_per_tok", "top_k", "moe_topk"), 2),
    **dict.fromkeys(("n_group", "topk_group", "first_k_dense_replace"), 1),
    # So that these matter for short texts.
    **dict.fromkeys(
        ("sliding_window", "attention_window", "window_size", "local_attention", "block_size", "chunk_size"), 4
    ),
    "pad_token_id": PAD,
    "bos_token_id": BOS,
    "eos_token_id": EOS,
    "decoder_start_token_id": EOS,
    "num_latents": 8,
    "image_size": IMAGE_SIZE,
    "num_labels": NUM_LABELS,
}  # fmt: skip

# What an architecture needs besides, or instead; of a part, by the part's name.
FOUR, TWICE = [16, 32, 48, 64], [2, 2, 2, 2]
STAGES, NARROW = {"hidden_sizes": FOUR, "depths": TWICE}, {"depth_multiplier": 0.25}
SWIN = {"embed_dim": 16, "depths": TWICE[:3], "num_heads": [2, 2, 4]}
LATENT = {"num_key_value_heads": HEADS}
SPECIAL: dict[str, dict[str, Any]] = {
    **dict.fromkeys(("axk1", "axk2", "deepseek_v2", "deepseek_v3", "minicpm3", "esmc"), LATENT),
    "cohere_compass_text": {
        "layer_types": ["sliding_attention", "full_attention"] * 2,
        "rope_parameters": {
            "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 1, 1]},
            "full_attention": None,
        },
    },
    "deepseek_v2": {**LATENT, "num_experts_per_tok": 2},
    "markuplm": {"max_depth": 8, "xpath_unit_hidden_size": 8},
    "mistral4": {**LATENT, "head_dim": 16},
    "nemotron": {"num_key_value_heads": HEADS // 2},
    "xmod": {"languages": ["en_XX", "de_DE"], "default_language": "en_XX"},
    "esm": {"vocab_size": VOCABULARY},
    "gptj": {"rotary_dim": 4},
    "jamba": {"attn_layer_offset": 1, "attn_layer_period": 2},
    "layoutlmv3": {"coordinate_size": 6, "shape_size": 4, "input_size": 64},
    "lilt": {"hidden_size": 48},
    "reformer": {"axial_pos_embds_dim": [16, 16], "axial_pos_shape": [8, 8]},
    "t5": {"decoder_start_token_id": PAD},
    # Images.
    **dict.fromkeys(("convnext", "convnextv2", "poolformer"), STAGES),
    **dict.fromkeys(("swin", "swinv2", "donut-swin"), SWIN),
    "dinat": {"embed_dim": 16, "depths": TWICE, "num_heads": [2, 2, 4, 4]},
    "bit": {"hidden_sizes": [32, 64, 96, 128], "depths": TWICE, "num_groups": 8},
    "cvt": {"embed_dim": [16, 32, 48], "num_heads": [1, 2, 3], "depth": [1, 2, 3]},
    "efficientnet": {"width_coefficient": 0.25, "depth_coefficient": 0.5, "hidden_dim": 320},
    "focalnet": {"embed_dim": 16, "depths": TWICE},
    "hgnet_v2": {
        "hidden_sizes": [32, 64, 128, 256],
        "stem_channels": [3, 8, 12],
        "stage_in_channels": [12, 32, 64, 128],
        "stage_mid_channels": [12, 24, 48, 96],
        "stage_out_channels": [32, 64, 128, 256],
    },
    "hiera": {"embed_dim": 16, "depths": TWICE},
    "levit": {
        "hidden_sizes": [32, 48, 64], "num_attention_heads": [2, 3, 4], "depths": [2, 2, 2], "key_dim": [8, 8, 8]
    },
    **dict.fromkeys(("mobilenet_v1", "mobilenet_v2"), NARROW),
    "mobilevit": {"hidden_sizes": [16, 24, 32], "neck_hidden_sizes": [8, 16, 16, 24, 24, 32, 64]},
    "mobilevitv2": {"width_multiplier": 0.5},
    "perceiver": {"num_cross_attention_heads": 1},
    "pvt": {**STAGES, "num_attention_heads": [1, 2, 3, 4]},
    "pvt_v2": {**STAGES, "num_attention_heads": [1, 2, 3, 4]},
    "regnet": {**STAGES, "groups_width": 8},
    "resnet": {"hidden_sizes": [32, 64, 96, 128], "depths": TWICE},
    "segformer": {"hidden_sizes": FOUR, "num_attention_heads": [1, 2, 3, 4], "decoder_hidden_size": WIDTH},
    "swiftformer": {"embed_dims": [16, 24, 32, 48], "depths": TWICE},
    "textnet": {"stem_out_channels": 16, "hidden_sizes": [16, 16, 32, 48, 64]},
    "timm_wrapper": {"architecture": "resnet10t"},
}  # fmt: skip


def tiny_config(model_type: str) -> PretrainedConfig:
    """Return a small config of an architecture.

    Args:
        model_type (`str`): as in `config.model_type`.
    """
    kind = CONFIG_MAPPING[model_type]
    fields = _small(kind().to_dict()) | {"num_labels": NUM_LABELS}
    return kind(**_merged(fields, SPECIAL.get(model_type, {})))


def _small(default: dict[str, Any]) -> dict[str, Any]:
    """Return the fields to change."""
    layers = next((default[name] for name in ("num_hidden_layers", "num_layers", "n_layer") if name in default), None)
    fields: dict[str, Any] = {}
    for name, value in default.items():
        if isinstance(value, dict) and "model_type" in value:
            fields[name] = _small(value) | {"model_type": value["model_type"]}
        elif isinstance(value, list) and len(value) == layers and all(isinstance(item, str) for item in value):
            # Every kind of layer.
            kinds = list(dict.fromkeys(value))
            fields[name] = [kinds[i % len(kinds)] for i in range(LAYERS)]
        elif name == "image_size" and isinstance(value, list):
            fields[name] = [IMAGE_SIZE] * 2
        elif name in SMALL and (value is None or isinstance(value, int | list)) and not isinstance(value, bool):
            optional = value is None and not name.endswith("_token_id") and name not in ("head_dim", "num_labels")
            if not optional and not isinstance(value, list):
                fields[name] = SMALL[name]
    return fields


def _merged(fields: dict[str, Any], others: dict[str, Any]) -> dict[str, Any]:
    merged = dict(fields)
    for name, value in others.items():
        merged[name] = _merged(merged.get(name, {}), value) if isinstance(value, dict) else value
    return merged


@torch.no_grad()
def enliven(mainnet: PreTrainedModel, seed: int = 0) -> PreTrainedModel:
    """Give a MainNet random weights with which its answers depend on rows, masks and every block.

    Args:
        mainnet (`PreTrainedModel`): a task model, changed in place.
        seed (`int`, *optional*, defaults to 0): of the weights.
    """
    generator = torch.Generator().manual_seed(seed)
    owners = {id(parameter): module for module in mainnet.modules() for parameter in module.parameters(recurse=False)}
    for name, parameter in mainnet.named_parameters():
        owner = owners[id(parameter)]
        kind = type(owner).__name__
        noise = torch.randn(parameter.shape, generator=generator)
        if parameter.dim() < 2:
            if "bias" in name.rpartition(".")[2] and "dt" not in name:
                parameter.copy_(noise * 0.1)
            elif parameter.abs().max() < 0.05 and ("Norm" not in kind or "BatchNorm" in kind or "LayerNorm" in kind):
                # Layer scale, or a last norm of zero: the block would do nothing.
                parameter.copy_(1 + noise * 0.1)
        elif "Norm" in kind or parameter.numel() == max(parameter.shape) or name.endswith("A_log"):
            continue
        elif isinstance(owner, nn.Embedding) or "embed" in name or "token" in name:
            parameter.copy_(noise * (1.0 if isinstance(owner, nn.Embedding) else 0.5))
        else:
            inputs = parameter[0].numel() if parameter.dim() != 3 or isinstance(owner, nn.Conv1d) else None
            inputs = parameter.shape[-1] if inputs is None else inputs
            outputs = getattr(owner, "out_features", getattr(owner, "out_channels", None))
            parameter.copy_(noise * (3.0 if outputs == NUM_LABELS else 1.2) / inputs**0.5)
    for module in mainnet.modules():
        if isinstance(module, nn.Embedding) and module.padding_idx is not None:
            module.weight[module.padding_idx] = 0
    # Some remember what they computed from their weights, until they train.
    return mainnet.train().eval()


@torch.no_grad()
def settle(mainnet: PreTrainedModel, inputs: dict[str, torch.Tensor]) -> None:
    """Set the statistics of every BatchNorm to those of these rows.

    Args:
        mainnet (`PreTrainedModel`): a task model in evaluation mode.
        inputs (`dict[str, torch.Tensor]`): rows.
    """
    norms = [module for module in mainnet.modules() if isinstance(module, _BatchNorm) and module.momentum is not None]
    if not norms:
        return
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.train()
        norm.momentum = 1.0
    try:
        mainnet(**inputs)
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
            norm.eval()
