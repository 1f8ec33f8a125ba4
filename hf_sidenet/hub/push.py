# SPDX-License-Identifier: Apache-2.0
"""Write checkpoint folders for sharing, with a model card, and upload them."""

import os
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from glob import escape
from pathlib import Path
from typing import Any, cast

from huggingface_hub import HfApi, ModelCard, ModelCardData
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, OfflineModeIsEnabled
from huggingface_hub.utils import validate_repo_id
from transformers import PreTrainedTokenizerBase
from transformers.utils import logging

from ..data.formats import Processor
from ..data.limits import longest_text, with_limit
from ..evaluation import ExitEvaluation, ExitReport, format_thresholds, save_figures
from ..export.exported import EXPORTED
from ..inference.certificate import why_not_certified
from ..io.files import replacing
from ..io.folder_kinds import PROCESSOR_NAMES, FolderKind, sort_entries
from ..io.folders import writing_folder
from ..measurement import ExitRecords
from ..models import __file__ as models_file
from ..models.configuration_sidenet import SideNetConfig
from ..models.errors import ArgumentError
from ..models.modeling_base import SideNetPreTrainedModel
from ..models.tasks import TASKS
from ..report import CURRENCIES, FIGURES, Report, checkpoint_card, describe, eval_results, metrics
from .shared_files import refuse_links, shared_files


logger = logging.get_logger(__name__)

# Files of a checkpoint that are read before it is overwritten.
READ_NAMES = ("config.json", "model*.safetensors", "model.safetensors.index.json", "report.json", *PROCESSOR_NAMES)
CHECKPOINT = FolderKind(
    document="report.json",
    marks=("schema_version", "verdict", "settings"),
    names=(
        *READ_NAMES,
        *(f"figures/{name}" for name in FIGURES),
        *sorted(path.name for path in Path(models_file).parent.glob("*.py") if path.name != "__init__.py"),
    ),
    card="README.md",
)
# Deleted if left over from an earlier push: they would be loaded, or downloaded for nothing.
REPLACED = ("model*.safetensors", "model.safetensors.index.json")
# Base class of the HTTP client's errors, independent of the client that huggingface_hub uses.
HTTP_ERROR: type[Exception] = HfHubHTTPError.__bases__[0]
SAFE = "Nothing here was changed; run the same command again to upload what is missing."


@dataclass(frozen=True)
class Pushed:
    """Location of a pushed checkpoint.

    Args:
        repo_id (`str`): id of the repository, with its namespace.
        url (`str`): URL of the repository.
        commit (`str`): hash of the commit, to pin with `revision=` in `from_pretrained`.
        commit_url (`str`): URL of the commit.
    """

    repo_id: str
    url: str
    commit: str
    commit_url: str


def save_checkpoint(
    directory: str | os.PathLike,
    model: SideNetPreTrainedModel,
    processor: Processor | None,
    report: Mapping[str, Any],
    *,
    evaluation: ExitEvaluation | None = None,
    records: ExitRecords | None = None,
    overwrite: bool = False,
    source: str | os.PathLike | None = None,
) -> None:
    """Write the checkpoint folder of [`attach`], atomically: weights, config, code, processor, report and model card.

    The folder has safetensors weights, `config.json` with θ and the evidence, the model's code, the tokenizer or image
    processor, `report.json`, `figures/` and the model card `README.md`. It contains no rows, labels or paths of this
    machine. `report.json` lists its files with hashes: `overwrite` replaces only those and keeps other files.

    Args:
        directory (`str` or `os.PathLike`): folder to write.
        model ([`SideNetPreTrainedModel`]): a calibrated model.
        processor (tokenizer or image processor, *optional*): processor to save along.
        report ([`Report`] or `Mapping[str, Any]`): report of an [`AttachResult`].
        evaluation ([`ExitEvaluation`], *optional*): evaluation on test rows.
        records ([`ExitRecords`], *optional*): records of the same rows, for the figures; not written.
        overwrite (`bool`, *optional*, defaults to `False`): allow a nonempty folder, see [`writing_folder`].
        source (`str` or `os.PathLike`, *optional*):
            Folder from which model, processor and report were read. If it is `directory`, its files may have changed
            since they were written.

    Raises:
        ValueError: the model is not calibrated or has changed since, only one of `evaluation` and `records` is given,
            the folder is not empty and `overwrite` is `False`, or it has other files of these names.
    """
    if model.config.calibration is None:
        raise ArgumentError("model", "must be calibrated to be saved with a card, but `config.calibration` is None")
    if (evaluation is None) != (records is None):
        given = "evaluation" if records is None else "records"
        raise ArgumentError("evaluation", f"and `records` must be given together, got only `{given}`")
    not_certified = why_not_certified(model, processor)
    if not_certified is not None:
        raise ArgumentError(
            "model",
            f"must be unchanged since θ was certified, but {not_certified}. Calibrate it again "
            "with `hf_sidenet.attaching.checkpoint.recalibrate`, or save it without a card: "
            "`model.save_pretrained`",
        )
    name = Path(directory).resolve().name
    read = READ_NAMES if is_same_folder(directory, source) else ()
    with writing_folder(directory, CHECKPOINT, overwrite=overwrite, read=read) as temporary:
        model.save_pretrained(temporary)
        if processor is not None:
            if model.modality.has_tokens:
                processor = with_limit(cast(PreTrainedTokenizerBase, processor), longest_text(model.mainnet))
            processor.save_pretrained(temporary)
        figures = (
            [] if evaluation is None or records is None else _figures(evaluation, records, temporary / "figures", name)
        )
        Report(report).save(temporary)
        card = checkpoint_card(
            name,
            model.config,
            report,
            evaluation=evaluation,
            has_processor=processor is not None,
            figures=figures,
        )
        (temporary / "README.md").write_text(str(card), encoding="utf-8")


def save_recalibrated(
    directory: str | os.PathLike,
    source: str | os.PathLike,
    config: SideNetConfig,
    *,
    stages: str | os.PathLike | None = None,
    overwrite: bool = False,
) -> None:
    """Write an exported folder with a new θ: a new `config.json`, and copies of all other shareable files.

    The folder is written atomically. If it is `source`, other files are kept.

    Args:
        directory (`str` or `os.PathLike`): folder to write; may be `source`.
        source (`str` or `os.PathLike`): exported folder.
        config ([`SideNetConfig`]): config with θ and the evidence.
        stages (`str` or `os.PathLike`, *optional*): folder with files that replace those of `source`: stages with
            other SideNets, and their manifest.
        overwrite (`bool`, *optional*, defaults to `False`): allow a nonempty folder, see [`writing_folder`].

    Raises:
        ValueError: the folder is not empty and `overwrite` is `False`, it has other files of these names, or `source`
            has a link out of the folder.
    """
    source = Path(source)
    refuse_links(source, "source")
    ours = sort_entries(source, EXPORTED, read=EXPORTED.names).ours
    in_place = is_same_folder(directory, source)
    foreign = [] if in_place else sorted(set(shared_files(source)[0]) - set(ours))
    read = EXPORTED.names if in_place else ()
    replaced = {} if stages is None else {path.name: path for path in Path(stages).iterdir()}
    with writing_folder(directory, EXPORTED, overwrite=overwrite, read=read, foreign=foreign) as temporary:
        for name in [*ours, *foreign]:
            (temporary / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(replaced.get(name, source / name), temporary / name)
        config.to_json_file(temporary / "config.json")


def is_same_folder(directory: str | os.PathLike, source: str | os.PathLike | None) -> bool:
    """Return whether a folder to write is the one that was read."""
    return source is not None and Path(directory).resolve() == Path(source).resolve()


def write_model_card(
    directory: str | os.PathLike,
    report: ExitReport,
    *,
    task: str,
    mainnet: str,
    dataset: str,
    split: str,
) -> None:
    """Write `README.md` with metadata (`model-index`), or add it to an existing card.

    An existing card keeps its text, tags and results on other data.

    Args:
        directory (`str` or `os.PathLike`): folder of the checkpoint.
        report ([`ExitReport`]): results, which also become the last section of the card.
        task (`str`): the Hub's name of the task, such as `"text-classification"`.
        mainnet (`str`): Hub id of the MainNet; a local folder is left out.
        dataset (`str`): name of the data set.
        split (`str`): split of the results.

    Raises:
        ValueError: the task is unknown, or the card is a link and there is a link out of the folder.
    """
    known = sorted(name for each in TASKS.values() for name in each.pipelines.values())
    if task not in known:
        raise ArgumentError("task", f"must be one of {known}", task)
    path = Path(directory) / "README.md"
    if path.is_symlink():
        # Its target's text would be written to a shared file.
        refuse_links(directory)
    model_name = Path(directory).resolve().name
    if path.exists():
        card = ModelCard.load(path)
    else:
        metadata = ModelCardData(library_name="transformers").to_yaml()
        what = f"{Path(mainnet).name or 'A MainNet'} with SideNets (early exits), evaluated on {dataset}."
        card = ModelCard(f"---\n{metadata}\n---\n\n# {model_name}\n\n{what}\n")
    data = cast(ModelCardData, card.data)
    describe(data, task=task, mainnet=mainnet, model_name=model_name)
    others = [
        result for result in data.eval_results or [] if (result.dataset_type, result.dataset_split) != (dataset, split)
    ]
    data.eval_results = others + eval_results(
        _results(report), task=task, dataset_type=dataset, dataset_name=dataset, split=split
    )
    section = (
        "## Early exits\n\nLoad it with `trust_remote_code=True`; `output.exit_index` says which exit answered, and "
        f"`thresholds=` moves θ. Costs are fractions of the plain MainNet's.\n\n{report.text()}\n"
    )
    own = re.sub(r"^## Early exits\n.*?(?=^##? |\Z)", "", card.text, flags=re.MULTILINE | re.DOTALL).rstrip()
    card.text = f"{own}\n\n{section}"
    with replacing(path) as temporary:
        temporary.write_text(str(card), encoding="utf-8")


def push_checkpoint(
    directory: str | os.PathLike,
    repo_id: str,
    *,
    private: bool | None = None,
    token: str | None = None,
    revision: str | None = None,
    message: str | None = None,
) -> Pushed:
    """Upload a folder to the Hub, creating the repository and branch if missing.

    Weights of an earlier push that are not in the folder are deleted from the branch, but stay in its history.

    Nothing local is changed. After an error, repeat the call to upload what is missing.

    Args:
        directory (`str` or `os.PathLike`): the folder; check it with [`check_shareable`].
        repo_id (`str`): repository, such as `"my-org/my-classifier"`.
        private (`bool`, *optional*): visibility of a new repository, by default the owner's setting. If `True`, an
            existing one must be private.
        token (`str`, *optional*): Hub token, by default `HF_TOKEN` or the one you logged in with.
        revision (`str`, *optional*): branch, by default the main one.
        message (`str`, *optional*): commit message.

    Raises:
        ValueError: `repo_id` is not a valid name, the repository is public although `private` is `True`, a link leads
            out of the folder, or the Hub rejects the token, repository, branch or model card. Then nothing was
            uploaded.
        ConnectionError: the Hub cannot be reached, or the upload was interrupted.
    """
    check_repo_id(repo_id)
    refuse_links(directory)
    api = HfApi()
    try:
        # A bare name gets the namespace of the token.
        repo_id = api.create_repo(repo_id, private=private, token=token, exist_ok=True).repo_id
        # `create_repo` does not change an existing repository.
        if private and not api.model_info(repo_id, token=token).private:
            raise ArgumentError(
                "repo_id",
                f"must be private with `private`, but {repo_id!r} exists and is public. Make it "
                "private in its settings on the Hub, or choose another. Nothing was uploaded",
            )
        if revision is not None:
            api.create_branch(repo_id, branch=revision, token=token, exist_ok=True)
        commit = api.upload_folder(
            repo_id=repo_id,
            folder_path=str(directory),
            token=token,
            revision=revision,
            commit_message=message or "Upload a classifier with SideNets",
            allow_patterns=[escape(name) for name in shared_files(directory)[0]],
            delete_patterns=list(REPLACED),
        )
    except OfflineModeIsEnabled as error:
        raise ConnectionError("the Hub is disabled here: unset HF_HUB_OFFLINE and run it again.") from error
    except HTTP_ERROR as error:
        raise _cannot_push(error, repo_id, revision) from error
    except RuntimeError as error:
        # Raised for a large file, after several tries.
        raise _interrupted(error.__cause__ or error, repo_id) from error
    return Pushed(repo_id, str(commit.repo_url), commit.oid, commit.commit_url)


def check_repo_id(repo_id: str) -> None:
    """Reject an invalid repository name.

    Raises:
        ValueError: it is invalid.
    """
    try:
        validate_repo_id(repo_id)
    except HFValidationError as error:
        raise ArgumentError("repo_id", "must be a name such as 'my-org/my-classifier'", repo_id) from error


def _cannot_push(error: Exception, repo_id: str, revision: str | None) -> Exception:
    """Translate a Hub error for someone who pushes, with advice."""
    status = getattr(getattr(error, "response", None), "status_code", None)
    login = "Log in with `hf auth login`, or set HF_TOKEN, to a token that may write there."
    if status == 401:
        return ArgumentError("token", "must be valid, but the Hub rejected it (401)", advice=f"{login} {SAFE}")
    if status == 403:
        return ArgumentError(
            "token", f"must have write access to {repo_id!r}, but does not (403)", advice=f"{login} {SAFE}"
        )
    if status == 404:
        where = repr(repo_id) + ("" if revision is None else f" at {revision!r}")
        return ArgumentError(
            "repo_id",
            f"must be a repository that you can see and write to, but the Hub has no {where} (404)",
            advice=f"Check the owner's name, and whose token it is. {SAFE}",
        )
    if status is not None and 400 <= status < 500 and status not in (408, 429):
        return ArgumentError(
            "repo_id", f"{repo_id!r}: the Hub rejected the upload ({status})", advice=f"{_line(error)} {SAFE}"
        )
    return _interrupted(error, repo_id)


def _interrupted(error: BaseException, repo_id: str) -> ConnectionError:
    what = (_line(error) or type(error).__name__).rstrip(".")
    return ConnectionError(f"the upload to {repo_id!r} was interrupted ({what}). {SAFE}")


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())


def _figures(evaluation: ExitEvaluation, records: ExitRecords, directory: Path, title: str) -> list[str]:
    """Draw the figures and return their names; none if matplotlib is not installed, which is not fatal."""
    try:
        return [path.name for path in save_figures(evaluation, records, directory, title)]
    except ImportError as error:
        logger.warning("The checkpoint has no figures: %s", error)
        shutil.rmtree(directory, ignore_errors=True)
        return []


def _results(report: ExitReport) -> list[tuple[str, str, float]]:
    accuracies, chosen = {"MainNet alone": report.fixed[0].accuracy}, report.chosen
    if chosen is None:
        return metrics(accuracies)
    accuracies[f"θ = {format_thresholds(chosen.thresholds)}"] = chosen.accuracy
    return metrics(accuracies, {key: getattr(chosen, key) for key in CURRENCIES})
