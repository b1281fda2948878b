"""`eyespot evaluate`: a trained run measured on a labelled split, also under corruptions."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from eyespot.commands.options import BadImageOption, DeviceOption, JsonOption, RunArgument


def evaluate(
    run: RunArgument,
    data: Annotated[
        str | None,
        typer.Option(
            metavar="DATA", help="Other pictures with the same class names; the run's own data when left out."
        ),
    ] = None,
    split: Annotated[str, typer.Option(metavar="val|test|train", help="Which split to measure.")] = "test",
    views: Annotated[
        str | None,
        typer.Option(metavar="none|mirror|mirror-shift", help="Test-time views; those of the recipe when left out."),
    ] = None,
    on_bad_image: BadImageOption = None,
    robustness: Annotated[
        bool, typer.Option("--robustness", help="Measure under 15 kinds of corruption at 5 strengths, too.")
    ] = False,
    limit: Annotated[
        int | None,
        typer.Option(metavar="N", help="With --robustness: at most N pictures (1000 when left out, 0 for all)."),
    ] = None,
    device: DeviceOption = "auto",
    json: JsonOption = False,
) -> None:
    """Measure a trained run on a labelled split.

    Example: eyespot evaluate runs/photos --data more-photos/ --split test
    """
    from eyespot.analysis.headline import describe_top1
    from eyespot.errors import UsageError
    from eyespot.evaluating import evaluate as run_evaluation
    from eyespot.terminal import Terminal, print_json

    if robustness:
        return _evaluate_robustness(
            run, data, split=split, views=views, on_bad_image=on_bad_image, limit=limit, device=device, json=json
        )
    if limit is not None:
        raise UsageError("--limit without --robustness", where="the command line", remedy="give both or none")
    with Terminal(quiet=json) as terminal:
        result = run_evaluation(
            run, data=data, split=split, views=views, on_bad_image=on_bad_image, device=device, observer=terminal
        )
    if json:
        print_json({"run": str(run), "data": data, "split": split, **result.metrics})
    else:
        print(describe_top1(result.metrics, split))
    return None


def _evaluate_robustness(run: Path, data: str | None, *, json: bool, **asked: Any) -> None:
    """Measure the grid of corruptions and print it."""
    from eyespot.analysis import words
    from eyespot.analysis.headline import describe_count, describe_top1
    from eyespot.robustness import evaluate_robustness
    from eyespot.terminal import Terminal, print_json

    goes_on = "" if data is not None else "the same command goes on"
    with Terminal(quiet=json) as terminal, terminal.says_how_to_go_on(lambda: goes_on):
        found = evaluate_robustness(run, data, observer=terminal, **asked)
    if json:
        return print_json({"run": str(run), "data": data, **found})
    flaw = str(found.get("flaw", ""))
    count = {"n": found["n"], "drawn_from": found["of"] if found["n"] < found["of"] else None}
    print(describe_top1({**found["clean"], **count, "views": found["views"], "flaw": flaw}, found["split"]))
    for kind, figures in found["corruptions"].items():
        print(f"{kind:15}", *(f"{words.percent(figure['top1']):>7}" for figure in figures))
    print(f"{'shifted':15}", *(f"{words.percent(figure['top1']):>7}" for figure in found["shifted"]))
    print(f"{'mirrored':15} {words.percent(found['mirrored']['top1']):>7}")
    print(f"each figure above has a 95 % interval that reaches at most {words.corruption_reach(found)} from it")
    print(
        f"{flaw}{': ' * bool(flaw)}mean corruption error {words.corruption_error(found)} "
        f"on {found['split']} "
        f"(n = {describe_count(count)}; 15 kinds, strengths 1 to 5, drawn by eyespot)"
    )
    return None
