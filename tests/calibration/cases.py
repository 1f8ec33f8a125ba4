# SPDX-License-Identifier: Apache-2.0
"""Synthetic exit records whose truth is known, and real-looking ones."""

import torch

from hf_sidenet.measurement import ExitCosts, ExitRecords


def costs(num_sidenets=2):
    """Exits at equal distances; each SideNet costs a thousandth."""
    flops = [(i + 1) / (num_sidenets + 1) + 0.001 * (i + 1) for i in range(num_sidenets)] + [1 + 0.001 * num_sidenets]
    return ExitCosts(
        params=[round(1000 * cost) for cost in flops],
        flops=flops,
        milliseconds=flops,
        mainnet_params=1000,
        mainnet_flops=1.0,
        mainnet_milliseconds=1.0,
        num_threads=1,
        device="cpu",
    )


def binary(confidences, correct, labels):
    """Logits of a two-class exit with these confidences, right where `correct`."""
    gap = torch.log(confidences / (1 - confidences))
    pick = torch.where(correct, labels, 1 - labels)
    return torch.stack([torch.where(pick == 0, gap, -gap), torch.where(pick == 1, gap, -gap)], dim=1) / 2


def records(num_rows, seed=0, confident_errors=0.0, num_sidenets=2, mainnet_error=0.1):
    """SideNets that are calibrated, but for a share of rows on which they are sure and wrong."""
    generator = torch.Generator().manual_seed(seed)

    def uniform():
        return torch.rand(num_rows, generator=generator)

    labels = (uniform() < 0.5).long()
    mainnet_right = uniform() >= mainnet_error
    columns = []
    for i in range(num_sidenets):
        confidence = 0.5 + 0.499 * uniform() ** (0.7 - 0.2 * i)
        right = uniform() < confidence
        trap = uniform() < confident_errors
        confidence = torch.where(trap, 0.99 + 0.0099 * uniform(), confidence)
        columns.append(binary(confidence, right & ~trap, labels))
    mainnet = binary(0.6 + 0.39 * uniform(), mainnet_right, labels)
    return ExitRecords(torch.stack([*columns, mainnet], dim=1), labels, mainnet.clone())
