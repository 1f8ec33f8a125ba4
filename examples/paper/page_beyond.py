# SPDX-License-Identifier: Apache-2.0
"""Page sections beyond the paper: its open questions, other policies, the guarantee, published numbers."""

from collections.abc import Mapping, Sequence
from math import sqrt
from statistics import mean

from page_paper import paper_says
from page_text import Row, column, grouped, percent, points, seeds, share, spread, table, values
from tables_beyond import DESIGN_SHARE, LIMIT, NUM_SPLITS


Tables = Mapping[str, Sequence[Row]]


def policies_section(tables: Tables) -> str:
    """Compare exit policies at equal cost."""
    lines = []
    for (name, kind, _), rows in _equal_costs(tables["policies"]).items():
        by_policy = {policy: of for (policy,), of in grouped(rows, "policy").items()}
        lines.append(
            [
                name,
                seeds(rows),
                f"{mean(values(rows, 'budget')):.2f}" + ("" if kind == "budget" else f" ({kind})"),
                *(_at_cost(by_policy.get(policy)) for policy in ("max_softmax", "margin", "entropy", "patience")),
            ]
        )
    header = ["experiment", "seeds", "FLOPs at most", "max-softmax %", "margin %", "entropy %", "patience %"]
    return (
        "## Other exit policies on the same logits\n\n![Exit policies at equal cost](policies.png)\n\n"
        "Test accuracy, and the FLOPs it took; each policy's setting is the one that is most accurate on validation "
        "rows within the budget. With two classes, max-softmax, margin and entropy rank rows identically, so they "
        "differ at most by their grid of settings. Patience (so many consecutive exits agree) has no continuous "
        f"setting, so its own costs are also budgets.\n\n{table(header, lines)}"
    )


def _at_cost(rows: Sequence[Row] | None) -> str:
    if not rows:
        return "–"
    return f"{column(rows, 'accuracy', percent)} at {share(mean(values(rows, 'flops')))}"


def _equal_costs(rows: Sequence[Row]) -> dict[tuple, list[Row]]:
    """Group rows by experiment and budget; the cost of a patience setting differs slightly between seeds."""
    groups: dict[tuple, list[Row]] = {}
    for row in rows:
        budget = row["budget"] if row["kind"] == "budget" else None
        groups.setdefault((row["experiment"], row["kind"], budget), []).append(row)
    return groups


def guarantee_section(tables: Tables) -> str:
    """Compare a guaranteed θ with a naive θ."""
    lines = []
    for (name, method), rows in grouped(tables["guarantee"], "experiment", "method").items():
        missed = [row["drop"] > row["limit"] for row in rows]
        lines.append(
            [
                name,
                method,
                f"{len(rows)} ({seeds(rows)} seeds)",
                column(rows, "drop", points),
                f"{100 * max(values(rows, 'drop')):+.2f}",
                f"{sum(missed)} of {len(missed)}",
                f"{sum(_clearly_above(row) for row in rows)} of {len(rows)}",
                column(rows, "flops"),
                str(sum(row["refused"] for row in rows)),
            ]
        )
    header = [
        "experiment",
        "θ",
        "choices",
        "drop, points",
        "largest",
        "above the limit",
        "clearly above",
        "FLOPs",
        "refused",
    ]
    return (
        f"## A guaranteed θ compared with a naive one\n\nAt most {LIMIT:.0%} of the rows lost. Naive: the "
        "cheapest θ whose drop on all validation rows is within it. Guaranteed: Learn-then-Test at a confidence level "
        f"of 0.95 on {1 - DESIGN_SHARE:.0%} of the validation rows, over {NUM_SPLITS} random splits. The guarantee is "
        "about the distribution the rows come from, and test rows are a sample of it: *clearly above* counts the "
        "choices whose drop there is above the limit at a level of 0.05. Splits of a run share most of their rows, so "
        "they miss together. Where no θ is certified, the plain MainNet runs. Independent draws are on [a separate "
        f"page](../guarantee.md).\n\n{table(header, lines)}"
    )


def _clearly_above(row: Row) -> bool:
    """Return whether these test rows refute the guarantee, at level 0.05."""
    return row["drop"] - 1.645 * row["standard_error"] > row["limit"]


def compression_section(tables: Tables) -> str:
    """Do the savings multiply?"""
    lines = [
        [
            row["version"],
            percent(row["plain_accuracy"]),
            percent(row["routed_accuracy"]),
            f"{100 * row['accuracy_drop']:+.2f}",
            share(row["flops_routed"]),
            *(f"{row[key]:.2f}" for key in ("speedup_plain", "speedup_sidenet", "speedup_both", "product_of_parts")),
            f"{row['multiplies']:.2f}",
        ]
        for row in tables["compression"]
    ]
    header = [
        "version",
        "whole %",
        "with exits %",
        "drop from float32, points",
        "FLOPs, of this version",
        "compression ×",
        "exits ×",
        "both ×",
        "float32 exits × compression",
        "both / product",
    ]
    return (
        "## Open question: do SideNets and compression multiply?\n\nOne trained model in several versions; θ is "
        "chosen for each on validation rows, for at most half a point below that version's own whole model. × is the "
        "plain float32 model's time divided by the version's, on the same rows in one run with one thread; 1 in the "
        f"last column means that the savings multiply.\n\n{table(header, lines)}"
    )


def attack_section(tables: Tables) -> str:
    """FGSM, PGD and an attack that only delays exits."""
    lines = [
        [
            row["attack"],
            row["aim"],
            f"{row['epsilon']:g}",
            percent(row["sidenet_accuracy"]),
            percent(row["mainnet_accuracy"]),
            percent(row["routed_accuracy"]),
            f"{100 * row['share_early']:.1f}",
            share(row["flops"]),
        ]
        for row in tables["attack"]
    ]
    header = ["attack", "aimed at", "ε / 255", "SideNet %", "MainNet %", "routed %", "exit early %", "FLOPs"]
    rows = tables["attack"][0]["rows"]
    return (
        "## Open question: attacks\n\n![Accuracy and exits under attack](attack.png)\n\n"
        f"The first {rows:,} test rows of CIFAR-10, one ResNet-18 with a SideNet, θ chosen on clean validation rows. "
        "FGSM (arXiv 1412.6572) and PGD (arXiv 1706.06083) within an L∞ ball, aimed at the SideNet's loss, the "
        "MainNet's or both; *delay* raises the SideNets' entropy without using labels, so that rows do not exit early "
        "(like DeepSloth, arXiv 2010.02432). One run, attacked once: a share has a margin of error of "
        f"± {196 * sqrt(0.25 / rows):.0f} points. No model was trained against attacks.\n\n{table(header, lines)}"
    )


def full_size_section(tables: Tables) -> str:
    """The paper's own models, only their costs."""
    lines = [
        [
            row["model"],
            f"{row['exit_layer']} of {row['num_blocks']}",
            row["pooling"],
            f"{row['mainnet_params'] / 1e6:.1f} M",
            f"{row['mainnet_mflops']:,.0f}",
            f"{100 * row['overhead']:.3f}",
            share(row["params_at_exit"]),
            share(row["flops_at_exit"]),
            share(row["milliseconds_at_exit"]),
        ]
        for row in tables["full_size"]
    ]
    header = [
        "model",
        "exit after",
        "x_c",
        "parameters",
        "MFLOP per row",
        "SideNet adds, %",
        "params at the exit",
        "FLOPs",
        "ms",
    ]
    return (
        "## The paper's models: overhead and axes\n\nRandom weights, so only costs: the cost of an answer at the "
        "SideNet as a fraction of the plain MainNet's, for short texts and CIFAR's pictures. A flattened feature map "
        f"makes a SideNet much larger than a token or a mean. {paper_says(tables, 'overhead')}\n\n"
        f"{table(header, lines)}"
    )


def published_section(tables: Tables) -> str:
    """Published numbers of others."""
    lines = [
        [row["who"], row["what"], row["number"], f"{row['where']} ({row['read']})"]
        for row in tables["published"]
        if row["section"] is None
    ]
    ours = spread(
        [
            row["flops"]
            for row in tables["chosen"]
            if row["experiment"] == "sst2-distilled-1-2-3" and row["num_sidenets"] == 3
        ],
        share,
    )
    return (
        "## Published numbers, for orientation\n\nData, splits, models and machines differ in every line, so none of "
        "these can be compared with ours directly; 'second hand' means that we took the number from notes on the "
        f"source. Our closest result: three distilled SideNets on MiniLM-L6 use {ours} of its FLOPs at half a point "
        f"on SST-2.\n\n{table(['who', 'what', 'number', 'where'], lines)}"
    )
