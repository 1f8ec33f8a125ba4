# SPDX-License-Identifier: Apache-2.0
"""Model card of a checkpoint made by `attach`."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from huggingface_hub import ModelCard, ModelCardData

from ..calibration import parse_targets
from ..calibration.targets import AccuracyDrop
from ..data.limits import MODES, num_channels_of
from ..evaluation import CurvePoint, ExitEvaluation, format_thresholds, table
from ..evaluation.exits import rounds_text
from ..evaluation.recalls import recall_introduction, recall_rows, recall_warnings
from ..io.tables import after_block, markdown_table
from ..models.configuration_sidenet import REQUIRED, SideNetConfig, chain_of
from ..models.exit_rule import has_weights
from ..models.modalities import TEXT, Modality
from ..models.tasks import task_of
from .guarantee import guarantee_text, reference_name
from .metadata import CURRENCIES, describe, eval_results, hub_id, metrics


FIGURES = {
    "accuracy_cost.png": "accuracy against cost",
    "reliability.png": "reliability diagrams",
    "exit_shares.png": "share of rows answered at each exit",
    "confidences.png": "confidences of correct and wrong answers",
}
UNLABELED = (
    'These rows have no labels. The MainNet\'s answers stand in for them, so "accuracy" means agreement with it.'
)
PAPER = "[Morisot, *Add a SideNet to your MainNet*](https://arxiv.org/abs/2007.13512)"


def checkpoint_card(
    name: str,
    config: SideNetConfig,
    report: Mapping[str, Any],
    *,
    evaluation: ExitEvaluation | None = None,
    has_processor: bool = True,
    figures: Sequence[str] = (),
) -> ModelCard:
    """Write the card: what it is, how to load it, what is and is not guaranteed, what was measured, how it was made.

    Args:
        name (`str`): name of the checkpoint.
        config ([`SideNetConfig`]): config with θ, temperatures and the evidence.
        report (`Mapping[str, Any]`): report of [`attach`].
        evaluation ([`ExitEvaluation`], *optional*): evaluation on the test rows.
        has_processor (`bool`, *optional*, defaults to `True`): whether a tokenizer or image processor is saved too.
        figures (`Sequence[str]`, *optional*): names of the files in `figures/`.
    """
    kind, modality = task_of(config)
    task = kind.pipelines[modality.name]
    data = ModelCardData()
    describe(data, task=task, mainnet=report["mainnet"]["name"], model_name=name)
    which, num_rows = ("test", evaluation.num_rows) if evaluation else ("certification", _certified_on(config))
    data.eval_results = eval_results(
        _metrics(config, report, evaluation),
        task=task,
        # The user's own rows: there is no data set id.
        dataset_type="custom",
        dataset_name=f"{num_rows:,} {which} rows",
        split=which,
    )
    sections = [
        f"# {name}",
        _introduction(config, report),
        _use(name, config, has_processor),
        guarantee_text(_evidence(config), report["settings"]),
        _results(config, report, evaluation, figures),
        _costs(report),
        _making(config, report),
    ]
    return ModelCard(f"---\n{data.to_yaml()}\n---\n\n" + "\n\n".join(sections) + "\n")


def _evidence(config: SideNetConfig) -> dict[str, Any]:
    """Return the evidence behind θ, without which there is no card."""
    assert config.calibration is not None
    return config.calibration


def _certified_on(config: SideNetConfig) -> int:
    return _evidence(config)["num_certification_rows"]


def _metrics(
    config: SideNetConfig, report: Mapping[str, Any], evaluation: ExitEvaluation | None
) -> list[tuple[str, str, float]]:
    if evaluation is None:
        costs = _evidence(config)["certification"]
        routed, alone = costs["accuracy"], _reference_accuracy(config, report)
    else:
        costs = {key: getattr(evaluation.routed, key).value for key in CURRENCIES}
        routed, alone = evaluation.routed.accuracy.value, evaluation.reference_accuracy.value
    names = {f"θ = {format_thresholds(config.thresholds)}": routed, _reference_label(config, report): alone}
    return metrics(names if _has_labels(report, evaluation) else {}, costs)


def _has_labels(report: Mapping[str, Any], evaluation: ExitEvaluation | None) -> bool:
    return report["data"]["validation" if evaluation is None else "test"]["has_labels"]


def _reference_label(config: SideNetConfig, report: Mapping[str, Any]) -> str:
    evidence, settings = _evidence(config), report["settings"]
    if evidence["reference"] == "other":
        return "classifier compared with"
    if evidence["reference"] == "stored":
        return f"MainNet in {evidence['reference_precision']}"
    if settings["tune"] != "joint":
        return "MainNet alone"
    return (
        "MainNet before joint fine-tuning" if settings["reference"] == "given" else "MainNet after joint fine-tuning"
    )


def _reference_accuracy(config: SideNetConfig, report: Mapping[str, Any]) -> float | None:
    """Return the reference's accuracy on the certification rows, `None` if the report does not contain it."""
    if "certification" in report:
        return report["certification"]["reference_accuracy"]
    evidence, settings = _evidence(config), report["settings"]
    for entry in evidence["targets"]:
        if isinstance(parse_targets(entry["target"])[0], AccuracyDrop):
            return evidence["certification"]["accuracy"] + entry["estimate"]
    first = report["path"][0]
    own = settings["tune"] != "joint" or settings["reference"] == "tuned"
    inside = own and evidence["reference"] not in ("stored", "other")
    return first["accuracy"] if inside and first["shares"][-1] == 1 else None


def _introduction(config: SideNetConfig, report: Mapping[str, Any]) -> str:
    mainnet, origin = report["mainnet"], hub_id(report["mainnet"]["name"])
    named = f"`{mainnet['class']}`" + ("" if origin is None else f" [{origin}](https://huggingface.co/{origin})")
    header = ["exit", "after block", "pooling", "θ", "temperature"]
    num_blocks = len(config.block_shapes or ()) + 1
    rows = [
        [f"SideNet {i}", after_block(layer, num_blocks), pooling, f"{theta:.10g}", f"{temperature:.4g}"]
        for i, (layer, pooling, theta, temperature) in enumerate(
            zip(config.exit_layers, config.pooling, config.thresholds, config.temperatures[:-1], strict=True)
        )
    ]
    last = ["MainNet", "all", "", "", f"{config.temperatures[-1]:.4g}"]
    evidence = _evidence(config)
    joint, precision = report["settings"]["tune"] == "joint", evidence["precision"]
    retrained = evidence["sidenet_precision"] if evidence.get("retrained") else None
    given = mainnet.get("dtype", precision)
    cast = None if given == precision else given
    return "\n\n".join(
        [
            f"{named} with early exits, made with `hf_sidenet`. A **SideNet** is a small head on one of the "
            "classifier's intermediate representations. Where its confidence, the largest value of softmax(logits / "
            "temperature), is greater than its threshold θ, the row is answered there and the rest of the classifier, "
            f"the **MainNet**, does not run for it ({PAPER}). "
            + (
                "The MainNet was fine-tuned together with the SideNets."
                if joint
                else "The MainNet's own weights are unchanged."
            )
            + ("" if cast is None else f" All weights were then cast from {cast} to {precision}.")
            + ("" if retrained is None else f" The SideNets were retrained on what they read in {retrained}.")
            + _chain(config),
            markdown_table(header, [*rows, last], left=(0, 2)),
        ]
    )


def _chain(config: SideNetConfig) -> str:
    """Say which exits build on earlier ones."""
    *sidenets, mainnet = chain_of(config)
    said = ""
    if has_weights(sidenets):
        said += " A SideNet adds the logits of earlier ones to its own, with the weights `chain` in `config.json`."
    if any(mainnet):
        said += " **So does the MainNet: its answers are those of an ensemble**, also where no row exits early."
    return said


def _example(config: SideNetConfig, modality: Modality) -> tuple[list[str], str, bool]:
    """Return imports, an example input as code, and whether the processor turns it into float32."""
    if modality.name == TEXT.name:
        return [], '"a text"', False
    mode = MODES.get(num_channels_of(config))
    return ["from PIL import Image"], 'Image.open("image.png")' + (f'.convert("{mode}")' if mode else ""), True


def _use(name: str, config: SideNetConfig, has_processor: bool) -> str:
    task, modality = task_of(config)
    auto, reader = task.auto_class_name(modality), modality.processor_class_name
    variable, (imports, example, is_float) = modality.processor_name.split()[-1], _example(config, modality)
    cast = ".to(model.dtype)" if is_float and _evidence(config)["precision"] != "float32" else ""
    names = [auto, reader, "pipeline"] if has_processor else [auto]
    lines = imports if has_processor else []
    lines += [
        f"from transformers import {', '.join(sorted(names, key=lambda each: (each.islower(), each)))}",
        "",
        f"checkpoint = {json.dumps(name, ensure_ascii=False)}  # this folder, or its id on the Hub",
        f"model = {auto}.from_pretrained(checkpoint, trust_remote_code=True)",
    ]
    if has_processor:
        lines += [
            # The processor has no custom code, but it reads the config, which would prompt the user.
            f"{variable} = {reader}.from_pretrained(checkpoint, trust_remote_code=True)",
            f'inputs = {variable}({example}, return_tensors="pt"){cast}',
            "output = model(**inputs)",
            "answer, exit_index = model.config.id2label[output.logits.argmax().item()], output.exit_index.item()",
            "",
            f'classify = pipeline("{task.pipelines[modality.name]}", model=checkpoint, trust_remote_code=True)',
            f"classify({example})",
        ]
    moved = [
        "model(**inputs, thresholds=1.0)  # no row exits early: the MainNet's own answers",
        f"model(**inputs, thresholds={config.thresholds})  # one value per SideNet, here its own",
        "model.config.thresholds = 1.0  # for all later calls; also works on `classify.model`",
    ]
    without = "" if has_processor else " No tokenizer or image processor is saved with it: prepare `inputs` yourself."
    return "\n\n".join(
        [
            "## Use",
            f"It needs only {' and '.join(REQUIRED)}: its code is in this folder, hence `trust_remote_code=True`."
            f"{without} Keep the model in evaluation mode.",
            _python(lines),
            "With a larger θ fewer rows exit early; at θ = 1 none does. Statements about θ below hold only for the "
            "values above:",
            _python(moved),
        ]
    )


def _python(lines: Sequence[str]) -> str:
    return "\n".join(["```python", *lines, "```"])


def _results(
    config: SideNetConfig, report: Mapping[str, Any], evaluation: ExitEvaluation | None, figures: Sequence[str]
) -> str:
    reference = reference_name(_evidence(config), report["settings"])
    unlabeled = "" if _has_labels(report, evaluation) else f"\n\n{UNLABELED}"
    if evaluation is None:
        measured = _evidence(config)["certification"]
        alone = _reference_accuracy(config, report)
        point = CurvePoint(thresholds=config.thresholds, **measured)
        also = "" if alone is None else f" On them, {reference} has an accuracy of {100 * alone:.2f} %."
        return (
            f"## Results\n\nThere were no test rows. These are the {_certified_on(config):,} certification rows, on "
            "which θ was chosen, so they are optimistic. Costs are fractions of the plain MainNet's."
            f"{also}{unlabeled}\n\n{table([point])}{_recalls(report)}"
        )
    parts = ["## Results", f"On test rows, which were used for nothing else.{unlabeled}"]
    if report["settings"]["tune"] == "joint":
        parts.append(
            f'"MainNet alone" and the drop: {reference.rstrip(",")}. The exit "MainNet" is the one in this checkpoint.'
        )
    parts.append(evaluation.text())
    parts += [f"![{FIGURES[figure]}](figures/{figure})" for figure in figures]
    return "\n\n".join(parts)


def _recalls(report: Mapping[str, Any]) -> str:
    certification = report.get("certification", {})
    recalls, parts = certification.get("recalls"), []
    if recalls:
        header, *rows = recall_rows(recalls)
        parts = [recall_introduction(recalls), markdown_table(header, rows), *recall_warnings(recalls)]
    return "".join(f"\n\n{part}" for part in (*parts, *certification.get("notices", ())))


def _costs(report: Mapping[str, Any]) -> str:
    costs, settings = report["costs"], report["settings"]
    num_exits = len(costs["params"])
    names = [f"SideNet {i}" for i in range(num_exits - 1)] + ["MainNet, after all SideNets"]
    rows = [*zip(names, costs["params"], costs["flops"], costs["milliseconds"], strict=True)]
    rows.append(("plain MainNet", *(costs[f"mainnet_{currency}"] for currency in ("params", "flops", "milliseconds"))))
    header = ["answered at", "parameters used", "MFLOP per row", "ms per row"]
    cells = [[name, f"{params:,}", f"{flops / 1e6:.3f}", f"{ms:.4f}"] for name, params, flops, ms in rows]
    return "\n\n".join(
        [
            "## Costs",
            f"Measured on {costs['device']} in batches of {settings['batch_size']} validation rows; "
            f"{report['hardware']}. Milliseconds are for this machine, with all rows of a batch answered at one exit"
            f"{_spread(costs.get('rounds', []))}.",
            markdown_table(header, cells),
        ]
    )


def _spread(rounds: Sequence[Sequence[float]]) -> str:
    text = rounds_text(rounds)
    return f". The plain MainNet's{text.removeprefix(';')}" if text else ""


def _making(config: SideNetConfig, report: Mapping[str, Any]) -> str:
    settings, data = report["settings"], report["data"]
    evidence = _evidence(config)
    rows = [f"{data[name]['num_rows']:,} {name}" for name in ("train", "validation", "test") if name in data]
    versions = ", ".join(f"{name} {version}" for name, version in report["versions"].items())
    listed = {name: value for name, value in settings.items() if name not in ("heads", "joint")}
    lines = [
        f"- rows: {', '.join(rows)}; of the validation rows, {data['num_design_rows']:,} are design rows and "
        f"{data['num_certification_rows']:,} certification rows",
        *(f"- {name}: `{json.dumps(value, ensure_ascii=False)}`" for name, value in listed.items()),
        *(
            f"- {name}: {', '.join(f'{key} {value}' for key, value in settings[name].items())}"
            for name in ("heads", "joint")
            if settings[name] is not None
        ),
        f"- answers: {evidence['precision']} on {evidence['device']}, attention {evidence['attn_implementation']}",
        f"- seconds: {', '.join(f'{step} {seconds:.1f}' for step, seconds in report['seconds'].items())}",
        f"- versions: {versions}",
    ]
    return "\n\n".join(
        [
            "## How it was made",
            "SideNets were trained on cached features of the frozen MainNet, at all candidate places at once"
            + ("" if settings["joint"] is None else ", and the chosen ones were then trained together with it")
            + "; the design rows chose the places, temperatures and the path of θ; the certification rows chose θ. "
            "`report.json` has all numbers.",
            "\n".join(lines),
        ]
    )
