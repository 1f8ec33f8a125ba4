# SPDX-License-Identifier: Apache-2.0
"""Every method of a checkpoint gives the expected answers."""

import json
from dataclasses import asdict

import pytest
import torch

from hf_sidenet.attaching.checkpoint import load_checkpoint
from hf_sidenet.benchmark import run_benchmark
from hf_sidenet.benchmark.catalog import Catalog, Settings, method_named
from hf_sidenet.benchmark.methods import (
    COMPILED,
    EAGER,
    OURS,
    OWN_FORWARD,
    PER_BATCH,
    PLAIN,
    PLAIN_MAINNET,
    RIVAL,
    RUNNER,
    SIDENET_ALONE,
    WHOLE_BATCH,
    twin_of,
)
from hf_sidenet.inference.rows import Row
from tests.inference.flood import text_row
from tests.models.tiny import images


NUM_ROWS = 24
MINE = {OWN_FORWARD, PER_BATCH, RUNNER}


def text_rows():
    generator = torch.Generator().manual_seed(3)
    lengths = torch.randint(3, 20, (NUM_ROWS,), generator=generator).tolist()
    rows = [text_row(place, length) for place, length in enumerate(lengths)]
    for row in rows:
        row.inputs["input_ids"] = torch.randint(1000, 9000, (row.length,), generator=generator)
    return rows


def image_rows():
    return [Row(place, {"pixel_values": image}, 0, ()) for place, image in enumerate(images(NUM_ROWS)["pixel_values"])]


def answers_of(method, rows, batch_size=8):
    """Class and exit of each row, by the method's own engine."""
    rows = method.rows(rows)
    batches = [rows[i : i + batch_size] for i in range(0, len(rows), batch_size)]
    answerer = method.make(batch_size, batches)
    with torch.inference_mode():
        done = [each for batch in batches for each in answerer.put(batch)]
        done += answerer.flush()
    assert not [each.error for each in done if each.error]
    done = sorted(done, key=lambda each: each.place)
    return [each.label_id for each in done], [each.exit_index for each in done]


def own_answers(model, rows, thresholds):
    """Row by row, by the model's own forward."""
    outputs = []
    with torch.no_grad():
        for row in rows:
            inputs = {name: value.unsqueeze(0) for name, value in row.inputs.items()}
            outputs.append(model(**inputs, thresholds=thresholds))
    return [int(out.logits.argmax()) for out in outputs], [int(out.exit_index) for out in outputs]


def stop_of(model, rows):
    """The first exit at which each of these rows is confident enough, by itself."""
    config = model.config
    with torch.no_grad():
        every = [
            model(**{name: value.unsqueeze(0) for name, value in row.inputs.items()}, thresholds=1.0).exit_logits[0]
            for row in rows
        ]
    for k, threshold in enumerate(config.thresholds):
        if all((logits[k] / config.temperatures[k]).softmax(-1).max() > threshold for logits in every):
            return k
    return len(config.thresholds)


def test_what_a_text_checkpoint_is_compared_by(text_checkpoint):
    settings = Settings(text_checkpoint, precisions=("float32", "bfloat16"), engines=(EAGER, COMPILED))
    methods = Catalog(settings).methods()
    found = [(each.kind, each.precision, each.engine, each.bucketed) for each in methods]
    assert len(set(found)) == len(found)
    for precision in ("float32", "bfloat16"):
        for engine in (EAGER, COMPILED):
            here = {(kind, bucketed) for kind, p, e, bucketed in found if (p, e) == (precision, engine)}
            expected = {(PLAIN_MAINNET, False), (PLAIN_MAINNET, True), (PER_BATCH, True), (RUNNER, True)}
            if engine == EAGER:
                expected |= {(WHOLE_BATCH, False), (WHOLE_BATCH, True), (SIDENET_ALONE, True), (PER_BATCH, False)}
                expected |= {(OWN_FORWARD, True)}
            assert here == expected
    assert [each.group for each in methods] == sorted((each.group for each in methods), key=[PLAIN, RIVAL, OURS].index)
    # Each of our methods and each rival has a twin.
    assert all(twin_of(each, methods) is not None for each in methods if each.group != PLAIN)


def test_images_have_no_lengths(image_checkpoint):
    methods = Catalog(Settings(image_checkpoint)).methods()
    assert not [each for each in methods if each.bucketed]
    assert {each.kind for each in methods} == {PLAIN_MAINNET, WHOLE_BATCH, SIDENET_ALONE, *MINE}


@pytest.mark.parametrize("kind", ["text", "image"])
def test_every_method_gives_the_answers_it_has_to(kind, request):
    directory = request.getfixturevalue(f"{kind}_checkpoint")
    rows = text_rows() if kind == "text" else image_rows()
    model, _ = load_checkpoint(directory)
    num_sidenets = len(model.sidenets)
    routed = own_answers(model, rows, model.config.thresholds)
    assert len(set(routed[1])) == num_sidenets + 1
    plain, _ = own_answers(model, rows, 1.0)
    first, _ = own_answers(model, rows, 0.0)
    for method in Catalog(Settings(directory)).methods():
        labels, exits = answers_of(method, rows)
        if method.group == OURS:
            assert (labels, exits) == routed, method.name
            due = method.expected(rows)
            assert (due[0].tolist(), due[1].tolist()) == routed
        elif method.kind == PLAIN_MAINNET:
            assert labels == plain
            assert method.expected(rows)[0].tolist() == plain
        elif method.kind == SIDENET_ALONE:
            assert (labels, exits) == (first, [0] * NUM_ROWS)
        else:
            assert method.kind == WHOLE_BATCH
            assert exits == [stop for i in range(0, NUM_ROWS, 8) for stop in [stop_of(model, rows[i : i + 8])] * 8]


def test_only_the_runner_lets_rows_wait(text_checkpoint):
    rows = text_rows()
    for method in Catalog(Settings(text_checkpoint)).methods():
        if method.kind == RUNNER:
            continue
        answerer = method.make(8, [])
        with torch.inference_mode():
            assert len(answerer.put(method.rows(rows[:8]))) == 8


@pytest.mark.slow
def test_compiled(text_checkpoint):
    rows = text_rows()
    model, _ = load_checkpoint(text_checkpoint)
    plain, routed = own_answers(model, rows, 1.0)[0], own_answers(model, rows, model.config.thresholds)
    methods = Catalog(Settings(text_checkpoint, engines=(COMPILED,))).methods()
    for method in methods:
        labels, exits = answers_of(method, rows)
        assert (labels, exits) == (routed if method.group == OURS else (plain, [0] * NUM_ROWS))
    # One graph for both orders.
    assert methods[0].make(8, []).stages is methods[1].make(8, []).stages


@pytest.mark.parametrize("kind", ["text", "image"])
def test_bfloat16_is_the_checkpoint_loaded_in_it(kind, request):
    directory = request.getfixturevalue(f"{kind}_checkpoint")
    rows = text_rows() if kind == "text" else image_rows()
    methods = Catalog(Settings(directory, precisions=("bfloat16",))).methods()
    assert {each.precision for each in methods} == {"bfloat16"}
    model, _ = load_checkpoint(directory, dtype=torch.bfloat16)
    method = next(each for each in methods if each.kind == OWN_FORWARD)
    labels, exits = own_answers(model, method.rows(rows), model.config.thresholds)
    found = answers_of(method, rows)
    # In another batch, rounding may move a row across θ.
    assert sum(a != b for a, b in zip(found[1], exits, strict=True)) <= 2
    assert sum(a != b for a, b in zip(found[0], labels, strict=True)) <= 2


def test_theta_by_hand(text_checkpoint):
    methods = Catalog(Settings(text_checkpoint, thresholds=(0.0, 1.0))).methods()
    mine = next(each for each in methods if each.kind == PER_BATCH)
    assert answers_of(mine, text_rows())[1] == [0] * NUM_ROWS
    assert mine.note == "θ given by hand"
    with pytest.raises(ValueError, match="`thresholds` must have one value per SideNet"):
        Catalog(Settings(text_checkpoint, thresholds=(0.5,)))


def calibrated(directory, folder, precision, **kwargs):
    """The checkpoint with evidence behind θ, stored in a precision."""
    model, processor = load_checkpoint(directory, dtype=getattr(torch, precision))
    model.config.thresholds = [0.6, 0.7]
    model.config.calibration = {"precision": precision}
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return str(folder)


def test_a_checkpoint_for_another_precision_takes_the_place(text_checkpoint, tmp_path):
    base = calibrated(text_checkpoint, tmp_path / "base", "float32")
    also = calibrated(text_checkpoint, tmp_path / "also", "bfloat16")
    noted = {each.note for each in Catalog(Settings(base, precisions=("bfloat16",))).methods() if each.group == OURS}
    assert noted == {"θ certified in float32"}
    catalog = Catalog(Settings(base, also=(also,)))
    methods = [each for each in catalog.methods() if each.group == OURS]
    assert {each.precision for each in methods} == {"float32", "bfloat16"}
    assert {each.note for each in methods} == {""}
    assert catalog.variants[1].checkpoint.directory == also
    assert catalog.variants[1].thresholds == (0.6, 0.7)
    assert {each.note for each in Catalog(Settings(text_checkpoint)).methods() if each.group == OURS} == {
        "θ without evidence"
    }


def test_what_cannot_be_compared_is_refused(text_checkpoint, tmp_path):
    model, processor = load_checkpoint(text_checkpoint)
    model.add_exits([2])
    model.save_pretrained(tmp_path / "three")
    processor.save_pretrained(tmp_path / "three")
    with pytest.raises(
        ValueError, match=r"`also` must have SideNets at \[1, 3\], like the checkpoint, got .* \[1, 2, 3\]"
    ):
        Catalog(Settings(text_checkpoint, also=(str(tmp_path / "three"),)))


def test_another_process_makes_the_same_method(text_checkpoint):
    method = Catalog(Settings(text_checkpoint)).methods()[-1]
    function, arguments = method.recipe
    assert function == "hf_sidenet.benchmark.catalog:method_named"
    again = method_named(**json.loads(json.dumps(arguments)))
    assert (again.name, again.thresholds) == (method.name, method.thresholds)
    assert arguments["settings"] == asdict(Settings(text_checkpoint))
    assert answers_of(again, text_rows()) == answers_of(method, text_rows())


@pytest.mark.medium
def test_a_whole_run(text_checkpoint):
    """Every method is timed: the answers are right, and each of ours has an ideal and a twin."""
    rows = text_rows()
    catalog = Catalog(Settings(text_checkpoint))
    model, _ = load_checkpoint(text_checkpoint)
    labels, _ = own_answers(model, rows, 1.0)
    routed, exits = own_answers(model, rows, model.config.thresholds)
    shares = [exits.count(k) / NUM_ROWS for k in range(3)]
    accuracy = sum(a == b for a, b in zip(routed, labels, strict=True)) / NUM_ROWS
    found = run_benchmark(catalog.methods(), rows, labels, batch_sizes=(1, 8), repeats=2, progress=False)
    for size in found.sizes:
        assert size.num_rows == NUM_ROWS
        for each in size.methods:
            if each.group == PLAIN:
                assert each.accuracy == 1.0
            if each.group == OURS:
                assert (each.accuracy, each.shares) == (accuracy, shares)
                assert (each.other_labels, each.other_exits) == (0, 0)
                assert each.efficiency > 0
                assert each.ratio > 0
                assert each.best_ratio > 0
        # One chain, in two orders.
        assert [(stage.bucketed, len(stage.milliseconds)) for stage in size.stages] == [(True, 3), (False, 3)]
        assert all(stage.sum_ratio > 0 for stage in size.stages)
    document = json.loads(json.dumps(found.to_dict()))
    assert document["settings"]["batch_sizes"] == [1, 8]
    # Each of them is another classifier.
    assert RIVAL in {each.group for each in found.sizes[0].methods}
