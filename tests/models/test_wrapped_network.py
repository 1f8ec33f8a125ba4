# SPDX-License-Identifier: Apache-2.0
"""Networks that are not from transformers: of torchvision, and of one's own."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn
from transformers import AutoModelForImageClassification

from hf_sidenet.inference import SideNetRunner, Stages
from hf_sidenet.models import SideNetForImageClassification, SideNetForSequenceClassification, mainnet_code

from . import tiny
from .naive import every_exit, spread_out
from .own_code import my_net, my_text_net


OWN = Path(my_net.__file__)
LOAD = """
import json, sys, torch
from transformers import AutoModelForImageClassification
images = torch.load(sys.argv[2], weights_only=True)
model = AutoModelForImageClassification.from_pretrained(sys.argv[1], trust_remote_code=True).eval()
with torch.no_grad():
    logits = model(images, thresholds=1.0).logits
print(json.dumps({"logits": logits.tolist(), "package": "hf_sidenet" in sys.modules}))
"""


def images(count=6, size=32):
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(0))


def net(kind=my_net.MyNet):
    torch.manual_seed(0)
    made = kind().eval()
    for module in made.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_()
    return made


def attached(network, **kwargs):
    kwargs = {"exit_layers": [1, 2], "example_inputs": images(2), **kwargs}
    model = SideNetForImageClassification.from_mainnet(network, **kwargs)
    return spread_out(model, {"pixel_values": images(16)})


def middle(model, inputs):
    confidence = every_exit(model, inputs)[:, :-1].softmax(-1).amax(-1)
    return confidence.quantile(0.5, dim=0).tolist()


def loaded_elsewhere(folder, pixels, tmp_path):
    """Logits in a process without this package."""
    torch.save(pixels, tmp_path / "images.pt")
    done = subprocess.run(
        [sys.executable, "-c", LOAD, str(folder), str(tmp_path / "images.pt")],
        cwd=tmp_path,
        env={**os.environ, "HF_HOME": str(tmp_path / "hf")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert not found["package"]
    return torch.tensor(found["logits"])


# --- a network of one's own


def test_it_works_in_memory():
    network = net()
    model = attached(network)
    inputs = {"pixel_values": images()}
    assert model.mainnet.network is network
    assert [point.module for point in model.exit_points()][1:] == [
        "network.stem",
        "network.stages.0",
        "network.stages.1",
    ]
    with torch.no_grad():
        assert torch.equal(model(**inputs, thresholds=1.0).logits, network(images()))
        model.config.thresholds = middle(model, inputs)
        out = model(**inputs)
    assert len(set(out.exit_index.tolist())) > 1
    for index, row in enumerate(images()):
        alone = model(pixel_values=row[None])
        assert alone.exit_index == out.exit_index[index]
        torch.testing.assert_close(alone.logits[0], out.logits[index], rtol=1e-4, atol=1e-5)
    rows = [{"pixel_values": row} for row in images()]
    found = list(SideNetRunner(Stages(model), batch_size=4).predict(rows))
    assert [each.exit_index for each in found] == out.exit_index.tolist()


def test_it_trains():
    model = attached(net(), freeze_mainnet="none").train()
    out = model(pixel_values=images(), labels=torch.tensor([0, 1, 2, 3, 0, 1]))
    out.loss.backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_without_its_code_it_cannot_be_saved(tmp_path):
    model = attached(net())
    with pytest.raises(ValueError, match=r"`code` must be given for this network, .* code='my_net.py:build'"):
        model.save_pretrained(tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_its_code_travels(tmp_path, monkeypatch):
    model = attached(net(), code=f"{OWN}:build", trust_remote_code=True, id2label=dict(enumerate("abcd")))
    model.save_pretrained(tmp_path / "out")
    assert (tmp_path / "out/my_net.py").read_bytes() == OWN.read_bytes()
    assert (tmp_path / "out/my_parts.py").exists()
    expected = model.mainnet.network(images())
    torch.testing.assert_close(loaded_elsewhere(tmp_path / "out", images(), tmp_path), expected)
    monkeypatch.setattr(mainnet_code, "_RUN", {})
    with pytest.raises(ValueError, match=r"runs its own code \(my_net.py, my_parts.py\)"):
        AutoModelForImageClassification.from_pretrained(tmp_path / "out", trust_remote_code=False)
    loaded = SideNetForImageClassification.from_pretrained(tmp_path / "out", trust_remote_code=True)
    torch.testing.assert_close(loaded(images(), thresholds=1.0).logits, expected)
    assert loaded.config.id2label == dict(enumerate("abcd"))


def test_a_text_network_that_takes_names():
    network = net(my_text_net.MyTextNet)
    ids = tiny.texts(6)["input_ids"]
    mask = (torch.arange(ids.shape[1]) < torch.tensor([9, 3, 5, 9, 2, 7])[:, None]).long()
    inputs = {"input_ids": ids, "attention_mask": mask}
    model = SideNetForSequenceClassification.from_mainnet(network, exit_layers=[1, 2], example_inputs=inputs)
    spread_out(model, inputs)
    assert model.config.mainnet_config.vocab_size == 99
    assert [point.module for point in model.exit_points()][1:] == ["network.layers.0", "network.layers.1"]
    with torch.no_grad():
        assert torch.equal(model(**inputs, thresholds=1.0).logits, network(**inputs)["logits"])
        model.config.thresholds = middle(model, inputs)
        out = model(**inputs)
    assert len(set(out.exit_index.tolist())) > 1
    rows = [{"input_ids": ids[i, : mask[i].sum()]} for i in range(6)]
    found = list(SideNetRunner(Stages(model), batch_size=4).predict(rows))
    assert [each.exit_index for each in found] == out.exit_index.tolist()


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"example_inputs": None}, "`example_inputs` must be a batch of the network's inputs: .*, got 'NoneType'"),
        ({"example_inputs": torch.zeros(2, 5)}, r"`example_inputs` must be .*, got torch.float32 \(2, 5\)"),
        ({"example_inputs": {"images": images(2)}}, r"`example_inputs` must be .*, got \['images'\]"),
        ({"id2label": {0: "a"}}, r"`id2label` must have the keys 0 to 3, got \{0: 'a'\}"),
        ({"code": f"{OWN}:build"}, "`trust_remote_code` must be True with `code`"),
        ({"code": "nowhere.py:build", "trust_remote_code": True}, "`code` must name a function in a file"),
        ({"code": f"{OWN}:missing", "trust_remote_code": True}, "my_net.py has no 'missing'"),
        ({"code": f"{OWN}:build_nothing", "trust_remote_code": True}, "returns an nn.Module, got 'str'"),
        (
            {"code": f"{OWN}:build_another", "trust_remote_code": True},
            r"`code` must build this network, but 'head.weight' is \(4, 128\) there, not \(4, 64\)",
        ),
    ],
)
def test_what_does_not_fit(kwargs, message):
    with pytest.raises(ValueError, match=message):
        attached(net(), **kwargs)


def test_what_is_no_classifier():
    with pytest.raises(ValueError, match=r"must return logits of shape \(2, num_labels ≥ 2\), got \(2, 8, 32, 32\)"):
        attached(net().stem)
    with pytest.raises(ValueError, match=r"`mainnet` must return logits .*, got 'tuple'"):
        attached(nn.Sequential(nn.Flatten(), nn.Linear(3072, 2), Twice()))
    with pytest.raises(ValueError, match=r"a Hub id, a PreTrainedModel or an nn\.Module, got 'int'"):
        attached(3)
    with pytest.raises(ValueError, match="`example_inputs` must be given only for a network"):
        attached(tiny.resnet())
    with pytest.raises(ValueError, match="`code` must be given only for a network"):
        attached(tiny.resnet(), example_inputs=None, code=f"{OWN}:build", trust_remote_code=True)


class Twice(nn.Module):
    def forward(self, x):
        return x, x


# --- torchvision

torchvision = pytest.importorskip("torchvision", reason='needs pip install "hf_sidenet[vision]"')


def test_the_notebook_with_another_last_layer(tmp_path):
    torch.manual_seed(0)
    network = torchvision.models.resnet18(weights=None)
    network.fc = nn.Linear(network.fc.in_features, 5)
    network.eval()
    pixels = images(2, size=64)
    model = SideNetForImageClassification.from_mainnet(network, exit_layers=[2], input_size=[3, 64, 64])
    assert model.config.mainnet_config.factory == "torchvision:resnet18"
    assert model.config.mainnet_code is None
    with torch.no_grad():
        expected = network(pixels)
        assert torch.equal(model(pixels, thresholds=1.0).logits, expected)
    model.save_pretrained(tmp_path / "out")
    torch.testing.assert_close(loaded_elsewhere(tmp_path / "out", pixels, tmp_path), expected, rtol=1e-4, atol=1e-5)
    # Where this package is installed, no code of the checkpoint is needed.
    loaded = AutoModelForImageClassification.from_pretrained(tmp_path / "out")
    torch.testing.assert_close(loaded(pixels, thresholds=1.0).logits, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "size", "kwargs"),
    [
        ("shufflenet_v2_x0_5", 64, {}),
        ("mobilenet_v3_small", 64, {}),
        ("googlenet", 96, {"aux_logits": True, "transform_input": True, "init_weights": False}),
        ("squeezenet1_1", 64, {}),
    ],
)
def test_architectures_are_found(name, size, kwargs):
    network = torchvision.models.get_model(name, weights=None, num_classes=4, **kwargs).eval()
    model = SideNetForImageClassification.from_mainnet(network, exit_layers=[1], example_inputs=images(2, size))
    about = model.config.mainnet_config
    assert about.factory == f"torchvision:{name}"
    assert {key: about.factory_kwargs[key] for key in ("aux_logits", "transform_input") if key in kwargs} == {
        key: kwargs[key] for key in ("aux_logits", "transform_input") if key in kwargs
    }
    with torch.no_grad():
        assert torch.equal(model(images(2, size), thresholds=1.0).logits, network(images(2, size)))


def test_a_large_head_is_the_last_block():
    """AlexNet's head takes a vector, and its activations overwrite what the layers before them returned."""
    network = torchvision.models.alexnet(weights=None, num_classes=4).eval()
    example = images(4, 64)
    model = SideNetForImageClassification.from_mainnet(network, exit_layers=[1, 5], example_inputs=example)
    spread_out(model, {"pixel_values": images(16, 64)})
    assert [point.shape for point in model.exit_points()][1:] == [
        (64, 7, 7), (192, 3, 3), (384, 3, 3), (256, 3, 3), (256, 6, 6),
    ]  # fmt: skip
    model.config.thresholds = middle(model, {"pixel_values": example})
    full = every_exit(model, {"pixel_values": example})
    with torch.no_grad():
        assert torch.equal(model(example, thresholds=1.0).logits, network(example))
        out = model(example)
    for row, index in enumerate(out.exit_index.tolist()):
        torch.testing.assert_close(out.logits[row], full[row, index], rtol=1e-4, atol=1e-5)
    model.train()
    model(example, labels=torch.tensor([0, 1, 2, 3])).loss.backward()
    assert all(parameter.grad is not None for parameter in model.sidenets.parameters())


def test_a_changed_torchvision_network_needs_code():
    network = torchvision.models.resnet18(weights=None)
    network.fc = nn.Sequential(nn.Dropout(), nn.Linear(512, 3))
    with pytest.raises(
        ValueError, match=r"must be what torchvision.models builds with 3 classes.*code='my_net.py:build'"
    ):
        SideNetForImageClassification.from_mainnet(network, exit_layers=[1], example_inputs=images(2, 64))


def test_the_same_weights_with_other_answers_are_not_taken():
    """All names and shapes are those of ResNet-18, but not what it does."""
    network = torchvision.models.resnet18(weights=None, num_classes=3)
    network.relu = nn.Tanh()
    with pytest.raises(ValueError, match=r"must be what torchvision\.models builds"):
        SideNetForImageClassification.from_mainnet(network, exit_layers=[1], example_inputs=images(2, 64))
