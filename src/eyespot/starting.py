"""The verb `train`: a run is begun, or gone on with, and walks the whole way of the data.

Pictures -> dataset -> checks -> splits -> packed pixels -> augmentation -> model -> fit -> evaluate -> report.
The test split is opened after training, once, and every look at it is counted in metrics.json.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from eyespot.caches import user_path
from eyespot.config import Config, named_settings
from eyespot.device import (
    ComputePlan,
    cpu_features,
    find_device,
    gpu_name,
    is_memory_error,
    plan_compute,
    prepare_process,
    random_numbers_kept,
)
from eyespot.errors import CheckpointError, ConfigError, EyespotError, MemoryLimitError, RunError, UsageError
from eyespot.files import checked_folder
from eyespot.finishing import finish, split_names
from eyespot.opening import (
    Observer,
    Settings,
    check_settings,
    choose_recipe,
    divide,
    lasting_name,
    load_recipe,
    open_again,
    open_data,
    pack_data,
    read_fixes,
)
from eyespot.runs import (
    CHECKPOINTS,
    LABEL_FIXES,
    TRAINED_ON,
    Run,
    RunWriter,
    environment,
    latest_unfinished_run,
    new_run_folder,
    now,
    remove_untrained,
    with_label_fixes,
)
from eyespot.terminal import Terminal
from eyespot.tracking import Tracked, check_kind

if TYPE_CHECKING:
    from eyespot.data.dataset import Dataset, PackedDataset
    from eyespot.data.splits import Splits
    from eyespot.models.weights import LoadedWeights


def train(
    data: str | Path | None = None,
    *,
    recipe: str | Path | None = None,
    settings: Settings = (),
    out: str | Path | None = None,
    device: str = "auto",
    resume: bool = False,
    track: str | None = None,
    observer: Observer | None = None,
) -> Run:
    """Train a classifier, measure it on train, val and test, and write its run folder with the report.

    Args:
        data: `cifar10` (the default), another known name, a folder, an archive, a CSV or a .npz.
        recipe: Name or TOML file; chosen by the data when left out.
        settings: Changes to the recipe, `{"training.epochs": 5}` or `["training.epochs=5"]`.
        out: The run folder; `runs/RECIPE-DATA-TIME` when left out.
        device: `auto`, `cpu`, `cuda` or `mps`.
        resume: Go on with the run in `out`, or with the newest unfinished one, from its last checkpoint.
        track: `tensorboard` or `mlflow`: the history is written there, too; a resumed run goes on with it.
        observer: Told about everything on the way; `eyespot.terminal.Terminal()` shows what the command line shows.
            When left out nothing is shown; the run's log is written all the same.

    Returns:
        The finished run.

    Raises:
        UsageError: Unknown data, recipe, model, setting or device.
        DataError: Data that cannot be trained on as they are; `LeakError` where test pictures are also in train.
        ModelError: The network does not take pictures of this size.
        TrainingError: The loss became NaN, or memory ran out.
        RunError: The run folder cannot be used.
        Interrupted: A signal asked for a stop; go on with `resume`.
    """
    watcher = observer or Terminal(quiet=True)
    find_device(device)  # a wrong device is found before a picture is read
    if track is not None:
        check_kind(track)
    if resume:
        run = Run.open(out) if out is not None else Run(latest_unfinished_run())
        _check_resumable(run, data, recipe, settings)
        if run.finished and not run.missing:
            watcher.on_message("this run is finished: nothing to resume")
            return run
        if run.finished:
            _check_rewritable(run)
            gone = ", ".join(run.missing)
            watcher.on_message(f"note: gone from the finished run, and written again from its last checkpoint: {gone}")
        source = lasting_name(data) if data is not None else str(run.provenance["data"])
        config = run.config
        request = _Request(source, open_again(run, source, watcher), config, run.path)
        if device == "auto":
            device = _device_of(run)
    else:
        request = _new_request(data, recipe, settings, out, watcher)
    try:
        _check_before_packing(request)
    except EyespotError:
        if out is None:
            with suppress(OSError):
                request.folder.rmdir()  # it was made to keep its name, and has nothing in it
        raise
    plan = plan_compute(device, request.config.training.precision)
    if resume and request.config.training.precision == "auto":
        plan = _as_begun(Run(request.folder), plan)
    prepare_process(plan)
    threads = request.config.training.threads
    with RunWriter(request.folder, request.config, resume=resume) as writer, _torch_for_one(plan, threads, watcher):
        watcher.attach(writer)
        try:
            track = track or Run(writer.path).provenance.get("track")
            if track is None:
                return _train(request, plan, writer, watcher)
            writer.write_provenance({"track": track})
            tracked = Tracked(watcher, track, writer)
            run = _train(request, plan, writer, tracked)
            tracked.finish()
            return run
        except (RunError, KeyboardInterrupt):
            raise  # free some space, or come back later: --resume goes on
        except EyespotError as error:
            if not resume and "--resume" not in (error.remedy or ""):  # else there would be nothing to go on with
                remove_untrained(request.folder)
            raise


_turn = threading.RLock()  # not a plain one: who watches a training may train something else


@contextmanager
def _torch_for_one(plan: ComputePlan, threads: int, watcher: Observer) -> Iterator[None]:
    """Give one training at a time torch with its gradients, random numbers and threads, and then back as it was.

    Two threads would draw from one generator, and neither of their results could be repeated.
    """
    import torch

    if not _turn.acquire(blocking=False):
        watcher.on_message("waiting for another training in this process: they share torch's random numbers")
        _turn.acquire()
    before = torch.get_num_threads()
    try:
        if threads:
            torch.set_num_threads(min(threads, before))
        with torch.inference_mode(False), random_numbers_kept(plan):  # a notebook may have no_grad on for good
            yield
    finally:
        if threads:
            torch.set_num_threads(before)
        _turn.release()


@dataclass(frozen=True)
class _Request:
    """What to train on, how, and where to write it.

    Attributes:
        data: DATA as provenance keeps it, the same from any folder.
        dataset: What was found there.
        config: The recipe.
        folder: The run folder, absolute.
        fixes: Corrections of labels that the folder must get a copy of; None where there are none, or where it has one.
        named: The settings that the user changed; none of a resumed run.
    """

    data: str
    dataset: Dataset
    config: Config
    folder: Path
    fixes: Path | None = None
    named: frozenset[str] = frozenset()


def _new_request(
    data: str | Path | None, recipe: str | Path | None, settings: Settings, out: str | Path | None, watcher: Observer
) -> _Request:
    """Return what a new run is asked to do; what is wrong with the settings is found before the data are read."""
    if recipe is None:
        check_settings(settings)
    else:
        load_recipe(recipe, settings)
    from eyespot.data.planting import plant_mistakes

    named = None if out is None else checked_folder(out)
    source = "cifar10" if data is None else data
    dataset = open_data(source, watcher)
    chosen = recipe
    if chosen is None:
        chosen, reason = choose_recipe(dataset)
        watcher.on_message(f"recipe {chosen}: {reason}")
    config = load_recipe(chosen, settings)
    dataset = plant_mistakes(dataset, config.mistakes)
    corrected = read_fixes(dataset, config) is not None
    folder = named.resolve() if named is not None else new_run_folder(config.name, str(source))
    fixes = None
    if corrected:
        fixes = user_path(config.data.label_fixes).resolve()
        config = with_label_fixes(config, folder / LABEL_FIXES)
    return _Request(lasting_name(source), dataset, config, folder, fixes, frozenset(named_settings(settings)))


def _check_resumable(run: Run, data: str | Path | None, recipe: object, settings: Settings) -> None:
    """Refuse to change a run on its way: a resumed run keeps what it was started with, to the last setting."""
    known = run.provenance
    if "data" not in known and any((run.path / CHECKPOINTS).glob("*.ckpt")):
        raise RunError(
            "it has checkpoints, and no provenance.json that says their data",
            where=run.path,
            remedy="restore the file, or train again in another folder",
        )
    if "data" not in known:
        raise RunError(
            "the run ended before it knew its data", where=run.path, remedy="give the command that began it again"
        )
    other_data = data is not None and lasting_name(data) != known["data"]
    # Pictures that moved are found by their content, once that is known; a name never moves.
    paths = all(Path(str(name)).is_absolute() for name in (known["data"], lasting_name(data or "")))
    if (other_data and not (paths and "dataset_fingerprint" in known)) or recipe is not None or settings:
        raise UsageError(
            "a resumed run keeps its data, recipe and settings", where=run.path, remedy="give only --resume and --out"
        )


def _check_rewritable(run: Run) -> None:
    """Refuse to train a finished run once more, where only a file of its results is gone.

    Raises:
        RunError: It has no checkpoint to write the file from.
    """
    if not any((run.path / CHECKPOINTS).glob("*.ckpt")):
        raise RunError(
            f"{run.missing[0]} of the finished run is missing, and there is no checkpoint to write it from",
            where=run.path,
            remedy="restore the file, or train again in another folder",
        )


def _device_of(run: Run) -> str:
    """Return the device that a run was begun on.

    Raises:
        UsageError: It is not there any more.
    """
    device = str(run.provenance.get("device", "auto"))
    try:
        find_device(device)
    except UsageError as error:
        raise UsageError(
            f"the run was begun on {device}, which is not there ({error.what})",
            where=run.path,
            remedy="go on where it is, or name another with --device; the result will then differ in its last digits",
        ) from error
    return device


def _as_begun(run: Run, plan: ComputePlan) -> ComputePlan:
    """Return the precision that a run was begun in, on the same hardware: `auto` measures, and could find another."""
    known = run.provenance
    precision = known.get("precision")
    now_here = (plan.device, environment()["processor"], gpu_name(plan.device))
    same = (known.get("device"), known.get("processor"), known.get("gpu", "")) == now_here
    if not same or precision not in {"float32", "bf16"} or precision == plan.precision:
        return plan
    return replace(plan, precision=precision, reason="as it was begun")


def _check_before_packing(request: _Request) -> None:
    """Find what can be found wrong before a picture is decoded.

    Raises:
        UsageError: Unknown model or argument; a run folder among the pictures.
        DataError: Class names that a bundle cannot carry.
    """
    from eyespot.evaluation.bundle_info import check_class_names
    from eyespot.models.registry import check_args, model_entry

    config = request.config
    check_args(config.model.name, config.model.args)
    if not model_entry(config.model.name).is_backbone:
        for key, is_set in (
            ("model.mode", config.model.mode not in ("full", "auto")),
            ("model.freeze_until", bool(config.model.freeze_until)),
            ("model.weights", config.model.weights not in ("auto", "random")),
            ("training.freeze_epochs", config.training.freeze_epochs > 0),
        ):
            if is_set:
                raise ConfigError(
                    f"{key} is for backbones, {config.model.name} is trained from scratch",
                    remedy="leave it out, or use a backbone: --set model.name=efficientnet_lite0",
                )
    elif config.input.channels == 1 and config.model.weights != "random":
        raise ConfigError(
            "pretrained weights take RGB pictures, and input.channels is 1",
            remedy="leave input.channels at auto, which shows grey pictures as RGB, or --set model.weights=random",
        )
    check_class_names(request.dataset.class_names)
    pictures = Path(request.dataset.origin)
    if pictures.is_dir() and request.folder.is_relative_to(pictures.resolve()):
        raise UsageError(
            "the run folder would lie among the pictures", where=request.folder, remedy="choose another with --out"
        )


def _train(request: _Request, plan: ComputePlan, writer: RunWriter, watcher: Observer) -> Run:
    """Walk the whole way of the data in a locked run folder."""
    config, dataset = request.config, request.dataset
    if "started" not in Run(writer.path).provenance:
        if request.fixes is not None:
            _keep_fixes(request.fixes, writer)
        begun = {"data": request.data, "started": now(), "seed": config.training.seed, "device": plan.device}
        writer.write_provenance(begun)
    # Not before that: a run that is stopped while torch is loaded can be resumed.
    from eyespot.data.checks import enforce
    from eyespot.training.prepare import prepare_training
    from eyespot.training.transfer import note_unused, train_model

    classes = f"{dataset.num_classes} classes"
    watcher.on_message(f"{dataset.name}: {dataset.layout}, {classes}, from {dataset.origin}")
    for note in dataset.notes:
        watcher.on_message(f"note: {note}")
    packed = pack_data(dataset, config, watcher)
    for sentence in enforce(
        packed.report, dataset, on_bad_image=config.data.on_bad_image, allow_leak=config.data.allow_leak
    ):
        watcher.on_message(f"note: {sentence}")
    splits = _divide(packed, config, writer, watcher)
    for note in splits.notes:
        watcher.on_message(f"note: {note}")
    counts = ", ".join(f"{splits.count(split):,} {split}" for split in split_names(splits))
    shape = f"{packed.size_px} x {packed.size_px} px, {'grey' if packed.channels == 1 else 'RGB'}"
    watcher.on_message(f"{counts}; {shape}; {plan.device}, {plan.precision} ({plan.reason})")
    _write_provenance(request, writer, packed, splits, plan, watcher)
    try:
        prepared = prepare_training(packed, splits, config, plan, writer=writer, observer=watcher)
        parameters = sum(parameter.numel() for parameter in prepared.model.parameters())
        writer.write_provenance({"parameters": parameters})
        shown = prepared.spec.model_px
        watcher.on_message(
            f"{config.model.name}: {parameters:,} parameters{f', sees pictures resized to {shown} px' if shown else ''}"
        )
        for note in [*prepared.notes, *note_unused(prepared.model, config, request.named)]:
            watcher.on_message(note)
        if prepared.pretrained is not None:
            _keep_weights(prepared.pretrained, writer)
        with prepared.data.train, prepared.data.val or nullcontext():
            trained = train_model(prepared, packed, splits, config, plan=plan, writer=writer, observer=watcher)
            return finish(packed, splits, prepared, trained, plan, writer, watcher)
    except (EyespotError, KeyboardInterrupt):
        raise
    except BaseException as error:  # safetensors panics with one that is no Exception
        if not is_memory_error(error):
            raise
        raise MemoryLimitError(
            f"no memory left at batch size {config.training.batch_size}",
            remedy=f"try --set training.batch_size={max(config.training.batch_size // 2, 1)}",
        ) from error


def _keep_fixes(path: Path, writer: RunWriter) -> None:
    """Copy corrections of labels into the run folder: a resumed run is not at the mercy of a file outside of it."""
    import hashlib

    from eyespot.files import write_atomic

    content = path.read_bytes()
    write_atomic(writer.path / LABEL_FIXES, content)
    writer.write_provenance({"label_fixes": {"file": str(path), "sha256": hashlib.sha256(content).hexdigest()}})


def _divide(packed: PackedDataset, config: Config, writer: RunWriter, watcher: Observer) -> Splits:
    """Return the run's split: the saved one of a resumed run, else a new one, saved."""
    from eyespot.data.splits import Splits

    path = writer.path / "split.json"
    if path.exists():
        return Splits.load(path, packed)
    splits = divide(packed, config, watcher)
    splits.save(path)
    return splits


def _keep_weights(weights: LoadedWeights, writer: RunWriter) -> None:
    """Note which weights the backbone began with.

    Raises:
        CheckpointError: The run was begun with others: what was trained so far would stand on another backbone.
    """
    known = Run(writer.path).provenance.get("pretrained", {})
    if known.get("sha256", weights.sha256) != weights.sha256:
        raise CheckpointError(
            f"the run was begun with weights from {known.get('source')}, now those from {weights.source} are found",
            where=writer.path,
            remedy="bring the first ones back, or train again",
        )
    writer.write_provenance({"pretrained": {"source": weights.source, "sha256": weights.sha256}})


def _write_provenance(
    request: _Request, writer: RunWriter, packed: PackedDataset, splits: Splits, plan: ComputePlan, watcher: Observer
) -> None:
    """Write what the result may depend on; of a resumed run that what has changed, too."""
    import torch

    from eyespot.files import write_atomic

    found: dict[str, Any] = {
        **environment(),
        "device": plan.device,
        **({"gpu": gpu} if (gpu := gpu_name(plan.device)) else {}),
        "precision": plan.precision,
        "precision_reason": plan.reason,
        "cpu_features": cpu_features(),
        "threads": torch.get_num_threads(),
    }
    known = Run(writer.path).provenance
    if "dataset_fingerprint" in known:
        # It is repeated by the command that began it.
        changed = {key: value for key, value in found.items() if key != "command" and known.get(key) != value}
        for key in ("device", "gpu", "precision", "versions", "processor"):
            if key in changed and key in known:
                watcher.on_message(
                    f"resumed, but not as it was begun: {key} {_shown(changed[key], known.get(key))}; the result can "
                    "differ from that of an uninterrupted run"
                )
        before = known.get("resumed", [])
        writer.write_provenance({"resumed": [*before, {"time": now(), **changed}], "data": request.data})
        return
    write_atomic(writer.path / TRAINED_ON, splits.seen(packed).astype("<u8").tobytes())
    writer.write_provenance(
        {
            **found,
            "dataset": packed.dataset.name,
            "dataset_origin": packed.dataset.origin,
            "dataset_layout": packed.dataset.layout,
            "dataset_fingerprint": packed.fingerprint,
            "split_hash": splits.hash(),
            "split_digests": splits.digests(packed),
            "packing_seconds": packed.seconds,
        }
    )


def _shown(value: Any, before: Any) -> str:
    """Return `cuda, before cpu`; of a table its entries that differ."""
    if isinstance(value, Mapping) and isinstance(before, Mapping):
        return ", ".join(
            f"{key} {_shown(value[key], before.get(key))}" for key in value if value[key] != before.get(key)
        )
    return f"{value}, before {before}"
