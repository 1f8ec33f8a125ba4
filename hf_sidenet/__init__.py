# SPDX-License-Identifier: Apache-2.0
"""Early exits for Hugging Face classifiers: "Add a SideNet to your MainNet" (Morisot, arXiv 2007.13512).

Importing this package imports neither torch nor transformers: names are imported on first use. The Auto classes of
transformers still know SideNets from here on, see `auto_classes`.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from . import auto_classes


if TYPE_CHECKING:
    from .attaching.attach import attach
    from .attaching.checkpoint import evaluate_checkpoint, load_checkpoint, recalibrate
    from .hub import check_shareable
    from .inference import SideNetRunner
    from .measurement import ExitRecords, collect
    from .models import *
    from .training import compute_exit_metrics


__version__ = "0.2.0"

__all__ = [
    "BertWithSideNetForSequenceClassification",
    "CamembertWithSideNetForSequenceClassification",
    "ConvNextV2WithSideNetForImageClassification",
    "ConvNextWithSideNetForImageClassification",
    "DebertaV2WithSideNetForSequenceClassification",
    "DeiTWithSideNetForImageClassification",
    "Dinov2WithSideNetForImageClassification",
    "DistilBertWithSideNetForSequenceClassification",
    "ElectraWithSideNetForSequenceClassification",
    "ExitRecords",
    "MPNetWithSideNetForSequenceClassification",
    "ModernBertWithSideNetForSequenceClassification",
    "RegNetWithSideNetForImageClassification",
    "ResNetWithSideNetForImageClassification",
    "RobertaWithSideNetForSequenceClassification",
    "SideNetConfig",
    "SideNetForImageClassification",
    "SideNetForSequenceClassification",
    "SideNetOutput",
    "SideNetRunner",
    "SwinWithSideNetForImageClassification",
    "TimmWithSideNetForImageClassification",
    "ViTWithSideNetForImageClassification",
    "XLMRobertaWithSideNetForSequenceClassification",
    "attach",
    "check_shareable",
    "collect",
    "compute_exit_metrics",
    "evaluate_checkpoint",
    "load_checkpoint",
    "recalibrate",
]

# Where to find the names that are not in `models`.
_ROOMS = {
    "ExitRecords": "measurement",
    "SideNetRunner": "inference",
    "attach": "attaching.attach",
    "check_shareable": "hub",
    "collect": "measurement",
    "compute_exit_metrics": "training",
    "evaluate_checkpoint": "attaching.checkpoint",
    "load_checkpoint": "attaching.checkpoint",
    "recalibrate": "attaching.checkpoint",
}

# Hidden from type checkers, which would conclude that every name exists.
if not TYPE_CHECKING:

    def __getattr__(name: str) -> Any:
        if name in __all__:
            value = getattr(import_module(f".{_ROOMS.get(name, 'models')}", __name__), name)
            globals()[name] = value
            return value
        if not name.startswith("__"):
            try:
                # A subpackage, such as `hf_sidenet.models` after `import hf_sidenet`.
                return import_module(f".{name}", __name__)
            except ModuleNotFoundError as error:
                if error.name != f"{__name__}.{name}":
                    raise
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


auto_classes.register()
