# SPDX-License-Identifier: Apache-2.0
"""Training the SideNet before the first block of an image MainNet."""

from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file

from hf_sidenet.models import ResNetWithSideNetForImageClassification
from hf_sidenet.models.blocks import counting_flops
from hf_sidenet.training import pixel_exits
from hf_sidenet.training.heads import HeadData, HeadTraining
from hf_sidenet.training.pixel_exits import (
    PixelTraining,
    answers_mirrored_alike,
    pixel_sizes,
    read_pixels,
    train_pixel_exit,
)

from ..models import tiny


SIZES = {"num_channels": 3, "width": 4, "size": 16}
SETTINGS = PixelTraining(num_epochs=4, batch_size=16)
CLASSES = 2


def collate(rows):
    return {name: torch.stack([torch.as_tensor(row[name]) for row in rows]) for name in rows[0]}


def pictures(num_rows, seed, side=16):
    """A bright upper or lower half, in noise."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(CLASSES, (num_rows,), generator=generator)
    pixels = torch.randn(num_rows, 3, side, side, generator=generator)
    half = side // 2
    pixels[labels == 0, :, :half] += 1
    pixels[labels == 1, :, half:] += 1
    return pixels.half(), HeadData({}, 4 * torch.eye(CLASSES)[labels], labels)


def learn(directory=None, about=(), settings=SETTINGS, seed=0):
    (train, data), (stopping, stopping_data) = pictures(160, 0), pictures(60, 1)
    return train_pixel_exit(
        SIZES, (train, stopping), (data, stopping_data), HeadTraining(seed=seed), settings, mirrored=True,
        directory=directory, about=about, progress=False,
    )  # fmt: skip


def same(one, other):
    return all(torch.equal(value, other.state_dict()[name]) for name, value in one.state_dict().items())


@pytest.mark.parametrize("bf16", [True, False])
def test_it_learns(bf16):
    sidenet, (pixels, data) = learn(settings=replace(SETTINGS, bf16=bf16)), pictures(100, 2)
    assert {parameter.dtype for parameter in sidenet.parameters()} == {torch.float32}
    with torch.no_grad():
        logits = sidenet({"pixel_values": pixels.float()})
    assert (logits.argmax(1) == data.labels).double().mean() > 0.9
    assert not sidenet.training


def test_the_same_seed_gives_the_same_weights():
    first = learn()
    assert same(first, learn())
    assert not same(first, learn(seed=1))


@pytest.mark.parametrize("killed_after", [1, 3])
def test_a_killed_training_resumes_with_the_same_result(killed_after, tmp_path, monkeypatch):
    whole, calls, loss_on = learn(), [], pixel_exits._loss_on

    def killed(*args):
        calls.append(args)
        if len(calls) > killed_after:
            raise KeyboardInterrupt
        return loss_on(*args)

    monkeypatch.setattr(pixel_exits, "_loss_on", killed)
    with pytest.raises(KeyboardInterrupt):
        learn(tmp_path)
    monkeypatch.setattr(pixel_exits, "_loss_on", lambda *args: calls.append(args) or loss_on(*args))
    calls.clear()
    assert same(learn(tmp_path), whole)
    assert len(calls) == SETTINGS.num_epochs - killed_after
    calls.clear()
    assert same(learn(tmp_path), whole)
    assert calls == []


def test_other_rows_or_settings_do_not_resume(tmp_path):
    learn(tmp_path, about=["rows"])
    learn(tmp_path, about=["other rows"])
    learn(tmp_path, about=["rows"], seed=1)
    assert len(list(tmp_path.iterdir())) == 3


def test_a_damaged_file_is_said_and_replaced(tmp_path, caplog):
    whole = learn(tmp_path)
    (file,) = tmp_path.iterdir()
    file.write_bytes(b"damaged")
    assert same(learn(tmp_path), whole)
    assert "cannot be read" in caplog.text
    assert load_file(file)


def model_of(side):
    return ResNetWithSideNetForImageClassification.from_mainnet(
        tiny.resnet(num_labels=2), exit_layers=[1], input_size=[3, side, side]
    )


@pytest.mark.parametrize("side", [32, 64])
def test_sizes_are_within_their_share_of_the_flops(side):
    model = model_of(side)
    settings = PixelTraining(flops=(0.3, 0.6))
    with torch.no_grad(), counting_flops() as counter:
        model.mainnet(pixel_values=torch.zeros(1, 3, side, side))
    mainnet = counter.get_total_flops()
    found = pixel_sizes(model, settings, 2)
    assert len(found) == 2
    for share, (candidate, sizes) in zip(settings.flops, found.items(), strict=True):
        assert candidate.name == f"0.pixels.{sizes['width']}x{sizes['size']}"
        assert sizes["size"] <= side
        attached = ResNetWithSideNetForImageClassification.from_mainnet(
            model.mainnet, exit_layers=[0], input_size=[3, side, side], input_sidenet=sizes
        )
        with torch.no_grad(), counting_flops() as counter:
            attached(pixel_values=torch.zeros(1, 3, side, side), thresholds=0.0)
        assert counter.get_total_flops() <= share * mainnet or sizes["width"] == 1


def test_images_are_averaged_down():
    rows = [{"pixel_values": torch.full((3, 8, 12), float(i)), "labels": 0} for i in range(5)]
    pixels = read_pixels(rows, collate, 4, progress=False)
    assert pixels.shape == (5, 3, 4, 4)
    assert pixels[:, 0, 0, 0].tolist() == [0, 1, 2, 3, 4]
    assert read_pixels(rows, collate, 99, progress=False).shape == (5, 3, 8, 12)


def test_images_that_do_not_fit_the_memory():
    # Grey ones of 4 × 4 pixels in float16: 32 bytes each.
    settings = PixelTraining(max_bytes=10 * 32 + 31)
    assert settings.rows_that_fit(10, 1, 4).tolist() == list(range(10))
    some = settings.rows_that_fit(30, 1, 4)
    assert len(set(some.tolist())) == 10
    assert some.tolist() == sorted(some.tolist())
    assert some.max() > 10
    assert len(settings.rows_that_fit(30, 3, 4)) == 3
    assert len(PixelTraining(max_bytes=1).rows_that_fit(30, 1, 4)) == 1


def test_mirrored_images():
    """Alike for a MainNet that sees no left and right, not for one that sees nothing else."""
    model = model_of(32).eval()
    rows = [{"pixel_values": torch.randn(3, 32, 32, generator=torch.Generator().manual_seed(i))} for i in range(40)]

    class Side(torch.nn.Module):
        def __init__(self, weights):
            super().__init__()
            self.weights = weights

        def forward(self, pixel_values):
            bright = (pixel_values * self.weights).mean((1, 2, 3))
            return type("Output", (), {"logits": torch.stack([bright, -bright], 1)})()

    for weights, alike in ((torch.ones(32), True), (torch.linspace(-1, 1, 32), False)):
        model.mainnet = Side(weights)
        assert answers_mirrored_alike(model, rows, collate) == alike


def test_what_is_refused():
    with pytest.raises(ValueError, match="`num_epochs` must be > 0, got 0"):
        PixelTraining(num_epochs=0)
    with pytest.raises(ValueError, match=r"`flops` must be > 0, got \(0.1, 0\)"):
        PixelTraining(flops=(0.1, 0))


def test_bfloat16_is_for_processors_that_have_it(monkeypatch):
    """Elsewhere it would be emulated, many times slower."""
    whole = learn(settings=replace(SETTINGS, bf16=False))
    monkeypatch.setattr(torch.cpu, "get_capabilities", dict, raising=False)
    assert same(learn(), whole)
