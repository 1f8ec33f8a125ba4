# SPDX-License-Identifier: Apache-2.0
"""Fine-tuned weights as training scripts leave them, and networks that are not from transformers, through `attach`."""

import pickle

import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from transformers import AutoImageProcessor, AutoModelForImageClassification

from hf_sidenet.attaching.attach import attach
from hf_sidenet.attaching.steps import load_mainnet
from hf_sidenet.attaching.weights import load_named, read_weights
from hf_sidenet.training.heads import HeadTraining

from ..attached import CLASSES, pictures
from ..cli.test_cli import run, run_json
from ..models.own_code import my_net


torchvision = pytest.importorskip("torchvision", reason='needs pip install "hf_sidenet[vision]"')
timm = pytest.importorskip("timm", reason='needs pip install "hf_sidenet[vision]"')

NAME = "torchvision:squeezenet1_1"
IMAGES = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))


def network(num_classes=2):
    torch.manual_seed(0)
    return torchvision.models.squeezenet1_1(weights=None, num_classes=num_classes).eval()


def other(state):
    return {name: torch.zeros_like(x) for name, x in state.items()}


def wrapped(state):
    return {
        "alone": state,
        "state_dict": {"epoch": 3, "state_dict": state, "optimizer": {"state": {}}},
        "model": {"model": state, "args": {"lr": 0.1}},
        "nested": {"model": {"state_dict": state}},
        "module.": {f"module.{name}": x for name, x in state.items()},
        "compiled": {"state_dict": {f"module._orig_mod.{name}": x for name, x in state.items()}},
        "lightning": {"state_dict": {f"model.{name}": x for name, x in state.items()}},
        "timm's EMA": {"state_dict": other(state), "state_dict_ema": state},
        "torchvision's EMA": {
            "model": other(state),
            "model_ema": {"n_averaged": torch.tensor(5), **{f"module.{name}": x for name, x in state.items()}},
        },
    }


@pytest.mark.parametrize("form", wrapped({}))
def test_wrappings(form, tmp_path):
    model = network(3)
    torch.save(wrapped(model.state_dict())[form], tmp_path / "best.pth.tar")
    found = load_named(NAME, tmp_path / "best.pth.tar")
    with torch.no_grad():
        assert torch.equal(found(IMAGES), model(IMAGES))


def test_safetensors_and_timm(tmp_path):
    torch.manual_seed(0)
    model = timm.create_model("resnet10t", num_classes=7).eval()
    save_file(model.state_dict(), tmp_path / "model.safetensors")
    found = load_named("timm:resnet10t", tmp_path / "model.safetensors")
    with torch.no_grad():
        assert torch.equal(found(IMAGES), model(IMAGES))


class Evil:
    def __reduce__(self):
        return (print, ("was run",))


def test_what_does_not_fit(tmp_path, capsys):
    state = network().state_dict()
    path = tmp_path / "weights.pt"

    def refused(content, message, name=NAME):
        torch.save(content, path)
        with pytest.raises(ValueError, match=message):
            load_named(name, path)

    lacking = {name: x for name, x in state.items() if name != "features.0.bias"}
    refused(lacking, r"`weights` must be those of 'torchvision:squeezenet1_1', but .* lacks features\.0\.bias")
    refused({**state, "extra": torch.zeros(1)}, "also has extra")
    refused({**state, "features.0.weight": torch.zeros(3, 3)}, r"has other shapes of features\.0\.weight")
    refused({"epoch": 3}, "`weights` must have weights, tensors by name, at the top or in one of state_dict_ema")
    refused(state, "`mainnet` must name a classifier of torchvision, got 'torchvision:resnet'", "torchvision:resnet")
    refused(state, "`mainnet` must name a classifier of timm, got 'timm:nothing'", "timm:nothing")
    refused({"state_dict": state, "args": Evil()}, "cannot be read without running code in it")
    path.write_bytes(pickle.dumps(Evil()))
    with pytest.raises(ValueError, match="cannot be read without running code in it"):
        read_weights(path)
    assert "was run" not in capsys.readouterr().out
    with pytest.raises(ValueError, match="`weights` must be a file, got"):
        load_named(NAME, tmp_path / "missing.pt")
    with pytest.raises(ValueError, match="`weights` must be given with 'torchvision:squeezenet1_1'"):
        load_named(NAME, None)
    with pytest.raises(ValueError, match="`weights` must be given only with a name"):
        load_mainnet(str(tmp_path), None, {"weights": path})


def test_the_processor_is_that_of_the_weights():
    given, processor = load_mainnet(network(), None, {})
    assert given.config.mainnet_config.factory == NAME
    preset = torchvision.models.get_model_weights("squeezenet1_1").DEFAULT.transforms()
    image = torch.randint(0, 256, (3, 300, 400), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    found = processor(image, return_tensors="pt")["pixel_values"][0]
    torch.testing.assert_close(found, preset(image), rtol=0, atol=0.02)


def test_an_image_folder_without_processor_says_what_to_give(tmp_path):
    from transformers import ResNetConfig, ResNetForImageClassification

    ResNetForImageClassification(ResNetConfig(depths=[1, 1], hidden_sizes=[8, 16])).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"give the size, mean and scale of training: BitImageProcessor\(size="):
        load_mainnet(str(tmp_path), None, {})


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A network of one's own and one of torchvision that learned the two shades, and the rows as files."""
    folder = tmp_path_factory.mktemp("shades")
    rows = pictures()
    for split, part in rows.items():
        part.to_parquet(folder / f"{split}.parquet")
    pixels = torch.stack([as_pixels(image) for image in rows["train"]["image"][:]])
    labels = torch.tensor(rows["train"]["label"][:])
    learned = {}
    for name, model in (("own", my_net.MyNet(num_classes=2)), ("torchvision", network())):
        torch.manual_seed(0)
        optimizer = torch.optim.Adam(model.train().parameters(), lr=1e-3)
        for _ in range(3):
            for some in torch.randperm(len(labels)).split(32):
                nn.functional.cross_entropy(model(pixels[some]), labels[some]).backward()
                optimizer.step()
                optimizer.zero_grad()
        learned[name] = model.eval()
    torch.save({"state_dict": learned["torchvision"].state_dict()}, folder / "best.pt")
    return folder, rows, learned


def as_pixels(image):
    import numpy as np

    return (torch.from_numpy(np.array(image)).permute(2, 0, 1).float() / 255 - 0.5) / 0.5


def processor():
    from transformers import BitImageProcessor

    half = [0.5, 0.5, 0.5]
    return BitImageProcessor(size={"shortest_edge": 32}, crop_size=32, image_mean=half, image_std=half)


@pytest.mark.medium
def test_attach_to_a_network_of_ones_own(trained, tmp_path):
    _, rows, learned = trained
    result = attach(
        learned["own"],
        rows["train"],
        rows["validation"],
        rows["test"],
        processor=processor(),
        example_inputs=torch.zeros(2, 3, 32, 32),
        id2label=dict(enumerate(CLASSES)),
        target="accuracy_drop<=0.05",
        heads=HeadTraining(max_epochs=2, batch_size=32),
        cache_dir=tmp_path / "cache",
        progress=False,
    )
    assert result.verdict == "attach"
    with pytest.raises(ValueError, match="`code` must be given for this network"):
        result.model.save_pretrained(tmp_path / "out")


@pytest.mark.medium
def test_attach_from_a_file_of_weights(trained, tmp_path):
    folder, _, learned = trained
    files = [f"--{split}-file={folder / split}.parquet" for split in ("train", "validation", "test")]
    command = ["attach", NAME, *files, "--cache-dir", tmp_path / "cache", "--target", "accuracy_drop<=0.05"]
    command += ["--labels", "bad,good", "--output-dir", tmp_path / "out"]
    done = run(*command)
    assert done.code == 2
    assert "--weights: must be given with 'torchvision:squeezenet1_1'" in done.last
    done = run(*command, "--weights", tmp_path / "missing.pt")
    assert "--weights: must be a file" in done.last
    found = run_json(*command, "--weights", folder / "best.pt")
    assert found["verdict"] == "attach"
    loaded = AutoModelForImageClassification.from_pretrained(tmp_path / "out")
    images = torch.randn(2, 3, 224, 224)
    with torch.no_grad():
        found = loaded(images, thresholds=1.0).logits
        torch.testing.assert_close(found, learned["torchvision"](images), rtol=1e-4, atol=1e-5)
    assert AutoImageProcessor.from_pretrained(tmp_path / "out").size["shortest_edge"] == 256
