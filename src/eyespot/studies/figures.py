"""The page of a study: our figures beside the published ones, what each mistake does, and the publication's charts.

Before this: `runner` left run folders and `points.json`. After this: one HTML file that opens offline. It is written
again at any moment from what is there; points that were not run are listed with the reason.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup

from eyespot.analysis import charts, words
from eyespot.analysis.headline import describe_count, describe_top1, describe_views, headline_split
from eyespot.analysis.pages import render_page, thumbnail, write_page
from eyespot.analysis.verdict import judge
from eyespot.caches import user_path
from eyespot.config import load_config
from eyespot.errors import EyespotError, RunError
from eyespot.evaluation.evaluate import SplitPredictions, read_predictions
from eyespot.evaluation.statistics import mean_interval, paired_difference
from eyespot.mistakes import MISTAKES
from eyespot.runs import BUNDLE, Run
from eyespot.studies.journal import read_points
from eyespot.studies.layer_tables import compare_layers
from eyespot.studies.schema import RIGHT, Claim, Study, StudyPoint, study_names
from eyespot.studies.tables import cite_claim

_HUES = 6  # c-r0 to c-r5 in templates/study.css
_MOST_PICTURES = 12
_PICTURES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff")


@dataclass(frozen=True)
class Row:
    """A point with its runs, one for each seed.

    Attributes:
        number: From 1, in the order of the study.
        id: Of the point.
        title: What was tried, with the backbone that stands in for another.
        claims: What was published.
        says: The publication's words.
        line: Where it stands.
        note: What a reader should know.
        runs: Finished ones.
        held: What they were held to, such as a limit of minutes, in words.
        reason: Why there is none.
    """

    number: int
    id: str
    title: str
    claims: tuple[Claim, ...] = ()
    says: str = ""
    line: str = ""
    note: str = ""
    runs: tuple[Run, ...] = ()
    held: tuple[str, ...] = ()
    reason: str = ""

    @cached_property
    def metrics(self) -> list[dict[str, Any]]:
        """Return metrics.json of each run."""
        return [run.metrics for run in self.runs]

    def figure(self, split: str) -> str:
        """Return the accuracy on a split with all that belongs to it; over seeds mean, interval and deviation."""
        found = [metrics[split] for metrics in self.metrics if metrics.get(split)]
        if not found:
            return ""
        if len(found) == 1:
            return describe_top1(found[0], split)
        over = mean_interval([one["top1"] for one in found])
        flaw = f"{found[0]['flaw']}: " if found[0].get("flaw") else ""
        spread = f"sd {100 * over.std:.2f} points over {len(found)} seeds"
        top1 = words.mean_percent(over.mean, over.low, over.high)
        views = describe_views(found[0].get("views"))
        belongs = ", ".join(filter(None, [f"n = {describe_count(found[0])}", views]))
        return f"{flaw}{top1}, {spread}, on {split} ({belongs})"

    def mean(self, key: str, split: str = "") -> float | None:
        """Return the mean of a field over the runs; None where none has it."""
        found = [(metrics.get(split) or {}) if split else metrics for metrics in self.metrics]
        values = [one[key] for one in found if one.get(key) is not None]
        return float(np.mean(values)) if values else None


@dataclass
class _Cost:
    """What a run's network is: counted once for each architecture."""

    known: dict[str, tuple[int, int]] = field(default_factory=dict)

    def of(self, run: Run) -> tuple[int, int] | None:
        """Return parameters and multiplications for one picture; None where the bundle cannot be read."""
        from eyespot.models.registry import build_model
        from eyespot.models.summary import layer_table

        try:
            info = json.loads((run.path / BUNDLE / "model.json").read_text(encoding="utf-8"))
            spec, kind = info["input"], info["architecture"]
            size = spec.get("model_px") or spec["size_px"]
            key = json.dumps([kind, size, spec["channels"], info["num_classes"]])
            if key not in self.known:
                model = build_model(
                    kind["name"],
                    num_classes=info["num_classes"],
                    in_channels=spec["channels"],
                    size_px=size,
                    args=kind["args"],
                )
                table = layer_table(model, in_channels=spec["channels"], size_px=size)
                self.known[key] = (table.count.parameters, table.macs)
            return self.known[key]
        except (OSError, ValueError, KeyError, TypeError, EyespotError):
            return None


def write_study_report(study: Study, folder: str | Path, *, pictures: Path | None = None) -> Path:
    """Write `report.html` into a study's folder.

    Args:
        study: What was published.
        folder: Where its points were run.
        pictures: A folder of pictures from outside of the data, to be named by every run; two photographs that come
            with scikit-learn when left out.

    Returns:
        The page.

    Raises:
        RunError: The folder is none of a study, or the page cannot be written.
    """
    home = user_path(folder).resolve()
    rows = read_rows(study, home)
    page = home / "report.html"
    write_page(render_page("study.html.j2", _context(study, home, rows, pictures)), page)
    return page


def read_rows(study: Study, folder: Path) -> list[Row]:
    """Return the points of a study with what was run of them.

    Raises:
        RunError: The folder has no points.json, or that of something else.
    """
    try:
        asked = read_points(folder)
        listed = {str(entry["id"]): entry for entry in asked}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise RunError(
            "no study was run here", where=folder, remedy=f"run one first: eyespot study run {_argument(study)}"
        ) from error
    ids = set(study.point_ids())
    if not any(id_.rpartition("-seed")[0] in ids for id_ in listed):
        what, remedy = f"no point of {study.name} was run here", "name its own folder with --out"
        raise RunError(what, where=folder, remedy=remedy)
    rows: list[Row] = []
    same = study.same_settings()
    for point in study.points:
        for id_ in (point.id, *([point.id + RIGHT] if point.mistakes else [])):
            own = [entry for entry in listed.values() if entry["id"].rpartition("-seed")[0] == id_]
            row = _read_row(len(rows) + 1, point, id_, own, folder)
            if id_ in same and "Twin of" not in row.note:
                row = replace(row, note=f"Same settings as {same[id_]}. {row.note}".strip())
            rows.append(row)
    return rows


def _argument(study: Study) -> str:
    """Return how a study is named on the command line: one of somebody's own by its file."""
    return study.name if study.name in study_names() else "FILE.toml"


def _read_row(number: int, point: StudyPoint, id_: str, asked: Sequence[dict[str, Any]], folder: Path) -> Row:
    """Return a point, or its twin that is done right, with what was run of it; `asked`: an entry for each seed."""
    found = [(entry, Run(folder / "runs" / entry["id"])) for entry in asked]
    done = [
        (entry, run) for entry, run in found if (run.path / "config.toml").is_file() and run.finished and run.metrics
    ]
    runs = tuple(run for _, run in done)
    reasons = (entry["not_run"] for entry in asked if entry.get("not_run"))
    twin = id_ != point.id
    return Row(
        number=number,
        id=id_,
        title=_say_stand_in(asked[0]["title"] if asked else point.title, point, runs),
        claims=() if twin else tuple(point.claims),
        says="" if twin else point.says,
        line=point.line,
        note="" if twin else point.note,
        runs=runs,
        held=_of_seeds([(run, text) for entry, run in done for text in _held(entry, run)], len(done)),
        reason="" if runs else next(reasons, "not run yet"),
    )


def _say_stand_in(title: str, point: StudyPoint, runs: Sequence[Run]) -> str:
    """Return a point's title with the network that its runs have and its size, where that is not the recipe's own.

    What was asked for last does not tell: the run may come from an earlier call, with another network.
    """
    own = load_config(point.recipe, changes=point.changes).model.name
    other = []
    for run in runs:
        if (name := run.config.model.name) != own:
            stands_in = f"{name} in place of {own}"
            title = title.replace(f", {stands_in}", "")
            other.append((run, f"{stands_in}{_at_size(run)}"))
    return ", ".join([title, *_of_seeds(other, len(runs))])


def _at_size(run: Run) -> str:
    """Return the size of the pictures that a run's network took, in words; nothing where its bundle is gone."""
    try:
        spec = json.loads((run.path / BUNDLE / "model.json").read_text(encoding="utf-8"))["input"]
        return f" at {spec.get('model_px') or spec['size_px']} px"
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return ""


def _held(entry: dict[str, Any], run: Run) -> list[str]:
    """Return what a run was held to, in words."""
    found = []
    if minutes := run.config.training.minutes:
        found.append(f"at most {minutes:g} minutes of training")
    scale = (entry.get("limits") or {}).get("epochs_scale", 1.0)
    if scale != 1.0:
        found.append(f"a quick look: epochs times {scale:g}, so not the published settings")
    return found


def _of_seeds(texts: Sequence[tuple[Run, str]], runs: int) -> tuple[str, ...]:
    """Return what is said of runs, each once; of which seeds, where it is not said of all of them."""
    seeds: dict[str, list[str]] = {}
    for run, text in texts:
        seeds.setdefault(text, []).append(str(run.config.training.seed))
    return tuple(text if len(found) == runs else f"{text} (seed {', '.join(found)})" for text, found in seeds.items())


def _context(study: Study, folder: Path, rows: Sequence[Row], pictures: Path | None) -> dict[str, Any]:
    """Return what the template shows."""
    done = {row.id: row for row in rows if row.runs}
    held = {row.held for row in done.values()}
    shared = next(iter(held)) if len(held) == 1 else ()  # said once above the table; else in each row
    return {
        "study": study,
        "argument": _argument(study),
        "held": shared,
        "data": _describe_data(done),
        "finished": len(done),
        "points": len(rows),
        "rows": [_table_row(row, () if shared else row.held, study.pixels) for row in rows if row.runs or row.claims],
        "missing": [(row.id, row.title, row.reason) for row in rows if not row.runs],
        "mistakes": _mistakes(study, done),
        "overlays": [chart for overlay in study.overlays if (chart := _overlay(overlay.title, overlay.points, done))],
        "costs": _costs(rows),
        "sizes": _sizes(study, done),
        "tables": [compare_layers(table) for table in study.layer_tables],
        "answers": _answers(done, pictures),
        "verdicts": [(row.number, row.id, _verdict(row)) for row in done.values()],
    }


def _describe_data(done: dict[str, Row]) -> str:
    """Return what our figures were measured on."""
    names = []
    for row in done.values():
        known = row.runs[0].provenance
        name = str(known.get("dataset", ""))
        origin = f"{known.get('dataset_origin', '')} {known.get('dataset_layout', '')}".lower()
        # The official pictures are arrays: a copy of them as JPEG files has lost something.
        names.append("CIFAR-10 (JPEG 75)" if name == "cifar10" and "jpeg" in origin else name)
    return ", ".join(dict.fromkeys(filter(None, names)))


def _table_row(row: Row, held: Sequence[str], pixels: str = "") -> dict[str, Any]:
    """Return a row of the table; `held` is said of it alone, `pixels` is what the publication's figures are of."""
    seconds = row.mean("seconds", "test")
    train_seconds = row.mean("train_seconds")
    return {
        "number": row.number,
        "id": row.id,
        "title": row.title,
        "line": row.line,
        "says": row.says,
        "note": " ".join([row.note, *map(words.sentence, held)]).strip(),
        "published": [cite_claim(claim, pixels) for claim in row.claims],
        "published_minutes": _listed(claim.minutes for claim in row.claims),
        "published_seconds": _listed(claim.seconds for claim in row.claims),
        "ours": [text for split in ("test", "val", "train") if (text := row.figure(split))],
        "minutes": words.minutes(train_seconds / 60) if train_seconds is not None else "",
        "seconds": words.minutes(seconds) if seconds is not None else "",
        "reason": row.reason,
    }


def _listed(values: Any) -> str:
    return ", ".join(f"{value:g}" for value in values if value is not None)


def _mistakes(study: Study, done: dict[str, Row]) -> list[dict[str, Any]]:
    """Return what each mistake does to the number, where it was made and undone."""
    found = []
    for point in study.points:
        wrong, right = done.get(point.id), done.get(point.id + RIGHT)
        if not point.mistakes or wrong is None or right is None:
            continue
        sentences = [MISTAKES[name].text for name in point.mistakes]
        split = headline_split(wrong.metrics[0])
        if split is None or not right.metrics[0].get(split):
            continue
        first, second = (row.figure(split) for row in (wrong, right))
        change = _difference(wrong, right, split)
        if point.mistakes == ["augmented-val"]:
            # Both on the pictures of val: as the loop saw them, and as they are.
            best = wrong.metrics[0]["best_epoch"]
            seen = next((one.get("val/top1") for one in wrong.runs[0].history if one.get("epoch") == best), None)
            n = wrong.metrics[0]["val"]["n"]
            share = words.MISSING if seen is None else words.share(round(seen * n), n)
            seed = wrong.runs[0].config.training.seed
            first = f"augmented val: {share} on val while training (n = {words.whole(n)}, epoch {best}, seed {seed})"
            second = describe_top1(wrong.metrics[0]["val"], "val") + ", the same run on pictures as they are"
            change = words.MISSING
            if seen is not None:
                change = f"{words.points(wrong.metrics[0]['val']['top1'] - seen)} between the two"
        found.append(
            {
                "id": point.id,
                "title": point.title,
                "texts": sentences,
                "wrong": first,
                "right": second,
                "change": change,
            }
        )
    return found


def _difference(wrong: Row, right: Row, split: str) -> str:
    """Return the difference of two points in accuracy with its 95 % interval, on the same pictures, paired by seed."""
    twins = {run.config.training.seed: run for run in right.runs}
    pairs = [(twins[seed], run) for run in wrong.runs if (seed := run.config.training.seed) in twins]
    if not pairs:
        return "no seed that both have, so no difference"
    try:
        kept: list[list[dict[Any, SplitPredictions]]] = [
            [dict(read_predictions(run.path / "predictions.npz")) for run in pair] for pair in pairs
        ]
        asked = [[one[split] for one in pair] for pair in kept]
    except (EyespotError, KeyError) as error:
        return f"no difference, for want of predictions ({error})"
    if any(list(one.ids) != list(asked[0][0].ids) for pair in asked for one in pair):
        return f"no difference: they were not measured on the same {split} pictures"
    hits = [[one.logits.argmax(axis=1) == one.labels for one in pair] for pair in asked]
    change, p = paired_difference(np.stack([pair[0] for pair in hits]), np.stack([pair[1] for pair in hits]))
    measured = (
        f"{words.signed_interval((change.low, change.high))}, {words.p_value(p)}, {words.plural(len(hits), 'seed')}"
    )
    if p >= 0.05:
        return f"no difference can be told ({words.signed_points(change.mean)} {measured})"
    direction = "above" if change.mean > 0 else "below"
    return f"as published is {words.points(change.mean)} {direction} done right ({measured})"


def _overlay(title: str, ids: Sequence[str], done: dict[str, Row]) -> dict[str, Any] | None:
    """Return curves of accuracy and loss of several runs, train dashed."""
    drawn = [
        (place, done[id_])
        for place, id_ in enumerate(ids)
        # The curves of a fine-tuning that was not kept are not those of what was measured.
        if id_ in done and done[id_].runs[0].history and not (done[id_].metrics[0].get("head") or {}).get("kept")
    ]
    if not drawn:
        return None
    pictures = []
    for key, write_y in (("top1", words.axis_percent), ("loss", words.axis_number)):
        lines = []
        for place, row in drawn:
            history = row.runs[0].history
            named = "val" if any(one.get(f"val/{key}") is not None for one in history) else "train"
            for split, css in (("train", f"r{place % _HUES} dashed"), ("val", f"r{place % _HUES}")):
                name = str(row.number) if split == named else ""
                lines.append(charts.series_of(history, f"{split}/{key}", name, css))
        chart = charts.line_chart(
            lines,
            title=f"{title}: {key}",
            x_label="epoch",
            write_y=write_y,
            log_y=key == "loss" and charts.loss_is_logarithmic(lines),
            height=240,
        )
        pictures.append(Markup(chart))
    legend = [(row.number, f"r{place % _HUES}", row.title) for place, row in drawn]
    return {"title": title, "accuracy": pictures[0], "loss": pictures[1], "legend": legend}


def _costs(rows: Sequence[Row]) -> list[tuple[str, Markup]]:
    """Return accuracy over what it cost: training, answers, parameters, multiplications."""
    cost = _Cost()
    axes: dict[str, list[charts.Spot]] = {
        "minutes of training": [],
        "seconds for all test pictures": [],
        "pictures a second": [],
        "million parameters": [],
        "GFLOP for one picture": [],
    }
    for row in rows:
        for run, metrics in zip(row.runs, row.metrics, strict=True):
            split = headline_split(metrics)
            if split is None:
                continue
            found = metrics[split]
            size = cost.of(run)
            values = (
                metrics["train_seconds"] / 60,
                found["seconds"],
                found["images_per_second"] or 0.0,
                size[0] / 1e6 if size else 0.0,
                2 * size[1] / 1e9 if size else 0.0,  # a multiplication and an addition
            )
            number, css, source = str(row.number), "test", "ours"
            if found.get("flaw"):
                number, css, source = f"{number}!", "serious", "ours with a published mistake"
            for spots, value in zip(axes.values(), values, strict=True):
                low, high = found["top1_ci95"]
                spots.append(charts.Spot(number, css, value, found["top1"], low, high, source))
        for claim in row.claims:
            for axis, value in (
                ("minutes of training", claim.minutes),
                ("seconds for all test pictures", claim.seconds),
            ):
                if value:
                    error = claim.error or 0.0
                    bounds = (claim.top1 - error, claim.top1 + error)
                    axes[axis].append(
                        charts.Spot(row.number, "claim", value, claim.top1, *bounds, "published", hollow=True)
                    )
    drawn = [
        (axis, charts.cost_chart(spots, title=f"Accuracy over {axis}", x_label=axis, write_y=words.axis_percent))
        for axis, spots in axes.items()
    ]
    return [(axis, Markup(chart)) for axis, chart in drawn if chart]


def _sizes(study: Study, done: dict[str, Row]) -> list[tuple[str, Markup, list[str]]]:
    """Return accuracy on test over the number of training pictures."""
    found = []
    for sizes in study.data_sizes:
        series, texts = [], []
        for place, line in enumerate(sizes.lines):
            rows = [done[id_] for id_ in line.points if id_ in done and done[id_].mean("top1", "test") is not None]
            counts = [row.mean("drawn_from", "train") or row.mean("n", "train") or 1.0 for row in rows]
            if rows:
                values = [row.mean("top1", "test") or 0.0 for row in rows]
                series.append(charts.Series(line.name, f"r{place % _HUES}", counts, values))
            texts += [
                f"{line.name}, {words.whole(n)} training pictures: {row.figure('test')}"
                for n, row in zip(counts, rows, strict=True)
            ]
        if series:
            chart = charts.line_chart(
                series,
                title=sizes.title,
                x_label="training pictures",
                write_y=words.axis_percent,
                log_x=True,
                height=240,
            )
            found.append((sizes.title, Markup(chart), texts))
    return found


def _answers(done: dict[str, Row], pictures: Path | None) -> dict[str, Any]:
    """Return what every run says to pictures from outside of the data."""
    from eyespot.evaluation.predictor import load_predictor

    if not done:
        return {}
    if pictures is None:
        import sklearn.datasets

        paths = sorted((Path(sklearn.datasets.__file__).parent / "images").glob("*.jpg"))
    else:
        if not pictures.is_dir():
            raise RunError("no such folder", where=pictures, remedy="give a folder of pictures with --pictures")
        paths = sorted(path for path in pictures.iterdir() if path.suffix.lower() in _PICTURES)[:_MOST_PICTURES]
    shown, lines = [], []
    for path in paths:
        try:
            shown.append((path.name, _thumbnail(path)))
        except EyespotError:
            shown.append((path.name, ""))
    for row in done.values():
        try:
            answers = load_predictor(row.runs[0].path).predict(paths)
        except EyespotError as error:  # of this run alone: the others still have their say
            lines.append((row.number, row.id, [f"no answer: {error.what}"] * len(paths)))
            continue
        said = [
            f"no answer: {answer.error}" if answer.error else f"{answer.label}, {words.percent(answer.prob)} sure"
            for answer in answers
        ]
        lines.append((row.number, row.id, said))
    return {"pictures": shown, "lines": lines, "own": pictures is not None}


def _thumbnail(path: Path) -> str:
    """Return a picture, small, for the page.

    Raises:
        BadImageError: It cannot be decoded, or is over the limits.
    """
    from eyespot.data.decoding import decode_image

    return str(thumbnail(decode_image(path, channels=3))["src"])


def _verdict(row: Row) -> str:
    run, metrics = row.runs[0], row.metrics[0]
    split = headline_split(metrics)
    names = list(metrics[split].get("per_class", {})) if split else []
    return judge(
        run.history,
        metrics,
        num_classes=max(len(names), 2),
        epochs_planned=run.config.training.epochs,
        class_names=names,
    ).sentence
