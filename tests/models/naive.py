# SPDX-License-Identifier: Apache-2.0
"""The naive way to the same answers: run every block and every exit, then choose row by row, in plain Python."""

import copy

import torch
from torch.nn.modules.batchnorm import _BatchNorm

from hf_sidenet.models.blocks import counting_flops
from hf_sidenet.models.gate import Run, run_mainnet
from hf_sidenet.models.sidenet import pool


# Rows whose confidence is this close to θ may go either way.
TIE = 1e-5


def spread_out(model, inputs):
    """Give untrained SideNets confidences that differ between rows like these, and are not all 1."""
    model.eval()
    norms = [module for module in model.sidenets.modules() if isinstance(module, _BatchNorm)]
    with torch.no_grad():
        for sidenet in model.sidenets:
            for module in sidenet.modules():
                if isinstance(module, torch.nn.Embedding):
                    module.weight.normal_(0, 1)
                    # Of n-grams that are not known.
                    module.weight[module.padding_idx or 0] = 0
                elif isinstance(module, torch.nn.Conv2d):
                    module.weight.normal_(0, 0.2)
            if hasattr(sidenet, "dense"):
                sidenet.dense.weight.normal_(0, 1)
            sidenet.out_proj.weight.normal_(0, 0.3)
            sidenet.train()
        for norm in norms:
            norm.momentum = 1.0
        model(**inputs, thresholds=1.0)
        for norm in norms:
            norm.momentum = 0.1
    return model.eval()


def blocks_of(model):
    """The blocks of a model's MainNet; one that runs several times appears as often."""
    return [model.mainnet.get_submodule(name) for name in model.layout.blocks]


def without_hooks(module):
    """A copy that no gate can touch."""
    module = copy.deepcopy(module)
    for child in module.modules():
        child._forward_pre_hooks.clear()
        child._forward_hooks.clear()
    return module


@torch.no_grad()
def every_exit(model, inputs):
    """Logits of every exit, (batch, num_exits, num_labels), from a copy of the MainNet without gates."""
    plain = without_hooks(model.mainnet)
    seen = {}
    for k, gate in enumerate(model.layout.gates, start=1):
        module = plain.get_submodule(model.layout.segments[gate.segment].module)
        # In transformers what the next block gets: DeBERTa adds a convolution to what the first one returns.
        if gate.after:
            module.register_forward_hook(
                lambda _, __, out, k=k, path=gate.leaf: seen.setdefault(k, []).append(part(out, path))
            )
        else:
            module.register_forward_pre_hook(
                lambda _, args, kwargs, k=k, path=gate.leaf: seen.setdefault(k, []).append(
                    part(kwargs if path.split(".")[0] in kwargs else {path.split(".")[0]: args[0]}, path)
                ),
                with_kwargs=True,
            )
    mainnet_logits = plain(**inputs).logits
    columns = []
    for sidenet, layer, pooling in zip(model.sidenets, model.config.exit_layers, model.config.pooling, strict=True):
        if layer == 0:
            columns.append(torch.cat([sidenet(one_row(inputs, i)) for i in range(len(mainnet_logits))]))
            continue
        gate = model.layout.gates[layer - 1]
        x_c = seen[layer][model.layout.segments[gate.segment].call or 0].permute(gate.order)
        columns.append(sidenet(pool(x_c, pooling, inputs.get("attention_mask"))))
    columns.append(mainnet_logits)
    own = list(columns)
    for i, weights in enumerate(model.config.chain or [], start=1):
        for j, weight in enumerate(weights):
            # Not where it is 0, so that the MainNet's own logits stay as they are.
            columns[i] = columns[i] + weight * own[j] if weight else columns[i]
    return torch.stack(columns, dim=1)


def part(value, path):
    """The part of nested arguments or outputs that is x_c."""
    for key in path.split(".") if path else []:
        value = value[key] if isinstance(value, dict) else value[int(key)]
    return value


def unsaved_flops(model, inputs, exit_layer):
    """Let every second row leave; the FLOPs of the MainNet beyond what `exit_points` promises for that."""
    batch_size = len(next(iter(inputs.values())))
    keep = torch.arange(0, batch_size, 2)
    point = next(each for each in model.exit_points(**inputs) if each.exit_layer == exit_layer)
    inputs = {**inputs, **without_cache(model)}
    counts = []
    for kept in (None, keep):
        run = Run(lambda index, hidden, rows, kept=kept: kept if index == exit_layer else None)
        with torch.no_grad(), counting_flops() as counter:
            run_mainnet(model.mainnet, run, **inputs, return_dict=True)
        counts.append(counter.get_total_flops())
    stay = len(keep) / batch_size
    return counts[1] / counts[0] - point.flops - point.shared_flops - (1 - point.flops - point.shared_flops) * stay


def without_cache(model):
    """What a decoder's classifier is called with."""
    return {"use_cache": False} if "use_cache" in model.mainnet_inputs else {}


def one_row(inputs, i):
    """One row of a batch, without its padding."""
    row = {name: value[i : i + 1] for name, value in inputs.items()}
    kept = row["attention_mask"][0].bool() if "attention_mask" in row else None
    return row if kept is None else {name: value[:, kept] for name, value in row.items()}


def choose(exit_logits, thresholds, temperatures=None):
    """Exit index and answer of each row, and whether a confidence was too close to θ to tell."""
    indices, rows, ties = [], [], []
    for logits in exit_logits:
        main = len(logits) - 1
        index, tie = main, False
        for i in range(main):
            temperature = 1.0 if temperatures is None else temperatures[i]
            confidence = max(torch.softmax(logits[i].double() / temperature, -1).tolist())
            tie = tie or abs(confidence - thresholds[i]) < TIE
            if confidence > thresholds[i]:
                index = i
                break
        indices.append(index)
        rows.append(logits[index])
        ties.append(tie)
    return torch.tensor(indices), torch.stack(rows), torch.tensor(ties)
