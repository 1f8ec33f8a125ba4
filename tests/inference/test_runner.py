# SPDX-License-Identifier: Apache-2.0
"""`SideNetRunner.predict`: the model's own answers, in order, whatever comes in and however it is run."""

import copy
import re

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from transformers import (
    AutoTokenizer,
    ConvNextImageProcessor,
    Dinov2Config,
    Dinov2ForImageClassification,
    LayoutLMv3Config,
    LayoutLMv3ForSequenceClassification,
    LukeConfig,
    LukeForSequenceClassification,
)

from hf_sidenet import SideNetRunner
from hf_sidenet.inference import RowError
from hf_sidenet.inference.routings import ROUTINGS
from hf_sidenet.inference.runner import IMAGE_POOLS, _from_the_middle
from hf_sidenet.models import SideNetForImageClassification, SideNetForSequenceClassification
from tests.examples.commands import minilm
from tests.models import test_modeling_layoutlm
from tests.models.naive import spread_out
from tests.models.test_modeling_layoutlm import boxes
from tests.models.tiny import bert_with_sidenets, resnet_with_sidenet

from .flood import assert_answers, is_bad, one_by_one, token_rows


THETA = (0.6, 0.6)


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    model = bert_with_sidenets()
    model.config.thresholds = list(THETA)
    return model


@pytest.mark.parametrize("routing", ROUTINGS)
def test_every_routing_gives_the_answers_of_the_model(model, routing):
    raw = token_rows(150, 40, bad_every=13)
    runner = SideNetRunner(model, batch_size=4, routing=routing)
    predictions = list(runner.predict(raw))
    assert_answers(predictions, one_by_one(model, raw, THETA))
    assert [prediction.place for prediction in predictions] == list(range(150))
    for prediction in predictions:
        assert prediction.label == (None if prediction.error else f"LABEL_{prediction.label_id}")


@pytest.mark.medium
@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_any_stream_any_sizes(model, data):
    count = data.draw(st.integers(0, 40), label="rows")
    raw = token_rows(count, data.draw(st.integers(1, 20), label="longest"), bad_every=data.draw(st.integers(0, 9)))
    batch_size, pool_size = data.draw(st.integers(1, 50), label="batch"), data.draw(st.integers(1, 50), label="pool")
    theta = data.draw(st.sampled_from([(0.6, 0.6), (0.0, 1.0), (1.0, 0.5), (1.0, 1.0)]), label="theta")
    runner = SideNetRunner(model, batch_size=batch_size, pool_size=pool_size, thresholds=list(theta), routing="pooled")
    predictions = list(runner.predict(iter(raw)))
    expected = one_by_one(model, raw, theta)
    if any(answer is not None for answer in expected):
        assert_answers(predictions, expected)
    else:
        assert all(prediction.error for prediction in predictions)
        assert len(predictions) == count


def test_thresholds_of_a_call_and_of_each_row(model):
    raw = token_rows(9, 8)
    runner = SideNetRunner(model, batch_size=4)
    assert {p.exit_index for p in runner.predict(raw, thresholds=0.0)} == {0}
    assert {p.exit_index for p in runner.predict(raw, thresholds=[1.0, 0.0])} == {1}
    per_row = torch.tensor([[0.0, 0.0], [1.0, 0.0], [1.0, 1.0]]).repeat(3, 1)
    assert [p.exit_index for p in runner.predict(raw, thresholds=per_row)] == [0, 1, 2] * 3
    with pytest.raises(ValueError, match=r"`thresholds` must have one row per input row, 9, got 3"):
        runner.predict(raw, thresholds=per_row[:3])
    with pytest.raises(ValueError, match=r"`thresholds` must have one row per input row, got 3 for 9"):
        list(runner.predict(iter(raw), thresholds=per_row[:3]))
    with pytest.raises(ValueError, match=r"one value per SideNet \(2\), got 3"):
        runner.predict(raw, thresholds=[0.1, 0.2, 0.3])


def test_the_answers_do_not_carry_inference_mode_to_the_caller(model):
    for _ in SideNetRunner(model, batch_size=2).predict(token_rows(5, 5)):
        assert not torch.is_inference_mode_enabled()


def test_rows_are_read_as_they_are_needed(model):
    read = 0

    def source():
        nonlocal read
        for row in token_rows(2000, 3):
            read += 1
            yield row

    runner = SideNetRunner(model, batch_size=2, routing="pooled")
    stream = runner.predict(source())
    next(stream)
    assert read <= 64
    furthest = 0
    for answered, _ in enumerate(stream, start=2):
        furthest = max(furthest, read - answered)
    # Two windows of 32 batches: what waits does not grow with the stream.
    assert furthest <= 2 * 64


def test_bad_rows_say_what_is_wrong_and_the_count_is_logged(model, caplog):
    raw = token_rows(24, 5, bad_every=2)
    with caplog.at_level("WARNING"):
        predictions = list(SideNetRunner(model, batch_size=4).predict(raw))
    assert "12 of 24 rows have no answer" in caplog.text
    messages = [str(prediction.error) for prediction in predictions if prediction.error]
    assert len(messages) == 12
    for text in (
        "row 1: a text must have 1 to 512 tokens, got 0.",
        "row 3: `input_ids` must be in [0, 99), got 5 to 999999.",
        "row 7: `input_ids` must be integers of shape (tokens,), got torch.float32 of shape (2,).",
        "row 11: a text must have 1 to 512 tokens, got 576.",
        "row 13: `attention_mask` must have 2 entries like `input_ids`, got 1.",
        "row 17: one of `input_ids` and `inputs_embeds` must be given, got ['attention_mask'].",
        "row 21: a row must be a dict of model inputs if the runner has no `processor`, got a str.",
    ):
        assert text in messages


def test_raise_ends_at_the_first_bad_row_after_those_before_it(model):
    raw = token_rows(9, 5, bad_every=5)
    assert is_bad(raw[4])
    stream = SideNetRunner(model, batch_size=4).predict(raw, on_error="raise")
    assert [next(stream).place for _ in range(4)] == [0, 1, 2, 3]
    with pytest.raises(RowError, match="row 4"):
        next(stream)


def test_measuring_names_every_way_and_takes_the_fastest(model):
    runner = SideNetRunner(model, batch_size=8)
    assert runner.chosen == "pooled"
    times = runner.measure(token_rows(20, 9), repeats=1)
    assert set(times) == {"pooled", "per_batch", "gates", "all_blocks"}
    assert all(time > 0 for time in times.values())
    assert runner.chosen == min(times, key=times.get)
    with pytest.raises(ValueError, match="`rows` must contain a row that can be answered, got none"):
        runner.measure([{}])
    assert SideNetRunner(model, thresholds=1.0).chosen == "all_blocks"


def test_no_turns_where_no_row_can_exit(model):
    runner = SideNetRunner(model, batch_size=2)
    list(runner.predict(token_rows(200, 5), thresholds=1.0))
    assert runner.times == {}
    list(runner.predict(token_rows(200, 5)))
    assert len(runner.times) == 4


def test_rows_of_medium_length_come_first():
    assert _from_the_middle(list(range(10)), 2) == [2, 3, 4, 5, 6, 7, 8, 9, 1, 0]
    assert _from_the_middle(list(range(10)), 3) == [1, 2, 3, 4, 5, 6, 7, 8, 9, 0]
    for count, batch_size in ((0, 4), (3, 4), (64, 64)):
        assert _from_the_middle(list(range(count)), batch_size) == list(range(count))
    assert sorted(_from_the_middle(list(range(101)), 7)) == list(range(101))


def test_raw_texts_and_pairs():
    tokenizer = AutoTokenizer.from_pretrained(minilm())
    torch.manual_seed(0)
    model = bert_with_sidenets()
    model.mainnet.resize_token_embeddings(len(tokenizer))
    texts = ["a film", "a very long and very dull film about films", ("a pair", "of texts"), "", 7, "word " * 600]
    runner = SideNetRunner(model, tokenizer, batch_size=2, thresholds=list(THETA), max_length=64)
    predictions = list(runner.predict(texts))
    assert "row 4: a row must be a text, a pair of texts or a dict of model inputs, got one of type int." in str(
        predictions[4].error
    )
    for text, prediction in zip(texts, predictions, strict=True):
        if text == 7:
            continue
        pair = text if isinstance(text, tuple) else (text,)
        inputs = tokenizer(*pair, truncation=True, max_length=64, return_tensors="pt")
        with torch.no_grad():
            output = model(**inputs, thresholds=list(THETA))
        assert prediction.exit_index == output.exit_index.item()
        torch.testing.assert_close(prediction.logits, output.logits[0], rtol=0, atol=1e-5)


def test_raw_images():
    torch.manual_seed(0)
    model = resnet_with_sidenet()
    processor = ConvNextImageProcessor(size={"shortest_edge": 32}, crop_pct=1.0)
    pictures = [Image.effect_noise((32, 32), 50 + i).convert("RGB") for i in range(5)] + ["no picture"]
    predictions = list(SideNetRunner(model, processor, batch_size=2, thresholds=0.5).predict(pictures))
    assert predictions[5].error is not None
    for picture, prediction in zip(pictures[:5], predictions, strict=False):
        with torch.no_grad():
            output = model(**processor(picture, return_tensors="pt"), thresholds=0.5)
        assert prediction.exit_index == output.exit_index.item()
        torch.testing.assert_close(prediction.logits, output.logits[0], rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("odd", [0, 40])
@pytest.mark.parametrize(("batch_size", "pool_size"), [(1, 4), (2, 8), (8, 8)])
def test_images_wait_for_a_full_batch_and_are_read_as_they_are_needed(batch_size, pool_size, odd):
    torch.manual_seed(0)
    model, read, sizes = resnet_with_sidenet(), 0, []

    def source():
        nonlocal read
        for i in range(200):
            read += 1
            size = 48 if odd and i % odd == 0 else 32
            yield {"pixel_values": torch.randn(3, size, size)}

    runner = SideNetRunner(model, batch_size=batch_size, pool_size=pool_size, thresholds=0.999, routing="pooled")
    runner.stages.modules[1].register_forward_pre_hook(lambda _, args: sizes.append(len(args[0])))
    furthest = 0
    for answered, _ in enumerate(runner.predict(source()), start=1):
        furthest = max(furthest, read - answered)
    # Those of another size are too few for a full batch.
    assert furthest <= IMAGE_POOLS * pool_size + batch_size
    if not odd:
        assert all(size >= pool_size for size in sizes[:-1])


def test_another_precision_runs_on_a_copy(model):
    runner = SideNetRunner(model, batch_size=4, dtype=torch.bfloat16, routing="pooled")
    raw = token_rows(20, 9)
    predictions = list(runner.predict(raw))
    assert model.dtype == torch.float32
    assert runner.stages.dtype == torch.bfloat16
    expected = one_by_one(copy.deepcopy(model).to(torch.bfloat16), raw, THETA)
    same = [p for p, e in zip(predictions, expected, strict=True) if p.exit_index == e[0]]
    assert len(same) >= 15
    scale = max(logits.abs().max() for _, logits in expected)
    for prediction in same:
        assert (prediction.logits - expected[prediction.place][1]).abs().max() <= 2e-2 * scale


def test_bad_arguments(model):
    for arguments, message in (
        ({"batch_size": 0}, "`batch_size` must be an integer ≥ 1, got 0"),
        ({"pool_size": 1.5}, "`pool_size` must be an integer ≥ 1, got 1.5"),
        ({"max_wait_ms": -1}, "`max_wait_ms` must be ≥ 0 and finite, got -1"),
        ({"routing": "fast"}, "`routing` must be one of .*, got 'fast'"),
        ({"routing": "gates", "compile": True}, "`routing='gates'` needs a torch model that is not compiled"),
        ({"thresholds": -1.0}, "`thresholds` must contain numbers that are ≥ 0 and not NaN"),
    ):
        with pytest.raises(ValueError, match=message):
            SideNetRunner(model, **arguments)
    with pytest.raises(ValueError, match="`on_error` must be 'return' or 'raise', got 'skip'"):
        SideNetRunner(model).predict([], on_error="skip")
    with pytest.raises(ValueError, match="`model` must be in evaluation mode"):
        SideNetRunner(bert_with_sidenets().train())


# --- inputs of the MainNet's own


def page_rows(count, longest=30):
    """Rows with LayoutLM's boxes."""
    rows = token_rows(count, longest)
    for seed, row in enumerate(rows):
        mask = torch.ones(1, len(row["input_ids"]), dtype=torch.long)
        row["bbox"] = boxes(mask, seed)[0].tolist()
    return rows


@pytest.fixture(scope="module")
def layoutlm():
    model = test_modeling_layoutlm.TestLayoutLM().model()
    rows = page_rows(60)
    with torch.no_grad():
        full = [model(**{k: torch.tensor([v]) for k, v in row.items()}, thresholds=1.0).exit_logits[0] for row in rows]
    confidences = torch.stack(full)[:, :-1].softmax(-1).amax(-1)
    return model, rows, confidences.quantile(0.55, dim=0).tolist()


@pytest.mark.parametrize("routing", ROUTINGS)
def test_rows_with_boxes_get_the_answers_of_the_model(layoutlm, routing):
    model, rows, theta = layoutlm
    expected = []
    with torch.no_grad():
        for row in rows:
            output = model(**{k: torch.tensor([v]) for k, v in row.items()}, thresholds=theta)
            expected.append((output.exit_index.item(), output.logits[0]))
    assert {index for index, _ in expected} == {0, 1, 2}
    runner = SideNetRunner(model, batch_size=4, pool_size=4, thresholds=theta, routing=routing)
    assert_answers(list(runner.predict(rows)), expected)
    # The boxes count, in every row but those of a single token at most.
    plain = list(runner.predict([{"input_ids": row["input_ids"]} for row in rows]))
    assert sum((a.logits - b[1]).abs().max() > 1e-3 for a, b in zip(plain, expected, strict=True)) > 50


def test_boxes_that_do_not_fit(layoutlm):
    model, _, _ = layoutlm
    ids = [5, 6, 7]
    wrong = {
        r"row 0: `bbox` must have 3 entries like `input_ids`, got 1\.": [[0, 0, 1, 1]],
        r"row 0: `bbox` must be in \[0, 50\), got 0 to 50\.": [[0, 0, 1, 50]] * 3,
        r"row 0: `bbox` must have boxes \(left, top, right, bottom\)": [[2, 0, 1, 1]] * 3,
        r"row 0: `bbox` must be integers, got torch.float32 of shape \(3, 4\)": [[0.5, 0, 1, 1]] * 3,
        r"row 0: `bbox` must be numbers, as many in each part": [[0, 0], [0, 0, 1, 1], [0]],
        r"row 0: `bbox` must be numbers": "boxes",
    }
    runner = SideNetRunner(model, routing="pooled", thresholds=1.0)
    for message, value in wrong.items():
        (prediction,) = runner.predict([{"input_ids": ids, "bbox": value}])
        assert re.match(message, str(prediction.error)), str(prediction.error)
    (prediction,) = runner.predict([{"input_ids": ids, "entity_ids": [1]}])
    assert "got 'entity_ids'" in str(prediction.error)


def test_entities_would_get_lost_between_stages():
    """LUKE's become hidden states beside x_c, which no stage passes on: refused, never left out."""
    config = LukeConfig(
        vocab_size=99, hidden_size=32, num_hidden_layers=3, num_attention_heads=2, intermediate_size=37,
        entity_vocab_size=20, entity_emb_size=8, num_labels=3,
    )  # fmt: skip
    mainnet = LukeForSequenceClassification(config)
    model = SideNetForSequenceClassification.from_mainnet(mainnet, exit_layers=[1])
    row = {"input_ids": [5, 6, 7], "entity_ids": [3], "entity_position_ids": [[0, 1]]}
    words, entities = SideNetRunner(model, routing="pooled", thresholds=1.0).predict([{"input_ids": [5, 6, 7]}, row])
    assert words.error is None
    assert "got 'entity_ids'" in str(entities.error)


@pytest.mark.parametrize("routing", ["pooled", "gates", "all_blocks"])
def test_images_with_a_mask_keep_their_own(routing):
    """A later stage needs the masks of all rows, and the pixels of all with them."""
    config = Dinov2Config(
        hidden_size=32, num_hidden_layers=3, num_attention_heads=2, image_size=32, patch_size=8, num_labels=3
    )
    mainnet = Dinov2ForImageClassification(config).eval()
    model = SideNetForImageClassification.from_mainnet(mainnet, exit_layers=[1], pooling="mean")
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randn(9, 3, 32, 32, generator=generator)
    masks = torch.randint(2, (9, 17), generator=generator)
    masks[:, 0] = 1
    spread_out(model, {"pixel_values": pixels, "attention_mask": masks})
    with torch.no_grad():
        full = model(pixel_values=pixels, attention_mask=masks, thresholds=1.0).exit_logits
        theta = full[:, 0].softmax(-1).amax(-1).median().item()
        output = model(pixel_values=pixels, attention_mask=masks, thresholds=theta)
        unmasked = model(pixel_values=pixels, thresholds=1.0).logits
    assert (unmasked - full[:, 1]).abs().amax(1).min() > 1e-4
    rows = [{"pixel_values": image, "attention_mask": mask} for image, mask in zip(pixels, masks, strict=True)]
    runner = SideNetRunner(model, batch_size=3, pool_size=2, thresholds=theta, routing=routing)
    assert_answers(list(runner.predict(rows)), list(zip(output.exit_index.tolist(), output.logits, strict=True)))


def test_pictures_that_add_vectors_to_x_c():
    """LayoutLMv3 appends the patches to the words, which trimming would take for padding."""
    config = LayoutLMv3Config(
        vocab_size=99, hidden_size=32, num_hidden_layers=3, num_attention_heads=2, intermediate_size=37, num_labels=3,
        input_size=32, patch_size=16, coordinate_size=5, shape_size=6, max_2d_position_embeddings=50,
    )  # fmt: skip
    mainnet = LayoutLMv3ForSequenceClassification(config).eval()
    model = SideNetForSequenceClassification.from_mainnet(mainnet, exit_layers=[1], pooling="cls")
    rows = [{**row, "pixel_values": torch.randn(3, 32, 32)} for row in page_rows(5)]
    for prediction in SideNetRunner(model, routing="pooled", thresholds=1.0).predict(rows):
        assert re.search("one vector per token, .*leave out `pixel_values`.*routing='gates'", str(prediction.error))
    for prediction, row in zip(SideNetRunner(model, routing="gates", thresholds=1.0).predict(rows), rows, strict=True):
        alone = mainnet(**{name: torch.as_tensor(value).unsqueeze(0) for name, value in row.items()}).logits[0]
        torch.testing.assert_close(prediction.logits, alone, rtol=0, atol=1e-5)
