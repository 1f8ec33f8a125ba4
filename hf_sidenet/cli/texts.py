# SPDX-License-Identifier: Apache-2.0
"""Outcomes of commands as text. Each text is made from the document that `--json` prints, and nothing else."""

from collections.abc import Mapping, Sequence
from typing import Any

from ..io.tables import after_block, aligned, interval_text


CURRENCIES = {"params": "parameters", "flops": "FLOPs", "milliseconds": "milliseconds"}
MAINNET = "MainNet"
RUNTIMES = {"onnx": "ONNX Runtime", "torch": "torch.export"}
# A table of more classes would dominate the output.
MOST_CLASSES = 20


def attach_text(document: Mapping[str, Any]) -> str:
    """Describe the outcome of [`attach`], from `report.json` with the folder and θ."""
    parts = [_verdict(document)]
    if document["verdict"] == "attach":
        parts += [_exits(document), *_guarantee(document), _certified_costs(document)]
        parts += _recalls(document["certification"]["recalls"], "certification rows, on which θ was chosen")
        parts += document["certification"]["notices"]
        if document["evaluation"] is not None:
            parts.append(_test(document["evaluation"]))
            parts += _recalls(document["evaluation"]["recalls"], "test rows")
    else:
        parts += _why_not(document)
    parts.append(rows_text(document["data"], document["classes"], document["certification"]["repeated_rows"]))
    parts.append(_seconds(document["seconds"]))
    parts.append(_folder(document["output_dir"]))
    return "\n\n".join(parts)


def recalibrate_text(document: Mapping[str, Any]) -> str:
    """Describe the outcome of [`recalibrate`]."""
    parts = [_verdict(document, "new θ")]
    if document["verdict"] == "attach":
        parts += [_exits(document), *_guarantee(document), _certified_costs(document)]
        parts += _recalls(document["certification"]["recalls"], "certification rows, on which θ was chosen")
        parts += document["certification"]["notices"]
    else:
        accuracy = f"The MainNet's accuracy on the certification rows: {_certified_accuracy(document)} %."
        parts += [
            f"Precision: {document['precision']}. {accuracy}",
            _tested(document["path"]),
            _exit_costs(document["costs"]),
        ]
    parts += _trained_in(document)
    parts.append(rows_text(document["data"], document["classes"], document["certification"]["repeated_rows"]))
    parts.append(_folder(document["output_dir"], "Nothing was changed."))
    return "\n\n".join(parts)


def _trained_in(document: Mapping[str, Any]) -> list[str]:
    """Say whether the SideNets were trained in the precision that serves."""
    if document["retrained"]:
        return [f"The SideNets were retrained in {document['precision']}."]
    # Without the runtime, whose rounding does not matter.
    trained, precision = ((document[name] or "").partition(" ")[0] for name in ("sidenet_precision", "precision"))
    if trained in ("", precision):
        return []
    return [
        f"The SideNets were trained in {trained}, but read {precision}: --retrain, with training rows, trains them "
        f"for {precision}."
    ]


def evaluate_text(document: Mapping[str, Any], tables: str, missing_reference: str | None) -> str:
    """Describe the outcome of [`evaluate_checkpoint`].

    Args:
        document (`Mapping[str, Any]`): what `--json` prints.
        tables (`str`): tables of the evaluation.
        missing_reference (`str`, *optional*): the classifier that θ was chosen against, if it is a different one.
    """
    parts = [f"{document['checkpoint']}, compared with {document['reference'] or 'the MainNet inside'}.", tables]
    if document["not_certified"] is not None:
        parts.append(f"Not certified: {document['not_certified']}.")
    if missing_reference is not None:
        parts.append(f"θ was chosen against {missing_reference}: use --reference to compare with it.")
    if document["output_dir"] is not None:
        parts.append(_folder(document["output_dir"]))
    return "\n\n".join(parts)


def _chain(document: Mapping[str, Any]) -> list[str]:
    """Say which exits add the logits of which earlier ones."""
    names = [*(each["name"] for each in document["exits"]), MAINNET]
    said = [
        f"{names[i]} adds {' + '.join(f'{weight:g} · {names[j]}' for j, weight in enumerate(weights) if weight)}"
        for i, weights in enumerate(document["chain"] or [], start=1)
        if any(weights)
    ]
    return [f"Logits of earlier exits: {'; '.join(said)}."] if said else []


def info_text(document: Mapping[str, Any]) -> str:
    """Describe a checkpoint."""
    mainnet, exits = document["mainnet"], document["exits"]
    name = "" if mainnet["name"] is None else f" ({mainnet['name']})"
    header = [
        "exit",
        "after block",
        "module",
        "pooling",
        "own params",
        "params used",
        "FLOPs used",
        "θ",
        "temperature",
    ]
    rows = [
        [
            each["name"],
            after_block(each["exit_layer"], mainnet["num_blocks"]),
            each["module"],
            each["pooling"],
            f"{each['num_params']:,}",
            f"{each['mainnet_params']:.3f}",
            f"{each['mainnet_flops']:.3f}",
            f"{each['threshold']:.6g}",
            f"{each['temperature']:.3f}",
        ]
        for each in exits
    ]
    rows.append([MAINNET, "–", "–", "–", f"{mainnet['num_params']:,}", "1", "1", "–", f"{mainnet['temperature']:.3f}"])
    parts = [
        f"{document['checkpoint']}: {document['class']}",
        f"MainNet: {mainnet['class']}{name}, {mainnet['num_params']:,} parameters, {mainnet['num_blocks']} blocks, "
        f"{mainnet['dtype']}. {_classes(mainnet['classes'])}",
        aligned(header, rows),
        "Used: fraction of the MainNet's own up to that block, SideNets not counted; FLOPs of a short example.",
        *_chain(document),
    ]
    if document["calibration"] is None:
        nobody = all(each["threshold"] >= 1 for each in exits)
        parts.append(
            "θ has no evidence behind it"
            + (", and no row exits early at θ ≥ 1." if nobody else ": it was set by hand.")
        )
    else:
        parts += _guarantee(document)
    return "\n\n".join(parts)


def exported_text(document: Mapping[str, Any]) -> str:
    """Describe an exported folder."""
    mainnet = document["mainnet"]
    header = ["exit", "after block", "pooling", "θ", "temperature"]
    rows = [
        [
            each["name"],
            after_block(each["exit_layer"], mainnet["num_blocks"]),
            each["pooling"],
            f"{each['threshold']:.6g}",
            f"{each['temperature']:.3f}",
        ]
        for each in document["exits"]
    ]
    rows.append([MAINNET, "–", "–", "–", f"{mainnet['temperature']:.3f}"])
    parts = [
        f"{document['exported']}: {len(rows)} exported stages, {document['precision']}. "
        f"{_classes(mainnet['classes'])}",
        aligned(header, rows),
        *_chain(document),
    ]
    if document["calibration"] is None:
        parts.append(
            "θ has no evidence behind it. To certify θ: hf-sidenet recalibrate DIRECTORY --checkpoint CHECKPOINT ..."
        )
    else:
        parts += _guarantee(document)
    return "\n\n".join(parts)


def export_text(document: Mapping[str, Any]) -> str:
    """Describe the outcome of `hf-sidenet export`."""
    files, precision = document["files"], document["precision"]
    table = [[name, f"{size / 1e6:.1f}"] for name, size in files.items()]
    parts = [
        f"{document['checkpoint']} for {RUNTIMES[document['format']]}, in {precision}.",
        aligned(["file", "MB"], [*table, ["total", f"{sum(files.values()) / 1e6:.1f}"]]),
        f"Largest difference from the model's own x_c and logits, on rows of noise: "
        f"{document['largest_difference']:.1e} of the largest value{' (before int8)' if precision == 'int8' else ''}.",
    ]
    if document["changed"] is not None:
        names = [*(f"SideNet {i}" for i in range(len(document["changed"]) - 1)), "MainNet"]
        shares = ", ".join(
            f"{name} {100 * share:.1f} %" for name, share in zip(names, document["changed"], strict=True)
        )
        parts.append(
            f"Share of {document['num_calibration_rows']:,} calibration rows whose class int8 changes, by exit: "
            f"{shares}."
        )
    if precision == "int8":
        chosen = document["calibrated_in"] or "another precision"
        parts.append(
            f"θ was chosen in {chosen} and has no evidence behind it in int8. To certify θ in int8: hf-sidenet "
            f"recalibrate {document['output_dir']} --checkpoint {document['checkpoint']} ..."
        )
    parts.append(f"Written to {document['output_dir']}")
    return "\n\n".join(parts)


def push_text(document: Mapping[str, Any], found: str) -> str:
    """Describe what was found in a folder and where it was pushed.

    Args:
        document (`Mapping[str, Any]`): what `--json` prints.
        found (`str`): text of [`check_shareable`].
    """
    pushed = document["pushed"]
    if pushed is None:
        why = "dry run" if not document["errors"] else "fix the errors above and run it again"
        return f"{found}\n\nNothing was uploaded: {why}."
    return (
        f"{found}\n\nPushed to {pushed['url']}\nTo pin this version: trust_remote_code=True, "
        f'revision="{pushed["commit"]}"'
    )


def rows_text(data: Mapping[str, Any], classes: Mapping[str, Any], repeated: Mapping[str, Any]) -> str:
    """Describe columns, classes, repeated rows and rows per class, from `data`, `classes` and `repeated_rows` of a
    report."""
    splits = {name: split for name, split in data.items() if isinstance(split, Mapping)}
    columns = next((split["columns"] for split in splits.values() if split.get("columns")), None)
    parts = []
    if columns is not None:
        inputs = " and ".join(map(repr, columns["inputs"]))
        unused = f" Not read: {', '.join(map(repr, columns['unused']))}." if columns["unused"] else ""
        parts.append(f"Rows are read from {inputs}, their classes from {columns['label']!r}.{unused}")
    spelled = _spelled(classes)
    shown = ", ".join(f"{name} → {index}" for index, name in list(enumerate(spelled))[:MOST_CLASSES])
    more = f", … ({len(spelled):,} in all)" if len(spelled) > MOST_CLASSES else ""
    parts.append(f"Classes are mapped {classes['how']}: {shown}{more}.")
    if classes["trusted"]:
        parts.append("They were not checked against the MainNet's answers.")
    for name, split in splits.items():
        if split.get("num_bad_rows_left_out"):
            parts.append(f"Bad {name} rows skipped: {split['num_bad_rows_left_out']:,}.")
    if repeated["num_repeated"]:
        parts.append(
            f"{repeated['num_repeated']:,} of {repeated['num_rows']:,} certification rows repeat a training or design "
            f"row ({repeated['num_repeated'] / repeated['num_rows']:.1%}; expected of fresh rows: "
            f"{repeated['expected']:.1%})."
        )
    counted = {name: split["rows_per_class"] for name, split in splits.items() if "rows_per_class" in split}
    return "\n".join([" ".join(parts), "", _counts(spelled, classes["names"], counted)])


def _guarantee(document: Mapping[str, Any]) -> list[str]:
    # Imported late: it imports torch.
    from ..report.guarantee import guarantee_summary

    return guarantee_summary(document["calibration"], document.get("not_certified"))


def _classes(names: Sequence[str]) -> str:
    return f"{len(names)} classes: {', '.join(names[:10])}{' …' if names[10:] else ''}."


def _verdict(document: Mapping[str, Any], yes: str = "attach") -> str:
    reason = document["reason"].rstrip(".")
    return f"Verdict: {yes} ({reason})." if document["verdict"] == "attach" else f"Verdict: do not attach: {reason}."


def _exits(document: Mapping[str, Any]) -> str:
    shares = document["calibration"]["certification"]["shares"]
    places = zip(document["exit_layers"], document["pooling"], document["thresholds"], strict=True)
    rows = [
        [f"SideNet {index}", after_block(layer), pooling, f"{threshold:.6g}"]
        for index, (layer, pooling, threshold) in enumerate(places)
    ]
    rows.append([MAINNET, "–", "–", "–"])
    header = ["exit", "after block", "pooling", "θ", "rows %"]
    return aligned(header, [[*row, _percent(share)] for row, share in zip(rows, shares, strict=True)])


def _certified_costs(document: Mapping[str, Any]) -> str:
    from ..measurement import ExitCosts

    found, costs = document["calibration"]["certification"], document["costs"]
    means = ", ".join(f"{text} {found[name]:.3f}" for name, text in CURRENCIES.items())
    spread = ExitCosts(**costs).spread(found["shares"])
    means += "" if spread is None else f" ({spread[0]:.3f} to {spread[1]:.3f} in {len(costs['rounds'])} rounds)"
    return (
        f"Mean cost per row on the certification rows, as a fraction of the plain MainNet's: {means}. Accuracy there: "
        f"{_percent(found['accuracy'], 2)} %, the MainNet's {_certified_accuracy(document)} %.\n"
        f"{_mainnet_costs(costs)}"
    )


def _certified_accuracy(document: Mapping[str, Any]) -> str:
    return _percent(document["certification"]["reference_accuracy"], 2)


def _recalls(recalls: Sequence[Mapping[str, Any]], which: str) -> list[str]:
    if not recalls:
        return []
    # Imported late: it takes seconds.
    from ..evaluation.recalls import recall_introduction, recall_rows, recall_warnings

    header, *rows = recall_rows(recalls)
    return [f"On the {which}. {recall_introduction(recalls)}\n\n{aligned(header, rows)}", *recall_warnings(recalls)]


def _mainnet_costs(costs: Mapping[str, Any]) -> str:
    from ..evaluation.exits import rounds_text

    threads = "1 thread" if costs["num_threads"] == 1 else f"{costs['num_threads']} threads"
    return (
        f"The plain MainNet: {costs['mainnet_params']:,} parameters, {costs['mainnet_flops'] / 1e6:.3g} MFLOP and "
        f"{costs['mainnet_milliseconds']:.3g} ms per row ({threads}, {costs['device']}{rounds_text(costs['rounds'])})."
    )


def _test(evaluation: Mapping[str, Any]) -> str:
    routed, level = evaluation["routed"], evaluation["level"]
    rows = [
        ["MainNet alone", _interval(evaluation["reference_accuracy"], 100), "0", "1", "1", "1"],
        [
            "routed at θ",
            _interval(routed["accuracy"], 100),
            _interval(routed["accuracy_drop"], 100),
            *(_interval(routed[name], 1, 3) for name in CURRENCIES),
        ],
    ]
    header = ["", "accuracy %", "drop, points", "parameters", "FLOPs", "ms"]
    return (
        f"{evaluation['num_rows']:,} test rows, with {100 * level:g} % intervals over rows:\n\n{aligned(header, rows)}"
    )


def _why_not(document: Mapping[str, Any]) -> list[str]:
    best = document["placements"][0]
    return [
        f"Best placement: {', '.join(best['exits'])} (blocks before each SideNet, pooling): expected cost "
        f"{best['expected_cost']:.3f} of the plain MainNet's, expected accuracy "
        f"{_percent(best['expected_accuracy'], 2)} %. The MainNet's accuracy on the certification rows: "
        f"{_certified_accuracy(document)} %.",
        _tested(document["path"]),
        _exit_costs(document["costs"]),
    ]


def _tested(path: Sequence[Mapping[str, Any]]) -> str:
    if not path:
        return "No point of θ was tested."
    certified = [point for point in path if point["certified"]]
    # With budgets alone, no point of the path is certified.
    shown = {"the first": path[0], "the last certified": certified[-1] if certified else None, "the last": path[-1]}
    shown = {name: point for name, point in shown.items() if point is not None}
    rows = [
        [
            name,
            "/".join(f"{threshold:.6g}" for threshold in point["thresholds"]),
            _percent(point["accuracy"], 2),
            *(f"{point[name]:.3f}" for name in CURRENCIES),
            ", ".join(f"{each['p_value']:.3g}" for each in point["risks"].values()) or "–",
        ]
        for name, point in shown.items()
    ]
    header = ["", "θ", "accuracy %", *CURRENCIES.values(), "p"]
    what = f"Points of θ looked at on the certification rows: {len(path):,}, certified: {len(certified):,}."
    return f"{what}\n\n{aligned(header, rows)}"


def _exit_costs(costs: Mapping[str, Any]) -> str:
    last = len(costs["params"]) - 1
    rows = [
        [
            f"SideNet {index}" if index < last else MAINNET,
            *(f"{costs[name][index] / costs[f'mainnet_{name}']:.3f}" for name in CURRENCIES),
        ]
        for index in range(last + 1)
    ]
    table = aligned(["answered at", *CURRENCIES.values()], rows)
    return f"Cost of an answer, SideNets included, as a fraction of the plain MainNet's:\n\n{table}\n\n" + (
        _mainnet_costs(costs)
    )


def _seconds(seconds: Mapping[str, float]) -> str:
    steps = ", ".join(f"{step} {value:.1f}" for step, value in seconds.items())
    return f"Seconds: {steps}; {sum(seconds.values()):.1f} in all."


def _folder(output_dir: str | None, nothing: str = "No checkpoint was written.") -> str:
    return nothing if output_dir is None else f"Written to {output_dir}"


def _interval(interval: Mapping[str, Any] | None, scale: float, digits: int = 2) -> str:
    ends = [None if interval is None else interval[end] for end in ("value", "low", "high")]
    return interval_text(*ends, scale=scale, digits=digits)


def _percent(fraction: float, digits: int = 1) -> str:
    return f"{100 * fraction:.{digits}f}"


def _spelled(classes: Mapping[str, Any]) -> list[str]:
    """Return the data's name of each class, with the MainNet's name in brackets if it differs."""
    found: list[list[str]] = [[] for _ in classes["names"]]
    for label, index in classes["labels"].items():
        found[index].append(label)
    return [
        name if labels in ([], [name]) else f"{' or '.join(labels)} ({name})"
        for labels, name in zip(found, classes["names"], strict=True)
    ]


def _counts(spelled: Sequence[str], names: Sequence[str], counted: Mapping[str, Sequence[int]]) -> str:
    """Return a table of rows per class or, for many classes, of the smallest and largest counts."""
    if len(names) <= MOST_CLASSES:
        header = ["rows of class", *counted]
        rows = [[spelled[i], *(f"{counts[i]:,}" for counts in counted.values())] for i in range(len(names))]
        return aligned(header, rows)
    header = ["split", "fewest rows of a class", "most", "classes without rows"]
    rows = [
        [name, f"{min(counts):,}", f"{max(counts):,}", f"{sum(count == 0 for count in counts):,}"]
        for name, counts in counted.items()
    ]
    return aligned(header, rows)
