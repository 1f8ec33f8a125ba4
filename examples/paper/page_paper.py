# SPDX-License-Identifier: Apache-2.0
"""Sections of the page that repeat the paper's experiments. Each takes the tables and gives Markdown, or nothing."""

from collections.abc import Mapping, Sequence
from statistics import mean

from page_text import Row, column, grouped, interval, percent, points, seeds, share, table, values


Tables = Mapping[str, Sequence[Row]]
COSTS = ["params", "flops", "milliseconds"]
MAX_DROP = 0.005
LARGEST_HARM = -0.003


def runs_section(tables: Tables) -> str:
    """What was trained."""
    rows = [
        [
            name,
            group,
            seeds(runs),
            epochs or "–",
            f"{runs[0]['train_rows']:,}",
            f"{runs[0]['test_rows']:,}",
            alone(runs),
        ]
        for (name, group, epochs), runs in grouped(tables["runs"], "experiment", "group", "epochs").items()
    ]
    header = ["experiment", "kind", "seeds", "epochs", "train rows", "test rows", "each exit alone, accuracy %"]
    commits = ", ".join(sorted({row["commit"] for row in tables["runs"]}))
    hardware = "; ".join(sorted({row["hardware"] for row in tables["runs"]}))
    return (
        "## What was trained\n\n"
        f"{table(header, rows)}\n\nMean ± standard deviation over seeds. Trained at commit {commits} on {hardware}."
    )


def alone(runs: Sequence[Row]) -> str:
    """Every exit's accuracy when it answers all rows."""
    parts = [
        f"{'MainNet' if exit == 'mainnet' else f'after {exit}'}: {column(of_exit, 'accuracy', percent)}"
        for (exit,), of_exit in grouped(runs, "exit").items()
    ]
    return "; ".join(parts)


def curves_section(tables: Tables) -> str:
    """Figures 2 and 4, and the costs at half a point."""
    parts = ["## Accuracy against compute (figures 2 and 4)"]
    for prefix, what, figure in (
        ("sst2", "SST-2, MiniLM-L6", "sst2-curves.png"),
        ("resnet", "CIFAR-10, ResNets from scratch", "cifar10-curves.png"),
    ):
        rows = [row for row in tables["chosen"] if row["experiment"].startswith(prefix)]
        if not rows:
            continue
        lines = [
            [
                name,
                exits,
                seeds(runs),
                column(runs, "threshold", lambda value: f"{value:.2f}"),
                column(runs, "mainnet_accuracy", percent),
                column(runs, "drop", points),
                *(column(runs, cost) for cost in COSTS),
            ]
            for (name, exits), runs in grouped(rows, "experiment", "exits").items()
        ]
        header = ["experiment", "SideNets", "seeds", "θ", "MainNet %", "drop, points", "params", "FLOPs", "ms"]
        parts += [
            f"### {what}",
            f"![{what}: accuracy against parameters, FLOPs and milliseconds]({figure})",
            "One θ for all SideNets in use, chosen on validation rows for at most half a point of accuracy under the "
            "MainNet's, reported on test rows. Costs are fractions of the plain MainNet's. A drop below zero is a "
            "gain. Such a θ promises nothing: see the guarantee below.",
            table(header, lines),
        ]
    return "\n\n".join(parts)


def aims_section(tables: Tables) -> str:
    """What was aimed at, and whether it was reached."""
    lines = []
    for (name, size, aim, rule), runs in grouped(tables["aims"], "experiment", "num_sidenets", "aim", "rule").items():
        met = mean(values(runs, "flops")) <= aim and mean(values(runs, "drop")) <= MAX_DROP
        sets = sorted({row["exits"].removeprefix("after ") for row in runs})
        lines.append(
            [
                name,
                f"{size} ({', '.join(sets)})",
                seeds(runs),
                f"≤ {aim:.2f}",
                rule,
                column(runs, "flops"),
                column(runs, "drop", points),
                column(runs, "drop_from_without", points),
                verdict(met),
            ]
        )
    header = ["experiment", "SideNets (after)", "seeds", "aim", "θ chosen for", "FLOPs", "drop, points"]
    header += ["drop from the MainNet trained without", "verdict"]
    inside = [
        [name, f"{sum(within)} of {len(within)} SideNets", verdict(all(within))]
        for name, within in (
            (
                name,
                [
                    row["ece_15"] <= row["ece_15_band_high"]
                    for row in tables["calibration"]
                    if row["experiment"] == name and row["exit"] != "MainNet" and row["fitted"] == "with temperature"
                ],
            )
            for name in dict.fromkeys(row["experiment"] for row in tables["aims"])
        )
    ]
    return "\n\n".join(
        [
            "## Aims",
            "A share of the MainNet's FLOPs, for at most half a point of accuracy. An aim has two sides, so θ is "
            "chosen in two ways, both on validation rows: the cheapest θ within half a point, and the most accurate θ "
            "within the FLOPs; so is the set of SideNets, for each run. *Met* means that the means over seeds keep "
            "both sides on the test rows.",
            table(header, lines),
            "The 15-bin ECE after temperature, inside the band of a calibrated model:",
            table(["experiment", "inside", "verdict"], inside),
        ]
    )


def verdict(met: bool) -> str:
    return "met" if met else "missed"


def parameters_section(tables: Tables) -> str:
    """The paper's headline, in all three currencies."""
    lines = []
    for (name, exits), runs in grouped(tables["chosen"], "experiment", "exits").items():
        if name in ("sst2-joint-2", "resnet18-joint-1"):
            drop = column(runs, "drop", points)
            lines.append([name, exits, drop, *(column(runs, cost) for cost in COSTS)])
    return (
        '## "−30 % parameters for −0.5 %"\n\n'
        f"{table(['experiment', 'SideNet', 'drop, points', 'params', 'FLOPs', 'ms'], lines)}\n\n"
        "The paper counts parameters. Half of MiniLM's are word embeddings, which every row uses, so parameters "
        "hardly fall where FLOPs do; ResNet-18 is the other way round, since its first stage holds few parameters and "
        "much of the work."
    )


def calibration_section(tables: Tables) -> str:
    """Figure 3 and table 1."""
    lines = [
        [
            name,
            exit,
            fitted,
            seeds(runs),
            column(runs, "ece_8", percent),
            column(runs, "ece_15", percent),
            f"{percent(mean(values(runs, 'ece_15_band_low')))}–{percent(mean(values(runs, 'ece_15_band_high')))}",
            f"{sum(row['ece_15'] <= row['ece_15_band_high'] for row in runs)} of {len(runs)}",
            str(sum(row["below_paper_bins"] for row in runs)),
        ]
        for (name, exit, fitted), runs in grouped(tables["calibration"], "experiment", "exit", "fitted").items()
    ]
    header = [
        "experiment",
        "exit",
        "logits",
        "seeds",
        "ECE 8 bins",
        "ECE 15 bins",
        "calibrated band",
        "inside",
        "below 0.2",
    ]
    return "\n\n".join(
        [
            "## Is the SideNet calibrated? (figure 3, table 1)",
            "![Reliability of SideNets and MainNets, texts and images](reliability.png)",
            "Expected calibration error in percent: with the paper's 8 bins over 0.2–1 (rows below 0.2 are counted in "
            "the last column) and the usual 15 bins over 0–1. The band is where the 15-bin error of a perfectly "
            "calibrated model with the same confidences would lie (95 %); temperatures are fitted on validation rows.",
            table(header, lines),
        ]
    )


def theta_section(tables: Tables) -> str:
    """θ = 0.85 means at least 85 % accuracy."""
    lines = []
    rows = [row for row in tables["theta"] if row["exit"] != "MainNet" and row["rows_above"]]
    for (name, fitted), all_rows in grouped(rows, "experiment", "fitted").items():
        at = [row for row in all_rows if row["threshold"] == 0.85]
        bins = [row for row in all_rows if row["rows_just_above"]]
        lines.append(
            [
                name,
                fitted,
                column(at, "accuracy_above", percent),
                f"{sum(row['accuracy_above'] >= 0.85 for row in at)} of {len(at)}",
                f"{sum(row['high_just_above'] < row['threshold'] for row in bins)} of {len(bins)}",
            ]
        )
    header = ["experiment", "logits", "accuracy above 0.85, %", "≥ 85 %", "bins that refute it"]
    return (
        '## "θ = 0.85 means at least 85 % accuracy"\n\n'
        "Accuracy of a SideNet among the rows whose confidence is above 0.85, over SideNets and seeds. The claim is "
        "stronger for the rows just above θ: the last column counts bins, from one θ of 0.6, 0.7, 0.8, 0.85, 0.9, "
        "0.95, 0.99 to the next, in which even the upper end of the exact 95 % interval of the accuracy is below θ; "
        f"a true claim would show about one in forty.\n\n{table(header, lines)}"
    )


def harm_section(tables: Tables) -> str:
    """Table 2."""
    lines = [
        [
            row["experiment"],
            str(row["seeds"]),
            _plus_minus(row, "accuracy"),
            _plus_minus(row, "other_accuracy"),
            interval(row),
            "unharmed" if row["low"] >= LARGEST_HARM else "not shown to be unharmed",
        ]
        for row in tables["differences"]
        if row["kind"] == "harm"
    ]
    header = ["experiment", "seeds", "with SideNets, %", "without, %", "difference, points [95 %]", "verdict"]
    return (
        "## Does the SideNet hurt the MainNet? (table 2)\n\n"
        "Accuracy of the MainNet trained jointly with SideNets, and trained alone with the same seed, on the same "
        "test rows. The interval is over seeds and rows; *unharmed* only where its lower end is at least −0.3 "
        f"points.\n\n{table(header, lines)}\n\nA frozen MainNet is unharmed by construction: its weights are the same "
        "bits."
    )


def _plus_minus(row: Row, key: str) -> str:
    std = row[f"{key}_std"]
    return percent(row[key]) + ("" if std is None else f" ± {percent(std)}")


def modes_section(tables: Tables) -> str:
    """Sections 3 and 4: how SideNets are trained."""
    wanted = {
        "frozen": "frozen",
        "body": "body frozen, last layer trained",
        "joint": "joint",
        "distilled": "joint, distilled",
        "paper": "joint, the paper's flattened x_c and MLP head",
    }
    rows = [row for row in tables["runs"] if row["group"] in wanted and row["exit"] != "mainnet"]
    mainnets = {
        key: column(of, "accuracy", percent)
        for key, of in grouped((row for row in tables["runs"] if row["exit"] == "mainnet"), "experiment").items()
    }
    lines = [
        [name, wanted[group], f"after {exit}", seeds(runs), column(runs, "accuracy", percent), mainnets[(name,)]]
        for (name, group, exit), runs in grouped(rows, "experiment", "group", "exit").items()
    ]
    header = ["experiment", "training", "SideNet", "seeds", "SideNet alone %", "its MainNet %"]
    freezing = [
        [row["what"].split(",")[0], row["experiment"], row["other"], str(row["seeds"]), interval(row)]
        for row in tables["differences"]
        if row["kind"] == "freezing"
    ]
    parts = [
        "## Frozen, body, joint; several SideNets\n\n"
        "How often a SideNet is right when it answers every row. Several SideNets of an experiment were trained side "
        "by side: with a frozen MainNet nothing of one reaches another; jointly, all shape the MainNet.",
        table(header, lines),
    ]
    if freezing:
        parts += [
            "What freezing costs a SideNet that answers every row (the paper: about 3 %):",
            table(["SideNet", "joint", "frozen", "seeds", "joint − frozen, points [95 %]"], freezing),
        ]
    return "\n\n".join(parts)


def rivals_section(tables: Tables) -> str:
    """The claim that could refute the method."""
    lines = [
        [
            row["experiment"],
            row["other"],
            row["what"].split(" of")[0],
            str(row["seeds"]),
            f"{share(row['flops'])} / {share(row['rival_flops'])}",
            _plus_minus(row, "accuracy"),
            _plus_minus(row, "other_accuracy"),
            interval(row),
            "wins" if row["low"] > 0 else "loses" if row["high"] < 0 else "open",
        ]
        for row in tables["rivals"]
    ]
    header = [
        "with SideNets",
        "smaller plain model",
        "SideNets in use",
        "seeds",
        "FLOPs, both",
        "accuracy %",
        "the rival's %",
        "difference, points [95 %]",
        "the SideNet",
    ]
    return (
        '## A SideNet on a large model against a smaller model ("BERT-large at 200 M parameters beats BERT-base")\n\n'
        "θ and the set of SideNets are chosen on validation rows for the best accuracy within the rival's FLOPs. The "
        "cut MiniLM keeps its first blocks, reads the mean of its tokens with a head like the SideNet's, and is "
        f"fine-tuned by itself with the same seeds.\n\n{table(header, lines)}"
    )


def ensemble_section(tables: Tables) -> str:
    """The remark on ensembling."""
    lines = [
        [row["experiment"], row["what"].split(" and")[0], str(row["seeds"]), percent(row["accuracy"]), interval(row)]
        for row in tables["differences"]
        if row["kind"] == "ensemble"
    ]
    header = ["experiment", "with the MainNet", "seeds", "both %", "both − MainNet, points [95 %]"]
    return (
        "## SideNet and MainNet together\n\nMean of both probabilities, each with its temperature, for every row: it "
        f"costs the whole model, and asks whether the SideNet knows something of its own.\n\n{table(header, lines)}"
    )
