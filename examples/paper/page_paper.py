# SPDX-License-Identifier: Apache-2.0
"""Page sections that repeat the paper's experiments. Each takes the tables and returns Markdown, or an empty text."""

from collections.abc import Mapping, Sequence
from statistics import mean

from page_text import Row, column, grouped, interval, percent, points, seeds, share, table, values
from tables_accuracy import MAX_DROP


Tables = Mapping[str, Sequence[Row]]
COSTS = ["params", "flops", "milliseconds"]
CLAIMED = 0.85
BIN_EDGES = (0.6, 0.7, 0.8, 0.85, 0.9, 0.95, 0.99)
MIN_BIN_ROWS = 30
PER_BIN = ("sst2-joint-2", "sst2-distilled-1-2-3", "resnet18-joint-1", "resnet18-distilled-1-2-3")
LARGEST_HARM = -0.003


def paper_says(tables: Tables, section: str) -> str:
    """Return the paper's own numbers for a section, in one sentence."""
    told = [
        f"{row['what']}: {row['number']} ({row['where']})"
        for row in tables["published"]
        if row["who"] == "Morisot" and row["section"] == section
    ]
    return f"In the paper: {'; '.join(told)}." if told else ""


def runs_section(tables: Tables) -> str:
    """Describe what was trained."""
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
    """Return every exit's accuracy when it answers all rows."""
    parts = [
        f"{'MainNet' if exit == 'mainnet' else f'after {exit}'}: {column(of_exit, 'accuracy', percent)}"
        for (exit,), of_exit in grouped(runs, "exit").items()
    ]
    return "; ".join(parts)


def curves_section(tables: Tables) -> str:
    """Figures 2 and 4, and the costs at a drop of half a point."""
    parts = ["## Accuracy against compute (figures 2 and 4)", paper_says(tables, "curves")]
    tasks = {row["experiment"]: row["task"] for row in tables["runs"]}
    for task, what, figure in (("text", "SST-2", "sst2-curves.png"), ("image", "CIFAR-10", "cifar10-curves.png")):
        rows = [row for row in tables["chosen"] if tasks[row["experiment"]] == task]
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
            "One θ for all SideNets in use, chosen on validation rows for at most half a point of accuracy below the "
            "MainNet's, reported on test rows. Costs are fractions of the plain MainNet's. A drop below zero is a "
            "gain. Such a θ guarantees nothing: see the guarantee below.",
            table(header, lines),
        ]
    return "\n\n".join(parts)


def aims_section(tables: Tables) -> str:
    """The goals, and whether they were reached."""
    lines = []
    for (name, size, aim, rule), runs in grouped(tables["aims"], "experiment", "num_sidenets", "aim", "rule").items():
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
                *(
                    verdict(mean(values(runs, "flops")) <= aim and mean(values(runs, key)) <= MAX_DROP)
                    if values(runs, key)
                    else "–"
                    for key in ("drop", "drop_from_without")
                ),
            ]
        )
    header = ["experiment", "SideNets (after)", "seeds", "goal", "θ chosen for", "FLOPs", "drop, points"]
    header += ["drop from the MainNet trained without", "own MainNet", "trained without"]
    return "\n\n".join(
        [
            "## Aims",
            "A share of the MainNet's FLOPs, for at most half a point of accuracy. A goal has two sides, so θ is "
            "chosen in two ways, both on validation rows: the cheapest θ within half a point, and the most accurate θ "
            "within the FLOPs; so is the set of SideNets, for each run. *Met* means that the means over seeds satisfy "
            "both sides on the test rows, with the drop from the run's own MainNet (the first verdict), or from the "
            "MainNet trained without SideNets (the second, which also includes the cost of joint training to the "
            "MainNet). Other variants (frozen, other α) are in the tables below.",
            table(header, lines),
            "The 15-bin ECE after temperature scaling. *Met*: its mean over SideNets and seeds is not above the mean "
            "upper end of the band that would contain a calibrated model's:",
            table(["experiment", "ECE, %", "upper end of the band, %", "not above it", "verdict"], _ece_lines(tables)),
        ]
    )


def _ece_lines(tables: Tables) -> list[list[str]]:
    lines = []
    for name in dict.fromkeys(row["experiment"] for row in tables["aims"]):
        rows = [
            row
            for row in tables["calibration"]
            if row["experiment"] == name and row["exit"] != "MainNet" and row["fitted"] == "with temperature"
        ]
        ends = [mean(values(rows, key)) for key in ("ece_15", "ece_15_band_high")]
        below = sum(row["ece_15"] <= row["ece_15_band_high"] for row in rows)
        lines.append([name, *map(percent, ends), f"{below} of {len(rows)}", verdict(ends[0] <= ends[1])])
    return lines


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
        "hardly fall where FLOPs do; for ResNet-18 it is the reverse, since its first stage has few parameters and "
        "does much of the work."
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
            _band(runs, "ece_8"),
            column(runs, "ece_15", percent),
            _band(runs, "ece_15"),
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
        "its band",
        "ECE 15 bins",
        "its band",
        "not above it",
        "below 0.2",
    ]
    return "\n\n".join(
        [
            "## Is the SideNet calibrated? (figure 3, table 1)",
            "![Reliability of SideNets and MainNets, texts and images](reliability.png)",
            "Expected calibration error in percent: with the paper's 8 bins over 0.2–1 (rows below 0.2 are counted in "
            "the last column) and the usual 15 bins over 0–1. The band contains the error of a perfectly calibrated "
            "model with the same confidences (95 %); temperatures are fitted on validation rows.",
            paper_says(tables, "calibration"),
            table(header, lines),
        ]
    )


def _band(runs: Sequence[Row], name: str) -> str:
    ends = [values(runs, f"{name}_band_{end}") for end in ("low", "high")]
    return "–".join(percent(mean(end)) for end in ends) if all(ends) else "–"


def theta_section(tables: Tables) -> str:
    """θ = 0.85 means at least 85 % accuracy."""
    overall, per_bin = [], []
    rows = [row for row in tables["theta"] if row["exit"] != "MainNet" and row["rows_above"]]
    for (name, exit, fitted), of_exit in grouped(rows, "experiment", "exit", "fitted").items():
        at = [row for row in of_exit if row["threshold"] == CLAIMED]
        bins = [row for row in of_exit if row["rows_just_above"] >= MIN_BIN_ROWS]
        refuted = sum(row["high_just_above"] < row["threshold"] for row in bins)
        overall.append(
            [
                name,
                exit,
                fitted,
                seeds(of_exit),
                column(at, "accuracy_above", percent),
                f"{sum(row['accuracy_above'] >= CLAIMED for row in at)} of {len(at)}",
                f"{refuted} of {len(bins)}",
            ]
        )
        if name in PER_BIN and fitted == "as trained":
            accuracies = grouped(bins, "threshold")
            cells = [column(accuracies.get((theta,), []), "accuracy_just_above", percent) for theta in BIN_EDGES]
            per_bin.append([name, exit, *cells])
    header = ["experiment", "SideNet", "logits", "seeds", f"accuracy above {CLAIMED}, %", "seeds that keep it"]
    edges = [f"{low:g}–{high:g}" for low, high in zip(BIN_EDGES, (*BIN_EDGES[1:], 1), strict=True)]
    return "\n\n".join(
        [
            '## "θ = 0.85 means at least 85 % accuracy"',
            f"Accuracy of a SideNet among the rows whose confidence is above {CLAIMED}. The claim implies more about "
            "the rows just above θ: the last column counts bins, from one θ to the next, in which even the upper end "
            "of the exact 95 % interval of the accuracy is below θ. A true claim shows at most one in forty of them, "
            f"per bin; seeds share their test rows; bins of fewer than {MIN_BIN_ROWS} rows are left out.",
            table([*header, "bins that refute it"], overall),
            "Accuracy in percent by bin of confidence, as trained; the claim holds if it is at least the lower edge:",
            table(["experiment", "SideNet", *edges], per_bin),
        ]
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
            _harm_verdict(row),
        ]
        for row in tables["differences"]
        if row["kind"] == "harm"
    ]
    header = ["experiment", "seeds", "with SideNets, %", "without, %", "difference, points [95 %]", "verdict"]
    return (
        "## Does the SideNet hurt the MainNet? (table 2)\n\n"
        "Accuracy of the MainNet trained jointly with SideNets, and trained alone with the same seed, on the same "
        "test rows. The interval is over seeds and rows; *unharmed* only if its lower end is at least −0.3 "
        f"points. {paper_says(tables, 'harm')}\n\n{table(header, lines)}\n\nA frozen MainNet is unharmed by "
        "construction: its weights are identical."
    )


def _harm_verdict(row: Row) -> str:
    if row["seeds"] == 1:
        return "one seed: open"
    return "unharmed" if row["low"] >= LARGEST_HARM else "not shown to be unharmed"


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
        "The accuracy of a SideNet when it answers every row. Several SideNets of an experiment were trained side "
        "by side: with a frozen MainNet they are independent; jointly, all affect the MainNet. Frozen and "
        "body start from the MainNets of the first experiment, joint runs from the pretrained encoder.",
        table(header, lines),
    ]
    if freezing:
        parts += [
            "The cost of freezing to a SideNet that answers every row; both have the same loss and pooling. The joint "
            f"runs train for a few epochs, the frozen SideNets until they stop. {paper_says(tables, 'freezing')}",
            table(["SideNet", "joint", "frozen", "seeds", "joint − frozen, points [95 %]"], freezing),
        ]
    return "\n\n".join(parts)


def rivals_section(tables: Tables) -> str:
    """The claim that could refute the method."""
    lines = [
        [
            row["experiment"],
            row["other"],
            str(row["num_sidenets"]),
            str(row["seeds"]),
            f"{share(row['flops'])} / {share(row['rival_flops'])}",
            _plus_minus(row, "accuracy"),
            _plus_minus(row, "other_accuracy"),
            interval(row),
            _rival_verdict(row),
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
        "truncated MiniLM keeps its first blocks, reads the mean of its tokens with a head like the SideNet's, and is "
        f"fine-tuned on its own with the same seeds.\n\n{table(header, lines)}"
    )


def _rival_verdict(row: Row) -> str:
    if row["seeds"] == 1:
        return "one seed: open"
    return "wins" if row["low"] > 0 else "loses" if row["high"] < 0 else "open"


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
        "costs the whole model, and shows whether the SideNet adds information of its own.\n\n"
        f"{table(header, lines)}"
    )
