# SPDX-License-Identifier: Apache-2.0
"""MainNets whose forward is no plain chain of blocks: other axes and arguments, several lists, one layer used again.

`examples/mainnets/sweep.py` tries every architecture; this is a sample of those that differ most.
"""

import copy

import pytest
import torch
import transformers
from transformers import AutoModelForImageClassification, AutoModelForSequenceClassification

from hf_sidenet.inference import Stages, StagesError
from hf_sidenet.models import SideNetForImageClassification, SideNetForSequenceClassification
from tests.inference.stages import chained

from .naive import choose, every_exit, spread_out, unsaved_flops, without_cache
from .prepare import settle_batchnorms
from .tiny import TEXT


pytestmark = pytest.mark.medium


ENCODER_DECODER = {
    "d_model": 32,
    "encoder_layers": 3,
    "decoder_layers": 3,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 37,
    "decoder_ffn_dim": 37,
    "vocab_size": 99,
    "pad_token_id": 0,
    "eos_token_id": 2,
}
T5 = {"d_model": 32, "d_ff": 37, "d_kv": 16, "num_layers": 3, "num_heads": 2, "vocab_size": 99, "pad_token_id": 0}
XLM = {"emb_dim": 32, "n_layers": 4, "n_heads": 2, "vocab_size": 99, "n_words": 99, "pad_index": 0}
MAPS = {"hidden_sizes": [8, 16, 24, 32], "depths": [1, 1, 1, 1]}
HEADS = {"num_attention_heads": [1, 2, 2, 4], "image_size": 64}

# By model type: fields of the config, number of blocks, and why there are no stages.
TEXTS = {
    "albert": ({**TEXT, "num_hidden_layers": 5, "embedding_size": 16}, 6, None),
    "bart": (ENCODER_DECODER, 6, "also needs what model.encoder.layers.2 returned"),
    "bloom": ({"vocab_size": 99, "hidden_size": 32, "n_layer": 4, "n_head": 2, "pad_token_id": 0}, 4, None),
    "canine": ({**TEXT, "downsampling_rate": 2, "num_hash_buckets": 64}, 4, "no vector per token"),
    "funnel": (
        {"d_model": 32, "block_sizes": [2, 2], "n_head": 2, "d_head": 16, "d_inner": 37, "vocab_size": 99},
        None,
        "also needs what",
    ),
    "longformer": ({**TEXT, "attention_window": 4}, 4, "no vector per token"),
    "openai-gpt": ({"n_embd": 32, "n_layer": 4, "n_head": 2, "vocab_size": 99, "pad_token_id": 0}, 4, None),
    "squeezebert": ({**TEXT, "embedding_size": 32, "intermediate_size": 32}, 5, "also needs what"),
    "t5": ({**T5, "decoder_start_token_id": 0, "eos_token_id": 2}, 6, "also needs what"),
    "xlm": (XLM, 8, "also needs what"),
    "xlnet": ({"d_model": 32, "n_layer": 4, "n_head": 2, "d_inner": 37, "vocab_size": 99, "pad_token_id": 0}, 4, None),
    "xmod": ({**TEXT, "languages": ["en"], "default_language": "en"}, 4, None),
}
IMAGES = {
    "cvt": ({"embed_dim": [8, 16, 32], "num_heads": [1, 2, 2], "depth": [1, 2, 3]}, 3, None),
    "poolformer": (MAPS, 8, None),
    "pvt": ({**MAPS, **HEADS}, 8, "started after"),
    "pvt_v2": ({**MAPS, **HEADS}, 4, "started after"),
    "textnet": ({}, 4, None),
}
TIMM = {
    "crossvit_tiny_240": (240, "started after"),
    "mvitv2_tiny": (224, None),
    "pit_ti_224": (224, "also needs what"),
    "swin_tiny_patch4_window7_224": (224, None),
    "test_mambaout": (96, None),
    "xception41": (96, "started after"),
}


def enlivened(mainnet):
    """Weights with which rows and masks matter."""
    generator = torch.Generator().manual_seed(1)
    for parameter in mainnet.parameters():
        if parameter.dim() > 1:
            fan_in = parameter[0].numel()
            parameter.data = 1.5 * torch.randn(parameter.shape, generator=generator) / fan_in**0.5
    return mainnet.eval()


def build(model_type, fields, auto_class):
    config = transformers.CONFIG_MAPPING[model_type](**fields)
    config.num_labels = 3
    return enlivened(auto_class.from_config(config, attn_implementation="eager"))


def texts(batch_size, length, seed=0):
    generator = torch.Generator().manual_seed(seed)
    input_ids = torch.randint(3, 99, (batch_size, length), generator=generator)
    lengths = torch.randint(2, length + 1, (batch_size, 1), generator=generator)
    mask = (torch.arange(length) < lengths).long()
    return {"input_ids": input_ids.scatter(1, lengths - 1, 2) * mask, "attention_mask": mask}


def images(batch_size, size, seed=0):
    return {"pixel_values": torch.randn(batch_size, 3, size, size, generator=torch.Generator().manual_seed(seed))}


def middle(full):
    return full[:, :-1].softmax(-1).amax(-1).quantile(0.6, dim=0).tolist()


def test_maps_with_the_channels_last_are_turned():
    pytest.importorskip("timm", reason='needs pip install "hf_sidenet[vision]"')
    config = transformers.TimmWrapperConfig(architecture="swin_tiny_patch4_window7_224", num_labels=3)
    mainnet = transformers.TimmWrapperForImageClassification(config).eval()
    model = SideNetForImageClassification.from_mainnet(mainnet, exit_layers=[1, 2])
    assert model.block_shapes == [[96, 56, 56], [192, 28, 28], [384, 14, 14]]
    assert [sidenet.dense.in_features for sidenet in model.sidenets] == [96, 192]


def check(model_class, mainnet, batches, tmp_path, num_blocks, no_stages, **kwargs):
    """Exits off, routing, rows alone, stages, a saved copy and a step of training."""
    plain = copy.deepcopy(mainnet)
    model = model_class.from_mainnet(mainnet, exit_layers=[1], **kwargs)
    assert num_blocks in (None, len(model.layout.blocks))
    last = len(model.layout.blocks) - 1
    model.add_exits(sorted({(last + 1) // 2, last} - {1}))
    torch.manual_seed(0)
    spread_out(model, batches[0])
    for inputs in batches:
        with torch.no_grad():
            off = model(**inputs, thresholds=1.0)
            assert torch.equal(off.logits, plain(**inputs, **without_cache(model)).logits)
        scale = off.logits.abs().max().item()
        full = every_exit(model, inputs)
        torch.testing.assert_close(off.exit_logits, full, rtol=0, atol=1e-4 * scale)
        thresholds = middle(full)
        exit_index, logits, ties = choose(full, thresholds)
        with torch.no_grad():
            out = model(**inputs, thresholds=thresholds)
        assert len(set(out.exit_index.tolist())) > 1
        assert out.exit_index[~ties].tolist() == exit_index[~ties].tolist()
        torch.testing.assert_close(out.logits[~ties], logits[~ties], rtol=0, atol=1e-4 * scale)
    # Funnel projects relative positions once for all rows.
    assert abs(unsaved_flops(model, inputs, 1)) < 0.001
    model.save_pretrained(tmp_path)
    loaded = model_class.from_pretrained(tmp_path, attn_implementation="eager")
    assert loaded.layout == model.layout
    with torch.no_grad():
        torch.testing.assert_close(
            loaded(**inputs, thresholds=thresholds).logits, out.logits, rtol=0, atol=1e-5 * scale
        )
    if no_stages is None:
        torch.testing.assert_close(chained(Stages(model), inputs), full, rtol=0, atol=1e-4 * scale)
    else:
        with pytest.raises(StagesError, match=no_stages):
            Stages(model)
    model.train()
    model(**inputs, labels=torch.arange(len(out.logits)) % 3).loss.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.sidenets.parameters())
    assert all(p.grad is None for p in model.mainnet.parameters())


@pytest.mark.parametrize("model_type", TEXTS)
def test_text(model_type, tmp_path):
    fields, num_blocks, no_stages = TEXTS[model_type]
    mainnet = build(model_type, fields, AutoModelForSequenceClassification)
    # Another length than when it was observed, and as many rows as tokens.
    batches = [texts(12, 10), texts(8, 8, seed=1)]
    check(SideNetForSequenceClassification, mainnet, batches, tmp_path, num_blocks, no_stages)


@pytest.mark.parametrize("model_type", IMAGES)
def test_images(model_type, tmp_path):
    fields, num_blocks, no_stages = IMAGES[model_type]
    mainnet = build(model_type, fields, AutoModelForImageClassification)
    settle_batchnorms(mainnet, images(8, 64, seed=3))
    check(
        SideNetForImageClassification,
        mainnet,
        [images(8, 64)],
        tmp_path,
        num_blocks,
        no_stages,
        input_size=[3, 64, 64],
    )


@pytest.mark.parametrize("architecture", TIMM)
def test_timm(architecture, tmp_path):
    pytest.importorskip("timm", reason='needs pip install "hf_sidenet[vision]"')
    size, no_stages = TIMM[architecture]
    config = transformers.TimmWrapperConfig(architecture=architecture, num_labels=3)
    mainnet = transformers.TimmWrapperForImageClassification(config)
    enlivened(mainnet)
    settle_batchnorms(mainnet, images(6, size, seed=3))
    check(
        SideNetForImageClassification,
        mainnet,
        [images(6, size)],
        tmp_path,
        None,
        no_stages,
        input_size=[3, size, size],
    )
