# SPDX-License-Identifier: Apache-2.0
"""Is a model with SideNets more robust to adversarial examples? The open question of Morisot, arXiv 2007.13512, §5.

Test images are changed by at most ε/255 per pixel, with full knowledge of the model: to mislead the first SideNet, the
MainNet, or all exits together ("both"), with one step (FGSM) or several (PGD); and, like DeepSloth (Hong et al.,
arXiv 2010.02432), to make the SideNets unconfident, so that no row exits early ("delay"). θ is chosen on clean
validation rows.

usage: attack.py RUN_FOLDER --config configs/cpu/resnet18-joint-1.yaml [--rows 1000] [--epsilons 1 2 4 8] [--steps 10]
           [--batch_size 100] [--max_accuracy_drop 0.005] [--output_dir docs/results/paper] [--seed 0]
"""

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from csv_tables import write_table
from experiments import load_experiment
from found import load_run
from perturb import Normalization, doubt, fgsm, pgd, wrongness
from record import load_model
from rows import rows_of
from torch.utils.data import DataLoader, Subset
from transformers.utils import logging

from hf_sidenet.data import load_processor
from hf_sidenet.data.rows import Rows
from hf_sidenet.evaluation import DEFAULT_THRESHOLDS, cheapest
from hf_sidenet.measurement import ExitCosts, ExitRecords, accuracy, replay
from hf_sidenet.models.exit_rule import answers
from hf_sidenet.models.modalities import IMAGE
from hf_sidenet.models.modeling_base import SideNetPreTrainedModel


TABLE = "attack"
NONE, FGSM, PGD, DELAY = "none", "FGSM", "PGD", "delay"
# Which exits an attack reads.
AIMS = {"SideNet": slice(0, 1), "MainNet": slice(-1, None), "both": slice(None)}
SIDENETS = slice(None, -1)


@dataclass(frozen=True)
class Attack:
    """One line of the table.

    Args:
        name (`str`): `"none"` for clean rows, `"FGSM"`, `"PGD"` or `"delay"`.
        aim (`str`): one of `AIMS`; `"SideNets"` for delay, which targets all of them; `"none"` for clean rows.
        epsilon (`float`): the maximum change of a pixel, in 1/255 of its range.
        steps (`int`): number of gradient steps.
    """

    name: str
    aim: str
    epsilon: float
    steps: int

    def __call__(
        self, model: SideNetPreTrainedModel, normalization: Normalization, batch: dict, generator: torch.Generator
    ) -> torch.Tensor:
        """Return the logits of every exit, of shape `(batch, num_exits, num_labels)`, on the attacked rows.

        Args:
            model ([`SideNetPreTrainedModel`]): in evaluation mode.
            normalization ([`Normalization`]): of its processor.
            batch (`dict[str, torch.Tensor]`): `pixel_values` and `labels`, on the model's device.
            generator (`torch.Generator`): for the random starts.
        """

        def logits_of(pixels):
            return model(pixel_values=normalization.values(pixels), thresholds=1.0).exit_logits

        def objective(pixels):
            if self.name == DELAY:
                return doubt(logits_of(pixels)[:, SIDENETS], model.config.temperatures[SIDENETS])
            return wrongness(logits_of(pixels)[:, AIMS[self.aim]], batch["labels"])

        pixels = normalization.pixels(batch["pixel_values"])
        if self.name == FGSM:
            pixels = fgsm(objective, pixels, self.epsilon / 255)
        elif self.name != NONE:
            pixels = pgd(objective, pixels, self.epsilon / 255, self.steps, generator)
        with torch.no_grad():
            return logits_of(pixels).cpu()


def attacks_of(epsilons: list[float], steps: int) -> list[Attack]:
    """Return every line of the table, clean rows first."""
    attacks = [Attack(NONE, NONE, 0.0, 0)]
    for epsilon in dict.fromkeys(epsilons):
        attacks += [Attack(FGSM, aim, epsilon, 1) for aim in AIMS]
        attacks += [Attack(PGD, aim, epsilon, steps) for aim in AIMS]
        attacks.append(Attack(DELAY, "SideNets", epsilon, steps))
    return attacks


def attacked_records(
    model: SideNetPreTrainedModel,
    normalization: Normalization,
    rows: Rows,
    attacks: list[Attack],
    num_rows: int,
    batch_size: int,
    seed: int,
) -> list[ExitRecords]:
    """Record every exit's answers to the first rows under each attack.

    Args:
        model ([`SideNetPreTrainedModel`]): in evaluation mode; is not changed.
        normalization ([`Normalization`]): of its processor.
        rows ([`Rows`]): labeled images.
        attacks (`list[Attack]`): from [`attacks_of`].
        num_rows (`int`): number of rows, or fewer if there are not that many.
        batch_size (`int`): of the forward calls.
        seed (`int`): for the random starts; each attack has its own, whatever the other attacks.
    """
    first = Subset(rows.dataset, range(min(num_rows, len(rows))))
    loader = DataLoader(first, batch_size, collate_fn=rows.collate_fn)
    generators = [torch.Generator().manual_seed(seed) for _ in attacks]
    found, labels = [[] for _ in attacks], []
    with logging.tqdm(total=len(loader) * len(attacks), desc="Attacking") as progress:
        for batch in loader:
            labels.append(batch["labels"])
            batch = {name: values.to(model.device) for name, values in batch.items()}
            for attack, generator, logits in zip(attacks, generators, found, strict=True):
                logits.append(attack(model, normalization, batch, generator))
                progress.update()
    exit_logits, labels = [torch.cat(logits) for logits in found], torch.cat(labels)
    return [ExitRecords(each, labels, mainnet_logits=each[:, -1]) for each in exit_logits]


def choose_threshold(
    validation: ExitRecords, costs: ExitCosts, temperatures: list[float], max_accuracy_drop: float
) -> float:
    """Return the cheapest θ for all SideNets within an accuracy drop on clean rows, at the given temperatures."""
    return cheapest(validation, costs, DEFAULT_THRESHOLDS, max_accuracy_drop, temperatures)


def line_of(
    attack: Attack, records: ExitRecords, costs: ExitCosts, threshold: float, temperatures: list[float]
) -> dict[str, Any]:
    """Return a line of the table; all values are fractions."""
    exit_index = replay(records.exit_logits, threshold, temperatures)
    return {
        "attack": attack.name,
        "aim": attack.aim,
        "epsilon": attack.epsilon,
        "steps": attack.steps,
        "rows": len(records),
        "sidenet_accuracy": accuracy(records.exit_logits[:, 0], records.labels),
        "mainnet_accuracy": accuracy(records.mainnet_logits, records.labels),
        "routed_accuracy": accuracy(answers(records.exit_logits, exit_index), records.labels),
        "share_early": (exit_index < records.num_exits - 1).double().mean().item(),
        "flops": costs.average(exit_index, "flops"),
        "threshold": threshold,
    }


def table_of(args: argparse.Namespace) -> list[dict[str, Any]]:
    """Return all lines.

    Raises:
        ValueError: an argument is invalid, the experiment is on texts, or the folder has no run of it.
    """
    _check(args)
    experiment = load_experiment(args.config)
    if experiment.modality.has_tokens:
        raise ValueError(f"`config` must be an experiment on images, got {experiment.name!r} on texts.")
    run = load_run(args.run_folder, experiment.name)
    rows = rows_of(experiment, run.about["arguments"], args.run_folder)
    if "test" not in rows:
        raise ValueError(f"{args.run_folder} must be a run with test rows, got {sorted(rows)}.")
    normalization = Normalization.of(load_processor(str(args.run_folder), modality=IMAGE))
    model, costs = load_model(experiment, args.run_folder), run.costs
    temperatures = model.config.temperatures
    threshold = choose_threshold(run.validation, costs, temperatures, args.max_accuracy_drop)
    attacks = attacks_of(args.epsilons, args.steps)
    each = attacked_records(model, normalization, rows["test"], attacks, args.rows, args.batch_size, args.seed)
    pairs = zip(attacks, each, strict=True)
    return [line_of(attack, records, costs, threshold, temperatures) for attack, records in pairs]


def _check(args: argparse.Namespace) -> None:
    for name, least in (("rows", 1), ("steps", 1), ("batch_size", 1), ("seed", 0)):
        if getattr(args, name) < least:
            raise ValueError(f"`{name}` must be ≥ {least}, got {getattr(args, name)}.")
    for epsilon in args.epsilons:
        if not 0 < epsilon <= 255:
            raise ValueError(f"`epsilons` must be > 0 and ≤ 255, got {epsilon:g}.")
    if not 0 <= args.max_accuracy_drop <= 1:
        raise ValueError(f"`max_accuracy_drop` must be in [0, 1], got {args.max_accuracy_drop:g}.")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run_folder", type=Path, help="of train.py")
    parser.add_argument("--config", type=Path, required=True, help="its file under configs/")
    parser.add_argument("--rows", type=int, default=1000, help="number of rows, from the start of the test split")
    parser.add_argument("--epsilons", nargs="+", type=float, default=[1.0, 2.0, 4.0, 8.0], help="in 1/255")
    parser.add_argument("--steps", type=int, default=10, help="steps of PGD and delay")
    parser.add_argument("--batch_size", type=int, default=100)
    parser.add_argument("--max_accuracy_drop", type=float, default=0.005, help="on validation rows, to choose θ")
    parser.add_argument("--output_dir", type=Path, default=Path("docs/results/paper"))
    parser.add_argument("--seed", type=int, default=0, help="for the random starts")
    args = parser.parse_args()
    try:
        write_table(args.output_dir, TABLE, table_of(args))
    except ValueError as error:
        parser.exit(1, f"{parser.prog}: error: {error}\n")
    print(f"{args.output_dir / TABLE}.csv")


if __name__ == "__main__":
    main()
