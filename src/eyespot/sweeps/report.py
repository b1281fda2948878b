"""The report of a sweep: what won, how far that can be believed, what each setting did, and every trial.

Before this: the journal and the run folders. After this: `report.html`, one file that opens offline.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from eyespot.analysis import charts, words
from eyespot.analysis.headline import describe_top1
from eyespot.analysis.pages import render_page, write_page
from eyespot.analysis.verdict import Finding, sort_findings
from eyespot.config import parse_config, recipe_text
from eyespot.errors import ConfigError, quoted
from eyespot.runs import Run
from eyespot.sweeps.journal import Journal, Trial
from eyespot.sweeps.space import Factor, setting_of

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution

# An importance from fewer finished trials is a hint: docs/decisions/013-sweeps.md has the simulation.
_FEW_TRIALS = 20
_EDGE = 0.05


def importances(journal: Journal) -> dict[str, float]:
    """Return each factor's share of the variance of val over the space; empty where it cannot be told.

    The shares of all factors add up to less than 1: the rest is what they do together.

    Source:
        fANOVA: Hutter, Hoos and Leyton-Brown 2014, ICML, as `optuna.importance.FanovaImportanceEvaluator`. Changed:
        over the logarithm where that is searched, of which Optuna's knows nothing.
    """
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    plan = journal.plan
    scales = {factor.key: factor.log for factor in plan.space.factors}
    distributions = {factor.key: _linear(factor) for factor in plan.space.factors}
    study = optuna.create_study(direction="maximize" if plan.mode == "max" else "minimize")
    for trial in journal.ordered():
        value, drawn = trial.value(plan.metric), plan.space.drawn(trial.settings)
        if trial.state == "finished" and value is not None and drawn is not None:
            params = {key: math.log(one) if scales[key] else one for key, one in drawn.items()}
            study.add_trial(optuna.trial.create_trial(value=value, params=params, distributions=distributions))
    values = {trial.value for trial in study.trials}
    if len(study.trials) < 4 or len(values) < 2 or len(distributions) < 2:
        return {}
    # Not `get_param_importances`, which makes them add up to 1, also where settings matter only together.
    return dict(optuna.importance.FanovaImportanceEvaluator(seed=0).evaluate(study))


def _linear(factor: Factor) -> BaseDistribution:
    """Return a factor's range on the scale that is searched."""
    from optuna.distributions import FloatDistribution

    return FloatDistribution(math.log(factor.low), math.log(factor.high)) if factor.log else factor.distribution()


def write_sweep_report(journal: Journal) -> None:
    """Write the report of a sweep, finished or not.

    Raises:
        RunError: The file cannot be written.
    """
    write_page(render_sweep_report(journal), journal.folder / "report.html")


def render_sweep_report(journal: Journal) -> str:
    """Return the report as the text of an HTML page."""
    plan, result, trials = journal.plan, journal.result, journal.ordered()
    winner = journal.winner()
    shares = importances(journal)
    config = parse_config(_recipe(journal), where=str(journal.folder))
    split = "test" if result.get("test") else "val"
    finished = [trial for trial in trials if trial.state == "finished"]
    context = {
        "name": journal.folder.name,
        "subtitle": _subtitle(journal),
        "headline": {"top1": words.percent(result[split]["top1"]), "split": split} if result and winner else None,
        "sentence": _sentence(journal, winner),
        "interval_chart": Markup(_interval_chart(result)),
        "figures": _figures(journal, winner),
        "findings": sort_findings(_findings(journal, winner)),
        "winner": winner.name if winner else "",
        "settings": [
            (key, words.spell(value), words.spell(setting_of(config, key))) for key, value in winner.settings.items()
        ]
        if winner
        else [],
        "factors": _factors(journal, winner, shares),
        "factors_note": _factors_note(journal),
        "progress": Markup(_progress(journal, winner)),
        "importance_note": _importance_note(shares, len(finished)),
        "keys": plan.space.keys,
        "trials": [_row(journal, trial, winner) for trial in trials],
        "trials_note": _trials_note(journal),
        "space": [(factor.key, factor.describe()) for factor in plan.space.factors],
        "budget": _budget(journal),
        "commands": _commands(journal, winner),
    }
    return render_page("sweep.html.j2", context)


def _recipe(journal: Journal) -> str:
    """Return the text of what all trials share."""
    return recipe_text(str(journal.folder / "recipe.toml"))


# -------------------------------------------------------------------------------------------------------------- the top


def _subtitle(journal: Journal) -> str:
    plan = journal.plan
    return f"{plan.data} · recipe {plan.recipe} · {words.plural(len(plan.space.factors), 'setting')} searched"


def _counts(journal: Journal) -> dict[str, int]:
    states = [trial.state for trial in journal.ordered()]
    return {state: states.count(state) for state in ("finished", "stopped", "failed", "waiting")}


def _sentence(journal: Journal, winner: Trial | None) -> str:
    result = journal.result
    if winner is None:
        return "No trial was finished, so nothing was chosen and test was not read."
    val = describe_top1(result["val"] if result else _figures_of(winner), "val")
    looks = words.plural(len(journal.trials), "trial")
    text = f"Trial {winner.number} was the best of {looks} on val: {val}."
    if len(journal.trials) == 1:
        return text
    text += " The best of several looks is partly luck, so that figure is optimistic"
    if result.get("test"):
        return f"{text}; test, which no trial has seen, says {describe_top1(result['test'], 'test')}."
    return f"{text}, and the data have no test split that could say how much."


def _figures_of(winner: Trial) -> dict[str, Any]:
    """Return the figures of a finished trial on val, as metrics.json names them."""
    return {"n": winner.n, "top1": winner.top1, "top1_ci95": winner.top1_ci95}


def _interval_chart(result: Mapping[str, Any]) -> str:
    rows = [
        charts.Interval(name, name, result[name]["top1"], *result[name]["top1_ci95"])
        for name in ("test", "val")
        if result.get(name)
    ]
    if not rows:
        return ""
    classes = len(result["val"].get("confusion") or [0, 0])
    return charts.interval_chart(rows, title="Accuracy of the winner with 95 % interval", chance=1 / classes)


def _figures(journal: Journal, winner: Trial | None) -> list[tuple[str, str, str]]:
    counts = _counts(journal)
    trials = journal.ordered()
    seconds = sum(trial.seconds or 0.0 for trial in trials)
    ends = [f"{count} {state}" for state, count in counts.items() if count and state != "finished"]
    found = [("Trials finished", str(counts["finished"]), ", ".join(ends) or "none stopped, none failed")]
    if winner is not None and winner.top1_ci95 is not None:
        detail = f"{words.interval(winner.top1_ci95)}, n = {words.whole(winner.n or 0)}, best of {len(trials)}"
        found.append(("Val accuracy", words.percent(winner.top1), detail))
    own = _own_trial(journal)
    if own is not None and winner is not None and own.top1_ci95 is not None:
        detail = f"val, {words.interval(own.top1_ci95)}, n = {words.whole(own.n or 0)}, trial {own.number}"
        found.append(("The recipe as it was", words.percent(own.top1), detail))
    found.append(("Training time", words.duration(seconds), "of all trials together"))
    full = journal.plan.epochs * len(trials)
    taken = sum(trial.epochs for trial in trials)
    if counts["stopped"] and full:
        found.append(("Epochs trained", words.whole(taken), f"of {words.whole(full)} without stopping early"))
    return found


def _own_trial(journal: Journal) -> Trial | None:
    """Return the trial with the recipe's own settings, where it was finished."""
    config = parse_config(_recipe(journal), where=str(journal.folder))
    own = {key: setting_of(config, key) for key in journal.plan.space.keys}
    for trial in journal.ordered():
        if trial.state == "finished" and dict(trial.settings) == own:
            return trial
    return None


# ------------------------------------------------------------------------------------------------------------- cautions


def _findings(journal: Journal, winner: Trial | None) -> list[Finding]:
    """Return what a reader should know before believing the winner."""
    plan, found = journal.plan, []
    counts, trials = _counts(journal), journal.ordered()
    if winner is None:
        return [Finding("nothing-finished", "serious", "No trial came to its end; the table below says why.")]
    if len(trials) > 1:
        text = (
            f"The winner was chosen because its figure on val was the best of {len(trials)}. Quote its figure on test, "
            "never the one on val."
        )
        found.append(Finding("chosen-on-val", "note", text))
    if (reads := journal.result.get("test_reads", 0)) > 1:
        text = (
            f"This sweep has read test {reads} times: for another winner after it was extended, or again after it was "
            "killed at that. Each look makes the figure a little less of a surprise; a last one should be on pictures "
            "that nobody has seen."
        )
        found.append(Finding("test-read-more-than-once", "warning", text))
    if close := _close_ones(journal, winner):
        names = ", ".join(str(trial.number) for trial in close[:8])
        above = " or above it" if plan.metric == "val/loss" else ""
        text = (
            f"{words.plural(len(close), 'other finished trial')} ({names}{', ...' if len(close) > 8 else ''}) lie"
            f"{'s' * (len(close) == 1)} inside the winner's interval on val{above}: in accuracy these n = "
            f"{words.whole(winner.n or 0)} pictures cannot show the winner above them. Any of them may be as "
            "good; repeat the best two or three with other seeds before saying that a setting is better."
        )
        found.append(Finding("not-told-apart", "warning", text))
    found.append(
        Finding("one-seed", "note", "Every trial was trained once, with one seed: the spread over seeds is not in it.")
    )
    found += [finding for factor in plan.space.factors if (finding := _at_the_edge(journal, factor, winner))]
    if counts["failed"]:
        failed = next(trial for trial in trials if trial.state == "failed")
        text = f"{words.plural(counts['failed'], 'trial')} failed, the first with: {failed.reason}."
        found.append(Finding("failed-trials", "note", text))
    if counts["waiting"]:
        text = f"{words.plural(counts['waiting'], 'trial')} on the way when the sweep was stopped; --resume goes on."
        found.append(Finding("not-over", "warning", text))
    return found


def _close_ones(journal: Journal, winner: Trial) -> list[Trial]:
    if winner.top1_ci95 is None:
        return []
    low = winner.top1_ci95[0]
    others = [trial for trial in journal.ordered() if trial.state == "finished" and trial.number != winner.number]
    return [trial for trial in others if trial.top1 is not None and trial.top1 >= low]


def _place(factor: Factor, value: Any) -> float:
    """Return where a value lies between the ends of a range, 0 to 1, on the scale that is searched."""
    low, high, value = (math.log(x) if factor.log else x for x in (factor.low, factor.high, value))
    return float((value - low) / (high - low))


def _at_the_edge(journal: Journal, factor: Factor, winner: Trial) -> Finding | None:
    """Say that the best value is the last one that was searched, where the setting goes on behind it."""
    if factor.choice:
        return None
    value = winner.settings[factor.key]
    place = _place(factor, value)
    if _EDGE <= place <= 1 - _EDGE:
        return None
    side, end, sign = ("upper", factor.high, 1) if place > 0.5 else ("lower", factor.low, -1)
    beyond = (
        int(end) + sign if factor.int else end * 2.0**sign if factor.log else end + sign * (factor.high - factor.low)
    )
    try:
        parse_config(_recipe(journal), where="", changes={factor.key: beyond})
    except ConfigError:
        return None
    text = (
        f"The winner's {factor.key} = {words.spell(value)} lies at the {side} end of what was searched "
        f"({words.spell(end)}): better values may lie beyond. Widen the range."
    )
    return Finding("at-the-edge", "note", text)


# -------------------------------------------------------------------------------------------------------------- factors


def _write_value(metric: str, value: float) -> str:
    return f"{round(100 * value, 2):g} %" if metric == "val/top1" else f"{value:.3g}"


def _axis_writer(metric: str) -> Callable[[float], str]:
    return words.axis_percent if metric == "val/top1" else words.axis_number


def _factors(journal: Journal, winner: Trial | None, shares: Mapping[str, float]) -> list[dict[str, Any]]:
    """Return a scatter chart for each factor; trials without a figure that compares are not in it."""
    plan = journal.plan
    # A loss before calibration is none to put beside one after it.
    states = ("finished",) if plan.metric == "val/loss" else ("finished", "stopped")
    shown = [trial for trial in journal.ordered() if trial.state in states and trial.value(plan.metric) is not None]
    if len(shown) < 2:
        return []
    order = sorted(plan.space.factors, key=lambda factor: -shares.get(factor.key, 0.0))
    found = []
    for factor in order:
        dots = [_dot(factor, trial, winner, plan.metric) for trial in shown]
        chart = charts.scatter_chart(
            dots,
            title=f"{plan.metric} over {factor.key}",
            x_label=f"{factor.key}{', logarithmic' * factor.log}",
            write_y=_axis_writer(plan.metric),
            log_x=factor.log,
            whole_x=factor.int,
            categories=[words.spell(value) for value in factor.choice],
        )
        share = f"{round(100 * shares[factor.key])} %" if factor.key in shares else ""
        found.append({"key": factor.key, "chart": Markup(chart), "importance": share})
    return found


def _dot(factor: Factor, trial: Trial, winner: Trial | None, metric: str) -> charts.Dot:
    value, is_winner = trial.value(metric), winner is not None and trial.number == winner.number
    assert value is not None
    name = f"trial {trial.number}: {_write_value(metric, value)} at {words.spell(trial.settings[factor.key])}"
    light = trial.state == "stopped"
    return charts.Dot(
        float(factor.drawn(trial.settings[factor.key])),
        value,
        "test" if is_winner else "val",
        f"{name}, stopped after epoch {trial.epochs}" if light else name,
        light=light,
        ringed=is_winner,
    )


def _factors_note(journal: Journal) -> str:
    n, stopped = journal.val_n, ""
    count = f" (n = {words.whole(n)})" if n else ""
    if journal.plan.metric == "val/loss":
        return f"One dot a finished trial, its loss on val after calibration{count}. Ringed: the winner."
    if _counts(journal)["stopped"]:
        stopped = " Pale: stopped early, with the figure of its last epoch."
    return f"One dot a trial, its accuracy on val{count}. Ringed: the winner.{stopped}"


def _progress(journal: Journal, winner: Trial | None) -> str:
    """Return the finished trials in their order: whether the later ones are better."""
    metric = journal.plan.metric
    dots = []
    for trial in journal.ordered():
        value, is_winner = trial.value(metric), winner is not None and trial.number == winner.number
        if trial.state == "finished" and value is not None:
            name = f"trial {trial.number}: {_write_value(metric, value)}"
            css = "test" if is_winner else "val"
            dots.append(charts.Dot(trial.number, value, css, name, ringed=is_winner))
    return charts.scatter_chart(
        dots,
        title=f"{metric} of the finished trials in their order",
        x_label="trial",
        write_y=_axis_writer(metric),
        whole_x=True,
    )


def _importance_note(shares: Mapping[str, float], finished: int) -> str:
    if not shares:
        return ""
    text = (
        "Importance: each setting's share of the variance of val over the space, alone, as a random forest that was "
        f"fitted to the {finished} finished trials sees it (fANOVA); the rest is what settings do together. Where only "
        "chance sets trials apart, it is the chance that is shared out."
    )
    if finished < _FEW_TRIALS:
        return f"{text} From {finished} trials that is a hint and no finding: it takes {_FEW_TRIALS} or more."
    return text


# --------------------------------------------------------------------------------------------------------------- tables


def _row(journal: Journal, trial: Trial, winner: Trial | None) -> dict[str, Any]:
    is_winner = winner is not None and trial.number == winner.number
    # All trials have the same val pictures, those that were stopped too.
    n = journal.val_n
    top1 = words.percent(trial.top1)
    if trial.top1 is not None and n:
        top1 = words.share(round(trial.top1 * n), n)
    report = Run(journal.run_folder(trial)).report
    return {
        "number": trial.number,
        "state": "best" if is_winner else trial.state,
        "css": "best" if is_winner else "faint" if trial.state in ("stopped", "failed", "waiting") else "",
        "settings": [words.spell(trial.settings.get(key, "")) for key in journal.plan.space.keys],
        "epochs": words.whole(trial.epochs),
        "top1": top1,
        "loss": words.decimal(trial.loss),
        "n": words.whole(n) if n and trial.top1 is not None else "",
        "seconds": words.duration(trial.seconds),
        "reason": trial.reason,
        "href": f"trials/{trial.name}/report.html" if report.exists() else "",
    }


def _trials_note(journal: Journal) -> str:
    text = "All trials have the same train and val pictures. Intervals tell the chance of the val pictures only."
    if _counts(journal)["stopped"]:
        text += (
            " Stopped: behind the better third of those that came as far (ASHA); its figures are of its last epoch, in"
            " one view, and its loss is that before calibration: the losses of finished trials are those after it."
        )
    return text


def _budget(journal: Journal) -> list[tuple[str, str]]:
    plan = journal.plan
    what = "accuracy on val" if plan.metric == "val/top1" else "loss on val"
    stopped = "asynchronous successive halving (ASHA) of Ray Tune, on val after each epoch"
    return [
        ("Trials", f"{len(journal.trials)} of {plan.trials}"),
        ("Epochs of a trial", words.whole(plan.epochs)),
        ("Wall clock", f"at most {plan.minutes:g} min" if plan.minutes else "no limit"),
        ("Chosen by", f"{what}; equal ones by loss on val"),
        ("Settings suggested by", f"Optuna's tree-structured Parzen estimator, seed {plan.seed}"),
        ("Stopped early by", stopped if plan.stops_early else "nothing: the trials are too short for that"),
        ("Test read", f"{words.plural(journal.result.get('test_reads', 0), 'time')} by this sweep, by no trial"),
    ]


def _commands(journal: Journal, winner: Trial | None) -> Sequence[tuple[str, str]]:
    plan, folder = journal.plan, quoted(str(journal.folder))
    data, found = quoted(plan.data), []
    if winner is not None:
        best = quoted(str(journal.folder / "best.toml"))
        found.append(("Train the winner again with another seed:", f"eyespot train {data} --recipe {best} --seed 1"))
        run = quoted(str(journal.run_folder(winner)))
        found.append(("Use it as it is:", f"eyespot predict {run} PICTURE"))
    found.append(("Go on, with more trials:", f"eyespot sweep --resume --out {folder} --trials {plan.trials * 2}"))
    if plan.command:
        found.append(("This sweep again:", plan.command))
    return found
