# SPDX-License-Identifier: Apache-2.0
import copy

import pytest

from hf_sidenet.report import checkpoint_card

from ..attached import Runs


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    return Runs(tmp_path_factory.mktemp("runs"))


def card(result, **kwargs):
    return checkpoint_card("mine", result.model.config, result.report, **{"evaluation": result.evaluation, **kwargs})


def metrics(made):
    return {result.metric_name: result.metric_value for result in made.data.eval_results}


def section(made, title):
    return made.text.partition(f"## {title}\n\n")[2].partition("\n\n## ")[0]


def costs(point):
    return {
        "FLOPs per row, fraction of the MainNet's": point["flops"],
        "parameters per row, fraction of the MainNet's": point["params"],
        "milliseconds per row, fraction of the MainNet's": point["milliseconds"],
    }


@pytest.mark.medium
def test_results_of_test_rows(runs):
    result = runs.text()
    made = card(result)
    routed = result.evaluation.routed
    theta = "/".join(f"{x:.10g}" for x in result.model.config.thresholds)
    assert metrics(made) == pytest.approx(
        {
            f"accuracy, θ = {theta}": routed.accuracy.value,
            "accuracy, MainNet alone": result.evaluation.reference_accuracy.value,
            **costs({name: getattr(routed, name).value for name in ("flops", "params", "milliseconds")}),
        }
    )
    assert {(one.dataset_name, one.dataset_split) for one in made.data.eval_results} == {("80 test rows", "test")}
    assert result.evaluation.text() in section(made, "Results")


@pytest.mark.medium
def test_results_without_test_rows_are_those_of_the_certification_rows(runs):
    result = runs.joint()
    made, evidence = card(result), result.model.config.calibration
    found = metrics(made)
    drop = evidence["targets"][0]["estimate"]
    accuracy = evidence["certification"]["accuracy"]
    assert found.pop("accuracy, MainNet before joint fine-tuning") == pytest.approx(accuracy + drop)
    assert found.pop(next(name for name in found if name.startswith("accuracy, θ"))) == accuracy
    assert found == pytest.approx(costs(evidence["certification"]))
    assert {one.dataset_split for one in made.data.eval_results} == {"certification"}
    text = section(made, "Results")
    assert "There were no test rows." in text
    assert "so they are optimistic" in text
    assert "Recall per class, with 95 % intervals (Wilson)." in text
    recalls = result.report["certification"]["recalls"]
    assert [line.split(" | ")[1] for line in text.splitlines() if line.startswith(("| bad |", "| good |"))] == [
        str(each["num_rows"]) for each in recalls
    ]


@pytest.mark.medium
def test_after_joint_training(runs):
    made = card(runs.joint())
    assert "The MainNet was fine-tuned together with the SideNets." in made.text
    assert "before it was fine-tuned together with the SideNets, is right)" in section(made, "Guarantee")
    assert "`flops<=0.95`: kept on the certification rows, but not guaranteed." in made.text
    assert "- joint: num_epochs 1, " in section(made, "How it was made")


@pytest.mark.medium
def test_a_budget(runs):
    made = card(runs.budget())
    assert "Nothing is guaranteed for this checkpoint" in section(made, "No guarantee")
    assert "With probability" not in made.text


def test_the_mainnet_alone_on_certification_rows_of_a_budget(runs):
    result = runs.budget()
    found = metrics(card(result, evaluation=None))
    assert found["accuracy, MainNet alone"] == result.report["path"][0]["accuracy"]


@pytest.mark.medium
def test_rows_without_labels_have_no_accuracy(runs):
    result = runs.text()
    data = {name: part | {"has_labels": False} if isinstance(part, dict) else part
            for name, part in result.report["data"].items()}  # fmt: skip
    for evaluation in (result.evaluation, None):
        made = checkpoint_card(
            "mine", result.model.config, {**result.report, "data": data},
            evaluation=evaluation,
        )  # fmt: skip
        assert not any("accuracy" in name for name in metrics(made))
        assert "These rows have no labels." in section(made, "Results")


def test_the_base_model_is_an_id_on_the_hub_only(runs):
    result = runs.text()
    assert card(result).data.base_model is None
    named = {**result.report, "mainnet": {**result.report["mainnet"], "name": "me/mainnet"}}
    made = checkpoint_card("mine", result.model.config, named)
    assert made.data.base_model == "me/mainnet"
    assert "[me/mainnet](https://huggingface.co/me/mainnet)" in made.text


def test_the_sidenets(runs):
    config = runs.text().model.config
    lines = card(runs.text()).text.splitlines()
    start = lines.index("| exit | after block | pooling | θ | temperature |") + 2
    assert config.exit_layers
    for i, layer in enumerate(config.exit_layers):
        theta, temperature = config.thresholds[i], config.temperatures[i]
        # The tiny BERT has four.
        place = f"{layer} of 4" if layer else "input"
        expected = f"| SideNet {i} | {place} | {config.pooling[i]} | {theta:.10g} | {temperature:.4g} |"
        assert lines[start + i] == expected


def test_exits_that_build_on_earlier_ones(runs):
    result = runs.text()
    config = copy.deepcopy(result.model.config)
    # Not assigned: that would drop the evidence.
    vars(config).update(
        exit_layers=[1, 2], pooling=["mean"] * 2, thresholds=[0.5] * 2, temperatures=[1.0] * 3, chain=None
    )
    for chain, builds, ensemble in (
        (None, False, False),
        ([[0.5], [0.0, 0.0]], True, False),
        ([[0.0], [0.0, 0.5]], False, True),
    ):
        vars(config)["chain"] = chain
        text = checkpoint_card("mine", config, result.report).text
        assert ("A SideNet adds the logits of earlier ones" in text) == builds
        assert ("its answers are those of an ensemble" in text) == ensemble


def test_how_it_was_made(runs):
    report, text = runs.text().report, section(card(runs.text()), "How it was made")
    assert (
        "- rows: 240 train, 240 validation, 80 test; of the validation rows, 60 are design rows and 180 certification "
        "rows" in text
    )
    assert '- target: `["accuracy_drop<=0.05"]`' in text
    assert "- heads: hidden_size 32, max_epochs 2, " in text
    assert f"torch {report['versions']['torch']}" in text
    measured = section(card(runs.text()), "Costs")
    assert report["hardware"] in measured
    assert f"| plain MainNet | {report['costs']['mainnet_params']:,} |" in measured


def test_without_a_processor(runs):
    text = section(card(runs.text(), has_processor=False), "Use")
    assert "No tokenizer or image processor is saved with it" in text
    assert "AutoTokenizer" not in text
