# SPDX-License-Identifier: Apache-2.0
import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoConfig, BertConfig, ResNetConfig

from hf_sidenet.models import SideNetConfig


BERT = BertConfig(num_hidden_layers=6, hidden_size=32, num_labels=3)


def test_defaults_have_one_value_per_sidenet_and_exit():
    config = SideNetConfig(BERT, exit_layers=[2, 4])
    assert config.thresholds == [1.0, 1.0]
    assert config.temperatures == [1.0, 1.0, 1.0]
    assert config.alpha == [1.0, 1.0]
    assert config.pooling == ["auto", "auto"]
    assert config.freeze_mainnet == "all"
    assert config.num_exits == 3
    assert config.num_labels == 3
    assert config.architectures == ["BertWithSideNetForSequenceClassification"]
    assert SideNetConfig(ResNetConfig()).architectures == ["ResNetWithSideNetForImageClassification"]


def test_the_mainnets_config_is_copied():
    config = SideNetConfig(BERT, num_labels=3, id2label={0: "a", 1: "b", 2: "c"})
    assert config.mainnet_config.id2label == {0: "a", 1: "b", 2: "c"}
    assert BERT.id2label[0] == "LABEL_0"


def test_the_attention_implementation_survives():
    # transformers hands `None` down to sub-configs; a MainNet without one loses its padding mask.
    mainnet = BertConfig(attn_implementation="sdpa")
    assert SideNetConfig(mainnet).mainnet_config._attn_implementation == "sdpa"
    assert mainnet._attn_implementation == "sdpa"


def test_round_trip(tmp_path):
    evidence = {"target": "accuracy_drop<=0.01", "n": 1613}
    config = SideNetConfig(
        BERT, exit_layers=[1, 3], thresholds=[0.8, 0.9], temperatures=[1, 2, 3], pooling=["cls", "mean"],
        alpha=0.5, freeze_mainnet="none", distillation_weight=0.5, distillation_temperature=2, calibration=evidence,
        chain=[[0.5], [0, 1.5]],
    )  # fmt: skip
    config.save_pretrained(tmp_path)
    for loaded in (SideNetConfig.from_pretrained(tmp_path), AutoConfig.from_pretrained(tmp_path)):
        assert type(loaded) is SideNetConfig
        left, right = loaded.to_dict(), config.to_dict()
        left.pop("_name_or_path"), right.pop("_name_or_path")
        assert left == right


@given(
    layers=st.lists(st.integers(1, 11), min_size=1, max_size=4, unique=True).map(sorted),
    theta=st.floats(0, 2),
    hidden=st.integers(1, 64),
)
def test_round_trip_of_any_possible_value(layers, theta, hidden):
    config = SideNetConfig(BERT, exit_layers=layers, thresholds=theta, sidenet_hidden_size=hidden)
    again = SideNetConfig.from_dict(config.to_dict())
    assert again.thresholds == [theta] * len(layers)
    assert again.to_dict() == config.to_dict()


def test_overrides_at_loading(tmp_path):
    SideNetConfig(BERT, exit_layers=[1, 3]).save_pretrained(tmp_path)
    config, unused = SideNetConfig.from_pretrained(tmp_path, thresholds=0.5, foo=1, return_unused_kwargs=True)
    assert config.thresholds == [0.5, 0.5]
    assert unused == {"foo": 1}
    config = SideNetConfig.from_pretrained(tmp_path, num_labels=7)
    assert config.num_labels == config.mainnet_config.num_labels == 7
    SideNetConfig(BERT, thresholds=0.9, calibration={"n": 3}).save_pretrained(tmp_path)
    assert SideNetConfig.from_pretrained(tmp_path).calibration == {"n": 3}
    # The evidence was for θ = 0.9.
    assert SideNetConfig.from_pretrained(tmp_path, thresholds=0.5).calibration is None
    assert SideNetConfig.from_pretrained(tmp_path, chain=[[0.5]]).calibration is None


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"exit_layers": []}, "`exit_layers` must be .* at least one, got \\[\\]"),
        ({"exit_layers": 4}, "`exit_layers` must be a list"),
        ({"exit_layers": [-1]}, "from 0 to .* got \\[-1\\]"),
        ({"exit_layers": [3, 1]}, "strictly rising .* got \\[3, 1\\]"),
        ({"exit_layers": [2, 2]}, "strictly rising"),
        ({"exit_layers": [1.5]}, "integers"),
        ({"exit_layers": [6], "block_shapes": [[32]] * 5}, "this MainNet has 6 blocks, got \\[6\\]"),
        ({"thresholds": -1}, "`thresholds` .* got -1"),
        ({"thresholds": [0.5, 0.5]}, "`thresholds` must have one value per SideNet"),
        ({"temperatures": 0}, "`temperatures` must be finite and > 0, got 0"),
        ({"temperatures": [1.0]}, "`temperatures` must have 2 values"),
        ({"alpha": -0.5}, "`alpha` must be finite and ≥ 0, got -0.5"),
        ({"alpha": float("inf")}, "`alpha` must be finite"),
        ({"chain": 0.5}, "`chain` must be None or have a list of weights for each of 1 exits, got 0.5"),
        ({"chain": [[0.5], [0.5, 0.5]]}, "`chain` must be None or have a list of weights for each of 1 exits"),
        ({"chain": [[0.5, 0.5]]}, "`chain` must have 1 values"),
        ({"chain": [0.5]}, "`chain` must be None or have a list of weights for each of 1 exits, got \\[0.5\\]"),
        ({"chain": [["a"]]}, "`chain` must be finite and a number, got 'a'"),
        ({"chain": [[float("nan")]]}, "`chain` must be finite and a number, got nan"),
        ({"pooling": "max"}, "`pooling` must be one of .* got 'max'"),
        ({"pooling": ["mean", "cls"]}, "`pooling` must have 1 values"),
        ({"freeze_mainnet": True}, "`freeze_mainnet` must be one of 'none', 'body', 'all', got True"),
        ({"mainnet_head": "linear"}, "`mainnet_head` must be one of"),
        ({"distillation_weight": 1.5}, "`distillation_weight` must be finite and in \\[0, 1\\], got 1.5"),
        ({"distillation_temperature": 0}, "`distillation_temperature` must be finite and > 0"),
        ({"sidenet_hidden_size": 0}, "`sidenet_hidden_size` must be an integer ≥ 1, got 0"),
        ({"input_size": [32, 32]}, "`input_size` must be \\[channels, height, width\\]"),
        ({"input_size": 5}, "`input_size` must be"),
        ({"calibration": "x"}, "`calibration` must be a dict or None"),
        ({"blocks": 3}, "`blocks` must be a str or None"),
        ({"distill_weight": 0.5}, "Did you mean `distillation_weight`"),
        ({"mainnet_config": "bert"}, "transformers knows, got None"),
        ({"num_labels": 2}, "same number of labels, got 3 .* and 2"),
        ({"id2label": {0: "a", 1: "b"}}, "same number of labels"),
        ({"problem_type": "regression"}, "'regression' and 3"),
        ({"problem_type": "multi_label_classification"}, "no softmax confidence"),
        ({"threshold": 0.5}, "no field `threshold`. Did you mean `thresholds`"),
        ({"exit_layer": [1]}, "Did you mean `exit_layers`"),
        ({"sidenet_size": 8}, "Did you mean `sidenet_hidden_size`"),
        ({"temperature": 2.0}, "Did you mean `temperatures`"),
        ({"freeze_main_net": "all"}, "Did you mean `freeze_mainnet`"),
        ({"mainnet_config": {"hidden_size": 3}}, "'model_type' that transformers knows, got None"),
    ],
)
def test_impossible_values(fields, message):
    with pytest.raises(ValueError, match=message):
        SideNetConfig(**{"mainnet_config": BERT, **fields})


def test_one_label_is_refused():
    with pytest.raises(ValueError, match="`num_labels` ≥ 2, got None and 1"):
        SideNetConfig(BertConfig(num_labels=1))


def test_unknown_names_pass_because_transformers_adds_keys():
    assert SideNetConfig(BERT, some_future_key=3).some_future_key == 3


def test_a_plain_checkpoint_is_refused(tmp_path):
    BERT.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"plain 'bert' model.*from_mainnet"):
        SideNetConfig.from_pretrained(tmp_path)


@pytest.mark.parametrize("auto_map", [None, "AutoConfig", {"AutoConfig": None}, {"AutoConfig": ["a.A", "b.B"]}])
def test_an_auto_map_that_names_no_class(auto_map):
    """Auto classes, which come later, fail on it far from the reason."""
    fields = {**SideNetConfig().to_dict(), "auto_map": auto_map}
    with pytest.raises(ValueError, match="`auto_map` must be a dict of class names"):
        SideNetConfig.from_dict(fields)
    SideNetConfig.from_dict({**fields, "auto_map": {"AutoConfig": "a.A", "AutoTokenizer": [None, "b.B"]}})
