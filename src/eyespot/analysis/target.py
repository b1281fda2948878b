"""Whether a run has the accuracy that was asked of it beforehand, and after how much training val had it.

Before this: the figures and the curves. After this: `metrics.json`, the terminal and the report say the same.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from eyespot.analysis import words
from eyespot.analysis.headline import describe_top1, headline_split
from eyespot.analysis.verdict import Finding, Severity


def measure_target(
    target_top1: float, metrics: Mapping[str, Any], history: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    """Return what `metrics.json` keeps under `target`; nothing without a target.

    Args:
        target_top1: Accuracy in (0, 1) that was set before the training; 0 for none.
        metrics: The figures of the splits.
        history: Rows of `history.jsonl`.

    Returns:
        `top1`, the target; `reached`, true or false where the whole interval of the headline figure lies on one side of
        it, else None; where val was looked at after every epoch also the first `epoch` in which it had the target, with
        the `seconds` of training until then, both None where there was none.
    """
    if not target_top1:
        return {}
    split = headline_split(metrics)
    found: dict[str, Any] = {"top1": target_top1, "reached": None}
    if split in ("test", "val") and not metrics[split].get("flaw"):
        low, high = metrics[split]["top1_ci95"]
        found["reached"] = True if low >= target_top1 else False if high < target_top1 else None
    looks = [row for row in history if row.get("val/top1") is not None]
    if looks and not (metrics.get("head") or {}).get("kept"):  # the epochs of a network that was not kept
        first: Mapping[str, Any] = next((row for row in looks if row["val/top1"] >= target_top1), {})
        found |= {"epoch": first.get("epoch"), "seconds": first.get("seconds")}
    return found


def describe_target(metrics: Mapping[str, Any]) -> list[Finding]:
    """Return one finding about the target, or none where none was set."""
    target = metrics.get("target")
    if not target:
        return []
    kind: str
    severity: Severity
    split = headline_split(metrics)
    asked = f"The accuracy of {100 * target['top1']:.4g} % that was asked for"
    kind, severity = "target-open", "note"
    if split not in ("test", "val"):
        text = f"{asked} is one of new pictures, and none were measured."
    elif metrics[split].get("flaw"):
        text = f"{asked} cannot be judged by a figure with a mistake: {describe_top1(metrics[split], split)}."
    elif target["reached"] is None:
        text = f"{asked} may be reached or not: it lies within the interval of {describe_top1(metrics[split], split)}."
    elif target["reached"]:
        kind, text = "target-reached", f"{asked} is reached: {describe_top1(metrics[split], split)}."
    else:
        kind, severity = "target-missed", "warning"
        text = f"{asked} is missed: {describe_top1(metrics[split], split)}."
    if split == "val" and target["reached"]:
        text += " Epochs and settings may have been chosen by val: test says it better."
    if target.get("epoch"):
        text += f" Val had it first after epoch {target['epoch']}, {words.duration(target['seconds'])} of training;"
        text += " of many looks the first lucky one is early."
    elif "epoch" in target:
        text += " Val did not have it after any epoch."
    return [Finding(kind, severity, text)]
