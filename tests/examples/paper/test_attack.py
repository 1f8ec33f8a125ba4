# SPDX-License-Identifier: Apache-2.0
"""The attacks of the paper's open question, on a tiny random model, and the command as typed, on tiny pictures."""

import csv
import json

import pytest
import torch
from transformers import ViTImageProcessor

from hf_sidenet.measurement import ExitCosts, ExitRecords
from hf_sidenet.models.tasks import SINGLE_LABEL

from ...models import tiny
from ..commands import ROOT, run, save_pictures


FOLDER = ROOT / "examples" / "paper"
SCRIPT = FOLDER / "attack.py"
TINY = {"layer_type": "basic", "depths": [1, 1], "hidden_sizes": [8, 16], "embedding_size": 8}
EPSILON = 4 / 255
COLUMNS = [
    "attack", "aim", "epsilon", "steps", "rows", "sidenet_accuracy", "mainnet_accuracy", "routed_accuracy",
    "share_early", "flops", "threshold",
]  # fmt: skip


@pytest.fixture
def perturb(script):
    return script("perturb")


@pytest.fixture
def model():
    return tiny.resnet_with_sidenet()


@pytest.fixture
def normalization(perturb):
    return perturb.Normalization.of(ViTImageProcessor(image_mean=[0.4, 0.5, 0.6], image_std=[0.2, 0.3, 0.4]))


@pytest.fixture
def pixels():
    # Some at the borders, where the ball is cut off.
    return (1.4 * torch.rand(12, 3, 32, 32) - 0.2).clamp(0, 1)


@pytest.fixture
def labels():
    return torch.arange(12) % 3


@pytest.fixture
def logits_of(model, normalization):
    """Pixels → logits of every exit."""
    return lambda pixels: model(pixel_values=normalization.values(pixels), thresholds=1.0).exit_logits


def generator():
    return torch.Generator().manual_seed(0)


def misled(perturb, logits_of, labels, exits=slice(None)):
    return lambda pixels: perturb.wrongness(logits_of(pixels)[:, exits], labels)


def test_no_pixel_leaves_the_ball_or_the_range(perturb, logits_of, pixels, labels):
    objective = misled(perturb, logits_of, labels)
    attacked = [
        perturb.fgsm(objective, pixels, EPSILON),
        perturb.pgd(objective, pixels, EPSILON, 5, generator()),
        # A single step of 2.5 ε goes too far.
        perturb.pgd(objective, pixels, EPSILON, 1, generator()),
    ]
    for each in attacked:
        assert each.shape == pixels.shape
        assert (each - pixels).abs().max() <= EPSILON + 1e-6
        assert each.min() >= 0
        assert each.max() <= 1
        assert (each - pixels).abs().mean() > EPSILON / 4
        assert not each.requires_grad
    # FGSM uses the whole ball wherever the range lets it.
    inside = (pixels > EPSILON) & (pixels < 1 - EPSILON)
    torch.testing.assert_close(
        (attacked[0] - pixels).abs()[inside], torch.full((int(inside.sum()),), EPSILON), rtol=0, atol=1e-6
    )


@pytest.mark.parametrize("exits", [slice(0, 1), slice(-1, None), slice(None)], ids=["SideNet", "MainNet", "both"])
def test_more_wrong_with_more_steps(perturb, logits_of, pixels, labels, exits):
    objective = misled(perturb, logits_of, labels, exits)
    one = perturb.fgsm(objective, pixels, EPSILON)
    many = perturb.pgd(objective, pixels, EPSILON, 10, generator())
    with torch.no_grad():
        clean, single, several = (objective(each).mean().item() for each in (pixels, one, many))
    assert clean < single <= several


@pytest.mark.parametrize("freeze_mainnet", ["all", "none"])
def test_the_whole_model_is_seen(perturb, normalization, pixels, labels, freeze_mainnet):
    # A frozen MainNet passes gradients on to its input all the same.
    model = tiny.resnet_with_sidenet(freeze_mainnet=freeze_mainnet)

    def objective(pixels):
        return perturb.wrongness(
            model(pixel_values=normalization.values(pixels), thresholds=1.0).exit_logits[:, :1], labels
        )

    moved = perturb.fgsm(objective, pixels, EPSILON)
    assert objective(moved).mean() > objective(pixels).mean()


@pytest.mark.parametrize("temperature", [4.0, 8.0])
def test_delay_makes_unsure(perturb, logits_of, pixels, temperature):
    def objective(pixels):
        return perturb.doubt(logits_of(pixels)[:, :-1], [temperature])

    moved = perturb.pgd(objective, pixels, EPSILON, 10, generator())
    with torch.no_grad():
        before, after = (
            SINGLE_LABEL.confidence(logits_of(each)[:, 0], temperature).mean() for each in (pixels, moved)
        )
    assert after < before - 0.01


def test_what_is_raised(perturb):
    logits = torch.tensor([[[0.0, 0.0], [0.0, 0.0]], [[0.0, 200.0], [200.0, 0.0]]], requires_grad=True)
    wrong = perturb.wrongness(logits, torch.tensor([0, 0]))
    torch.testing.assert_close(wrong, torch.tensor([2 * 0.6931471805599453, 200.0], dtype=torch.float64))
    unsure = perturb.doubt(logits, [1.0, 100.0])
    # log 2 twice; then 0, and the entropy of (σ(2), 1 - σ(2)).
    torch.testing.assert_close(
        unsure, torch.tensor([2 * 0.6931471805599453, 0.3653], dtype=torch.float64), atol=1e-4, rtol=0
    )


def test_a_sure_exit_still_has_a_gradient(perturb):
    # Its loss is 0 in float32, and so would be its gradient.
    logits = torch.tensor([[[30.0, 0.0]]], requires_grad=True)
    assert torch.nn.functional.cross_entropy(logits[:, 0], torch.tensor([0])) == 0
    (gradient,) = torch.autograd.grad(perturb.wrongness(logits, torch.tensor([0])).sum(), logits)
    assert gradient.tolist()[0][0][0] < 0 < gradient.tolist()[0][0][1]


def test_no_epsilon_no_change(perturb, logits_of, pixels, labels):
    objective = misled(perturb, logits_of, labels)
    assert torch.equal(perturb.fgsm(objective, pixels, 0.0), pixels)
    assert torch.equal(perturb.pgd(objective, pixels, 0.0, 3, generator()), pixels)


def test_random_starts_are_seeded_and_rows_are_alone(perturb, logits_of, pixels, labels):
    objective = misled(perturb, logits_of, labels)
    whole = perturb.pgd(objective, pixels, EPSILON, 3, generator())
    assert torch.equal(perturb.pgd(objective, pixels, EPSILON, 3, generator()), whole)
    again = generator()
    halves = []
    for rows in (slice(0, 8), slice(8, None)):
        half = misled(perturb, logits_of, labels[rows])
        halves.append(perturb.pgd(half, pixels[rows], EPSILON, 3, again))
    # Signs of gradients that are almost 0 may turn with the batch size.
    assert ((torch.cat(halves) - whole).abs() > 1e-5).double().mean() < 0.01


def test_the_model_stays_as_it_is(script, model, normalization, pixels, labels):
    attack = script("attack")
    before = {name: value.clone() for name, value in model.state_dict().items()}
    # A gradient can be left behind on these alone.
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert {name.split(".")[0] for name in trained} == {"sidenets"}
    batch = {"pixel_values": normalization.values(pixels), "labels": labels}
    clean = model(pixel_values=batch["pixel_values"], thresholds=1.0).exit_logits.detach()
    for each in attack.attacks_of([4.0], 3):
        logits = each(model, normalization, batch, generator())
        assert logits.shape == (12, 2, 3)
        assert not logits.requires_grad
        # Clean rows go through pixels and back.
        assert ((logits - clean).abs().max() < 1e-4) == (each.name == "none"), each
    assert not model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert {name for name, parameter in model.named_parameters() if parameter.requires_grad} == trained
    assert all(parameter.grad is None for parameter in model.parameters())


def test_each_aim_hurts_its_own_exit_most(script, model, normalization, pixels, labels):
    attack, perturb = script("attack"), script("perturb")
    batch = {"pixel_values": normalization.values(pixels), "labels": labels}
    losses = {}
    for aim in attack.AIMS:
        logits = attack.Attack("PGD", aim, 8.0, 5)(model, normalization, batch, generator())
        losses[aim] = [perturb.wrongness(logits[:, [i]], labels).sum().item() for i in range(2)]
    assert losses["SideNet"][0] > losses["MainNet"][0]
    assert losses["MainNet"][1] > losses["SideNet"][1]
    assert sum(losses["both"]) > max(sum(losses["SideNet"]), sum(losses["MainNet"])) * 0.99


def test_pixels_of_a_processor(perturb):
    processor = ViTImageProcessor(
        size={"height": 8, "width": 8}, image_mean=[0.4, 0.5, 0.6], image_std=[0.2, 0.3, 0.4]
    )
    picture = torch.randint(0, 256, (3, 8, 8), dtype=torch.uint8, generator=generator())
    values = processor(picture, return_tensors="pt")["pixel_values"]
    normalization = perturb.Normalization.of(processor)
    torch.testing.assert_close(normalization.pixels(values), picture[None] / 255, atol=1e-6, rtol=0)
    torch.testing.assert_close(normalization.values(normalization.pixels(values)), values, atol=1e-5, rtol=0)
    plain = perturb.Normalization.of(ViTImageProcessor(do_normalize=False))
    assert torch.equal(plain.values(picture[None] / 255), picture[None] / 255)
    with pytest.raises(ValueError, match=r"pixels must be in \[0, 1\] before they are normalized, got .* to 1\.8"):
        normalization.pixels(torch.full((1, 3, 8, 8), 3.0))
    with pytest.raises(ValueError, match="must have `image_mean` and `image_std`, got object"):
        perturb.Normalization.of(object())


def test_a_line_of_the_table(script):
    attack = script("attack")
    # Confidences of the SideNet: 0.5, 0.88, 0.88, 0.99.
    sidenet, mainnet = [[0.0, 0.0], [0.0, 2.0], [2.0, 0.0], [5.0, 0.0]], [[0.0, 1.0]] * 4
    exit_logits = torch.tensor([sidenet, mainnet]).transpose(0, 1)
    records = ExitRecords(exit_logits, torch.tensor([1, 1, 1, 0]), exit_logits[:, 1])
    costs = ExitCosts([1, 9], [25.0, 110.0], [1.0, 2.0], 8, 100.0, 1.9, 1, "cpu")
    line = attack.line_of(attack.Attack("FGSM", "both", 2.0, 1), records, costs, 0.9, [1.0, 1.0])
    assert list(line) == COLUMNS
    assert line == {
        "attack": "FGSM", "aim": "both", "epsilon": 2.0, "steps": 1, "rows": 4, "sidenet_accuracy": 0.5,
        "mainnet_accuracy": 0.75, "routed_accuracy": 1.0, "share_early": 0.25,
        "flops": pytest.approx((0.25 + 3 * 1.1) / 4), "threshold": 0.9,
    }  # fmt: skip
    # At temperature 4 nobody is that sure.
    assert attack.line_of(attack.Attack("FGSM", "both", 2.0, 1), records, costs, 0.9, [4.0, 1.0])["share_early"] == 0
    # θ is chosen as it is applied, with the temperature: the third row, where the SideNet is wrong, must not leave.
    right = ExitRecords(exit_logits, records.labels, torch.eye(2)[records.labels])
    assert attack.choose_threshold(right, costs, [1.0, 1.0], 0.0) == 0.9
    assert attack.choose_threshold(right, costs, [4.0, 1.0], 0.0) == 0.7


def experiment(path, **fields):
    path.write_text(json.dumps({"task": "image", "group": "joint", "seeds": [0], **fields}))
    return path


@pytest.mark.slow
def test_a_run_attacked(tmp_path):
    data = {}
    for seed, (name, count) in enumerate((("train", 24), ("validation", 8), ("test", 10))):
        data[f"{name}_dir"] = str(save_pictures(tmp_path / "shades" / name, count, seed))
    config = experiment(
        tmp_path / "tiny.yaml",
        arguments={
            "model_type": "resnet", "config_overrides": json.dumps(TINY), "image_size": 32, **data,
            "exit_layers": [1], "freeze_mainnet": "none", "num_train_epochs": 1, "learning_rate": 0.01,
            "per_device_train_batch_size": 16, "use_cpu": True, "report_to": "none",
        },
    )  # fmt: skip
    run(FOLDER / "train.py", config, "--output_dir", tmp_path / "runs")
    folder = tmp_path / "runs" / "tiny" / "seed-0"

    def attack(output_dir, *arguments, code=0):
        given = ["--config", config, "--steps", 3, "--epsilons", 4, 16.5, "--output_dir", output_dir, *arguments]
        return run(SCRIPT, folder, *given, code=code)

    assert str(tmp_path / "out" / "attack.csv") in attack(tmp_path / "out", "--rows", 14, "--batch_size", 8)
    with open(tmp_path / "out" / "attack.csv", newline="") as file:
        lines = list(csv.DictReader(file))
    assert list(lines[0]) == COLUMNS
    aims = ("SideNet", "MainNet", "both")
    each = [*(("FGSM", aim, "1") for aim in aims), *(("PGD", aim, "3") for aim in aims), ("delay", "SideNets", "3")]
    assert [(float(line["epsilon"]), line["attack"], line["aim"], line["steps"]) for line in lines] == [
        (0, "none", "none", "0"),
        *((epsilon, *names) for epsilon in (4, 16.5) for names in each),
    ]
    assert {line["rows"] for line in lines} == {"14"}
    assert len({line["threshold"] for line in lines}) == 1
    for line in lines:
        assert all(0 <= float(line[name]) <= 1 for name in COLUMNS[5:9])
        assert 0 < float(line["flops"]) < 2
    assert (tmp_path / "out" / "provenance.csv").read_text().count("attack.py") == 1

    # More rows than there are: all of them. The same again is the same.
    attack(tmp_path / "all")
    again = tmp_path / "again"
    attack(again)
    assert (again / "attack.csv").read_text() == (tmp_path / "all" / "attack.csv").read_text()
    assert ",20," in (again / "attack.csv").read_text()

    stderr = attack(tmp_path / "none", "--rows", 0, code=1)
    assert stderr.endswith("attack.py: error: `rows` must be ≥ 1, got 0.\n")
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"steps": 0}, "`steps` must be ≥ 1, got 0."),
        ({"batch_size": -1}, "`batch_size` must be ≥ 1, got -1."),
        ({"seed": -1}, "`seed` must be ≥ 0, got -1."),
        ({"epsilons": [1.0, 0.0]}, "`epsilons` must be > 0 and ≤ 255, got 0."),
        ({"epsilons": [float("nan")]}, "`epsilons` must be > 0 and ≤ 255, got nan."),
        ({"max_accuracy_drop": 2.0}, r"`max_accuracy_drop` must be in \[0, 1\], got 2."),
        ({"task": "text"}, "`config` must be an experiment on images, got 'some' on texts."),
        ({"run": None}, "RUN_FOLDER must be a finished run of train.py, with a run.json"),
        ({"run": {"name": "other"}}, "--config must be the one that .* was trained by, 'other', got 'some'"),
        (
            {"run": {"name": "some", "costs": {"mainnet_flops": 1}}},
            "must be of a model with SideNets, got .* of a MainNet alone",
        ),
    ],
)
def test_impossible_arguments(script, tmp_path, arguments, message):
    given = {
        "rows": 8, "steps": 1, "batch_size": 4, "seed": 0, "epsilons": [1.0], "max_accuracy_drop": 0.0,
        "task": "image", "run": None, **arguments,
    }  # fmt: skip
    content, task = given.pop("run"), given.pop("task")
    if content is not None:
        (tmp_path / "run.json").write_text(json.dumps(content))
    config = experiment(tmp_path / "some.yaml", task=task)
    attack = script("attack")
    with pytest.raises(ValueError, match=message):
        attack.table_of(attack.argparse.Namespace(run_folder=tmp_path, config=config, **given))
