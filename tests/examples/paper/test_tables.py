# SPDX-License-Identifier: Apache-2.0
"""From finished runs to tables, page and figures; the runs are made up."""

import csv
import re
import shutil

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_sidenet.models.exit_rule import route

from ..commands import ROOT, run
from .made_up import made_up_logits, save_run, save_runs


pytestmark = pytest.mark.medium


FOLDER = ROOT / "examples" / "paper"
COMMITTED = ROOT / "docs" / "results" / "paper"


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    return save_runs(tmp_path_factory.mktemp("runs"))


@pytest.fixture(scope="module")
def tables(runs, tmp_path_factory):
    folder = tmp_path_factory.mktemp("tables")
    run(FOLDER / "make_tables.py", runs, "--output_dir", folder)
    return folder


def read(folder, name):
    with open(folder / f"{name}.csv", newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.slow
def test_chosen_thresholds_keep_validation_rows_within_the_drop_and_report_test_rows(script, runs, tables):
    found, choose = script("found"), script("choose")
    lines = [line for line in read(tables, "chosen") if line["experiment"] == "sst2-distilled-1-2-3"]
    assert len(lines) == 2 * 7
    of_seed_1 = found.of(found.load_runs(runs), "sst2-distilled-1-2-3")[1]
    (line,) = (line for line in lines if line["seed"] == "1" and line["exits"] == "after 1+3")
    theta = float(line["threshold"])
    assert theta < 1
    for split, at_most in (("validation", 0.005), ("test", None)):
        records = getattr(of_seed_1, split)
        index = route(records.exit_logits, [theta, 1.0, theta], of_seed_1.temperatures)
        right = records.exit_logits[torch.arange(len(records)), index].argmax(-1) == records.labels
        whole = records.mainnet_logits.argmax(-1) == records.labels
        drop = (whole.double() - right.double()).mean().item()
        if at_most is None:
            assert float(line["drop"]) == pytest.approx(drop, abs=1e-6)
            shares = torch.bincount(index, minlength=4) / len(records)
            assert float(line["share_early"]) == pytest.approx(1 - shares[3].item(), abs=1e-5)
        else:
            assert drop <= at_most + 1e-9
    cheaper = [point.flops for point in choose.curve(of_seed_1, (0, 2), "validation", (theta - 0.05,))]
    assert cheaper[0] < float(line["validation_flops"])


def test_a_budget_is_kept_on_validation_rows(script, runs):
    found, choose = script("found"), script("choose")
    one = found.of(found.load_runs(runs), "sst2-joint-2")[0]
    theta = choose.for_cost(one, (0,), 0.6)
    assert choose.curve(one, (0,), "validation", (theta,))[0].flops <= 0.6
    assert choose.for_cost(one, (0,), 0.1) is None


def test_harm_is_the_paired_difference_of_the_mainnets(script, runs, tables):
    found = script("found")
    (line,) = (x for x in read(tables, "differences") if x["kind"] == "harm" and x["experiment"] == "sst2-joint-2")
    all_runs = found.load_runs(runs)
    means = [
        [one.mainnet_correct().double().mean().item() for one in found.of(all_runs, name).values()]
        for name in ("sst2-joint-2", "sst2-mainnet")
    ]
    expected = sum(means[0]) / 2 - sum(means[1]) / 2
    assert float(line["difference"]) == pytest.approx(expected, abs=1e-6)
    assert float(line["low"]) < expected < float(line["high"])
    assert line["seeds"] == "2"


@pytest.mark.parametrize("effect", [0.0, 0.03])
def test_intervals_of_paired_differences_cover_the_truth(script, effect):
    pairs = script("pairs")
    chance = torch.Generator().manual_seed(0)
    covered = 0
    for repeat in range(200):
        # Seeds differ by themselves, too.
        shift = effect * torch.randn(4, 1, generator=chance)
        first = torch.rand(4, 300, generator=chance) < 0.8 + shift
        second = torch.rand(4, 300, generator=chance) < 0.75
        found = pairs.paired_difference(first, second, num_resamples=300, seed=repeat)
        assert found.mean == pytest.approx((first.double() - second.double()).mean().item())
        covered += found.low <= 0.05 <= found.high
    # 95 % or more, 3 standard errors allowed.
    assert covered >= 200 * (0.95 - 3 * (0.05 * 0.95 / 200) ** 0.5)
    with pytest.raises(ValueError, match="must have one shape"):
        pairs.paired_difference(torch.ones(2, 3), torch.ones(2, 4))


def test_one_seed_has_an_interval_over_rows_and_no_verdict(script):
    found = script("pairs").paired_difference(torch.arange(100)[None] % 2, torch.zeros(1, 100))
    assert found.low < 0.5 < found.high
    assert found.std != found.std
    row = {"seeds": 1, "low": 0.4, "high": 0.6}
    assert script("page_paper")._rival_verdict(row) == script("page_paper")._harm_verdict(row) == "one seed: open"
    assert script("page_paper")._rival_verdict(row | {"seeds": 2}) == "wins"


def test_paired_differences_without_noise_have_no_width(script):
    found = script("pairs").paired_difference(torch.ones(3, 50), torch.zeros(3, 50))
    assert (found.mean, found.low, found.high, found.std) == (1.0, 1.0, 1.0, 0.0)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6), st.floats(0, 1), st.sampled_from(["max_softmax", "margin", "entropy"]))
def test_policies_of_one_score_agree_on_two_classes(script, seed, setting, policy):
    policies = script("policies")
    labels = torch.randint(2, (60,), generator=torch.Generator().manual_seed(seed))
    logits = made_up_logits(60, 3, 2, seed, labels)
    at_one = [1.0] * 3
    scores = policies.score(logits, policy, at_one)
    order = policies.score(logits, "max_softmax", at_one)[:, 0].argsort()
    assert (scores[:, 0][order].diff() >= -1e-6).all()
    index = policies.leaves_at(logits, policy, setting, at_one)
    first = [next((i for i in range(2) if scores[row, i] > setting), 2) for row in range(60)]
    assert index.tolist() == first


def test_max_softmax_is_the_rule_of_the_package(script):
    policies = script("policies")
    logits = made_up_logits(200, 4, 5, 0, torch.randint(5, (200,), generator=torch.Generator().manual_seed(1)))
    index = policies.leaves_at(logits, "max_softmax", 0.6, [1.0, 1.5, 0.7, 1.0])
    assert torch.equal(index, route(logits, [0.6] * 3, [1.0, 1.5, 0.7, 1.0]))
    assert len(index.unique()) == 4


def test_patience_waits_for_exits_that_agree(script):
    policies = script("policies")
    answers = torch.tensor([[0, 0, 1, 1], [0, 1, 1, 1], [0, 1, 0, 1], [1, 1, 1, 1]])
    logits = torch.nn.functional.one_hot(answers, 2).float()
    assert policies.leaves_at(logits, "patience", 1, [1.0] * 4).tolist() == [1, 2, 3, 1]
    assert policies.leaves_at(logits, "patience", 2, [1.0] * 4).tolist() == [3, 3, 3, 2]
    assert policies.settings_of("patience", 3) == [1, 2]


def test_every_policy_keeps_the_budget_on_validation_rows(script, runs, tables):
    lines = read(tables, "policies")
    assert {line["kind"] for line in lines} == {"budget", "patience 1", "patience 2"}
    own = [line for line in lines if line["kind"] == f"patience {line['setting']}" and line["policy"] == "patience"]
    assert len(own) == 2 * len({(line["experiment"], line["seed"]) for line in lines})
    lines = [line for line in lines if line["kind"] == "budget"]
    assert {line["policy"] for line in lines} == {"max_softmax", "margin", "entropy", "patience"}
    found, policies = script("found"), script("policies")
    for line in lines:
        one = found.of(found.load_runs(runs), line["experiment"])[int(line["seed"])]
        setting = int(line["setting"]) if line["policy"] == "patience" else float(line["setting"])
        index = policies.leaves_at(one.validation.exit_logits, line["policy"], setting, one.temperatures)
        assert one.costs.average(index, "flops") <= float(line["budget"]) + 1e-5


def test_the_claim_on_theta_is_counted_above_and_just_above(tables):
    lines = [x for x in read(tables, "theta") if x["experiment"] == "sst2-joint-2" and x["exit"] == "SideNet 2"]
    for line in lines:
        assert int(line["rows_just_above"]) <= int(line["rows_above"])
    above = [int(x["rows_above"]) for x in lines if x["seed"] == "0" and x["fitted"] == "as trained"]
    assert above == sorted(above, reverse=True)
    assert above[0] > above[-1]


def test_too_few_rows_for_a_guarantee_are_a_refusal(script, tmp_path):
    save_run(tmp_path, "sst2-joint-2", 0, exit_layers=[2], rows=(100, 100))
    lines = script("tables_beyond").guarantee_table(script("found").load_runs(tmp_path))
    guaranteed = [line for line in lines if line["method"] == "guaranteed"]
    assert len(guaranteed) == script("tables_beyond").NUM_SPLITS
    assert all((line["refused"], line["flops"], line["drop"]) == (1, 1.0, 0.0) for line in guaranteed)


@pytest.mark.slow
def test_the_page_has_every_section_and_no_number_of_its_own(tables, tmp_path):
    folder = tmp_path / "paper"
    shutil.copytree(tables, folder)
    out = run(FOLDER / "page.py", folder)
    page = (folder / "index.md").read_text()
    for word in ("figures 2 and 4", "figure 3, table 1", "table 2", "θ = 0.85", "guaranteed", "Where every number"):
        assert word in page
    assert "Open question" not in page  # Those tables are not there.
    for line in out.split():
        assert (ROOT / line if not line.startswith("/") else type(ROOT)(line)).stat().st_size > 0
    assert set(re.findall(r"\]\((\S+\.png)\)", page)) <= {path.name for path in folder.glob("*.png")}
    (line,) = (x for x in read(tables, "differences") if x["kind"] == "harm" and x["experiment"] == "sst2-joint-2")
    assert f"{100 * float(line['difference']):+.2f} [{100 * float(line['low']):+.2f}, " in page
    run(FOLDER / "page.py", folder)
    assert (folder / "index.md").read_text() == page


def test_the_page_in_docs_is_what_its_tables_make(tmp_path):
    folder = tmp_path / "paper"
    folder.mkdir()
    for path in COMMITTED.glob("*.csv"):
        shutil.copy(path, folder)
    run(FOLDER / "page.py", folder)
    assert (folder / "index.md").read_text() == (COMMITTED / "index.md").read_text()
    assert {path.name for path in folder.glob("*.png")} == {path.name for path in COMMITTED.glob("*.png")}


@pytest.mark.slow
def test_tables_refuse_what_is_no_runs(tmp_path):
    make = [FOLDER / "make_tables.py", tmp_path, "--output_dir", tmp_path / "tables"]
    assert "must hold finished runs" in run(*make, code=1)
    save_run(tmp_path, "sst2-mainnet", 0)
    save_run(tmp_path, "sst2-cut-3", 0, rows=(400, 499))
    assert "must have the same test rows" in run(*make, code=1)
    assert "there must be a table" in run(FOLDER / "page.py", tmp_path, code=1)
