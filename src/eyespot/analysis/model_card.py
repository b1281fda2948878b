"""The card of a model: what it was made from, what it is good for, how sure its figures are, what nobody checked.

Before this: the bundle's info, `metrics.json` and the data card. After this: `README.md` in the bundle, Markdown that
a person reads first and a model hub shows. Nothing in it is a path or a name of the machine that trained it.

Source:
    What belongs on it: Mitchell et al. 2019, "Model Cards for Model Reporting", arXiv:1810.03993.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from eyespot.analysis import words
from eyespot.analysis.cautions import DataCard, find_cautions
from eyespot.analysis.headline import describe_count, describe_top1, describe_views, headline_split
from eyespot.analysis.verdict import Finding, Verdict, confused_pairs, sort_findings
from eyespot.data.dataset import SPLIT_NAMES
from eyespot.errors import printable

if TYPE_CHECKING:
    from eyespot.evaluation.bundle_info import BundleInfo

_MOST_CLASSES = 60  # a card is read on one screen; model.json lists every class
_MOST_CHARACTERS = 80
_MOST_PAIRS = 8
# What means something inside a line, at its start, or makes a link of an address.
_MARKS = re.compile(r"[\\`*_\[\]<>&|~@${}]|^[-+#=]|(?<=^\d)[.)]|:(?=//)|(?<=www)\.", re.IGNORECASE)
_HTML = {"<": "&lt;", ">": "&gt;", "&": "&amp;"}


def model_card(
    info: BundleInfo, metrics: Mapping[str, Any], data: DataCard, *, final: bool = False, verdict: Verdict | None = None
) -> str:
    """Return the text of README.md.

    Args:
        info: The model.json that the card stands beside.
        metrics: As in `metrics.json`; each of `test`, `val` and `train` may be missing.
        data: What is known about the data.
        final: Whether val was trained on too.
        verdict: What `judge` says of the run; its warnings stand on the card, too.
    """
    known = info.provenance
    spec = info.input
    split = headline_split(metrics)
    cautions = find_cautions(data, metrics, num_classes=info.num_classes, final=final)
    parts = [
        f"# {plain(known.recipe)} on {plain(known.dataset)}",
        f"An image classifier for {words.plural(info.num_classes, 'class', 'classes')}: "
        f"network {plain(info.architecture.name)}, "
        f"pictures as {spec.input_px} x {spec.input_px} px, {'grey' if spec.channels == 1 else 'RGB'}. "
        + (f"Accuracy: {describe_top1(metrics[split], split)}." if split else "It was not measured."),
        _section("Intended use", _use(info)),
        _section("Data", _data(info, data)),
        _section("Figures", _figures(metrics)),
        _section("To know before believing a figure", _cautions(verdict, cautions)),
        _section("Confidence", _confidence(metrics)),
        _section("Unknown pictures", _unknown(metrics)),
        _section("Known confusions", _confusions(metrics, split, info.class_names)),
        _section("What was checked", _checked(data)),
        _section("What was not checked", _not_checked(data)),
        _section("Weights", _weights(info)),
        _section("How to load it", _load()),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def plain(text: str, most: int = _MOST_CHARACTERS) -> str:
    """Return a stranger's text so that Markdown and HTML show it and do nothing else: one line, its marks escaped."""
    shown = printable(text)
    if len(shown) > most:
        shown = shown[: most - 3] + "..."
    return _MARKS.sub(lambda found: _HTML.get(found[0], "\\" + found[0]), shown)


def _section(title: str, paragraphs: Sequence[str]) -> str:
    return "\n\n".join([f"## {title}", *paragraphs]) if paragraphs else ""


def _use(info: BundleInfo) -> list[str]:
    names = [plain(name) for name in info.class_names[:_MOST_CLASSES]]
    more = info.num_classes - len(names)
    listed = ", ".join(names) + (f" and {words.whole(more)} more, in model.json" if more else "")
    return [
        f"It names one of: {listed}.",
        "It is meant for pictures like those it was trained on: one subject a picture, taken and framed in a similar "
        "way. It cannot name anything else, finds no places in a picture and counts nothing. It was not examined for "
        "decisions about people, nor for any use in which a wrong answer does harm.",
    ]


def _data(info: BundleInfo, data: DataCard) -> list[str]:
    counts = {name: sum(classes.values()) for name, classes in data.get("counts", {}).items()}
    pictures = ", ".join(f"{words.whole(count)} {name}" for name, count in counts.items())
    told = [f"{plain(info.provenance.dataset)}{f': {pictures} pictures' if pictures else ''}."]
    told += [f"Content fingerprint: `{info.provenance.dataset_fingerprint}`."]
    if data.get("preparation"):
        told.append(f"Preparation: {plain(data['preparation'], 500)}.")
    return [" ".join(told), *(f"{plain(str(note), 500).rstrip('.')}." for note in data.get("notes", ()))]


def _figures(metrics: Mapping[str, Any]) -> list[str]:
    rows = []
    for name in reversed(SPLIT_NAMES):
        if (found := metrics.get(name)) is None:
            continue
        flaw = f"{found['flaw']}: " if found.get("flaw") else ""
        accuracy = f"{flaw}{words.percent(found['top1'])} {words.interval(found['top1_ci95'])}"
        rows.append(
            f"| {name} | {describe_count(found)} | {accuracy} | {words.top5(found)} "
            f"| {words.decimal(found.get('nll_loss'))} | {describe_views(found.get('views')) or words.MISSING} |"
        )
    if not rows:
        return []
    head = "| split | n | accuracy [95 % interval] | top-5 [95 %] | loss (nats) | views |\n|---|---|---|---|---|---|\n"
    reads = metrics.get("test_reads")
    note = (
        "The interval says what other pictures drawn the same way could give; another seed would move the figure, too."
    )
    if reads:
        often = "once" if reads == 1 else f"{words.whole(reads)} times"
        note += f" Test had been read {often} when this card was written."
    return [head + "\n".join(rows), note]


def _confidence(metrics: Mapping[str, Any]) -> list[str]:
    fitted = metrics.get("calibration") or {}
    rows = []
    for name in ("test", "val"):
        found = metrics.get(name) or {}
        before = found.get("uncalibrated")
        if not before:
            continue
        for title, numbers in (("before", before), ("after", found)):
            rows.append(
                f"| {name}, {title} | {words.whole(found['n'])} | "
                + " | ".join(words.calibration_figures(numbers))
                + " |"
            )
    if not rows:
        return []
    told = f"Logits are divided by the temperature {fitted.get('temperature', 1.0):.4g}"
    told += f", fitted on {words.plural(fitted['n'], 'val picture')}." if fitted.get("n") else "."
    if fitted.get("note"):
        told += f" Note: {fitted['note']}."
    head = "| split | n | ECE (15 bins) [95 %] | adaptive ECE [95 %] | Brier score | loss (nats) |\n"
    head += "|---|---|---|---|---|---|\n"
    return [told, head + "\n".join(rows)]


def _unknown(metrics: Mapping[str, Any]) -> list[str]:
    fitted = metrics.get("unknown") or {}
    rule = fitted.get("rule")
    if not rule:
        return [words.sentence(fitted.get("note") or "there is no rule for them: the model never says unknown")]
    told = (
        f"A picture is called unknown when its score ({', '.join(rule['parts'])}) is above {rule['threshold']:.4g}, "
        f"{words.unknown_rule(rule)}."
    )
    test = metrics.get("test") or {}
    if found := test.get("unknown"):
        told += (
            f" On test (n = {words.whole(test['n'])}) {words.percent(found['refused_fraction'])} "
            f"{words.interval(found['refused_ci95'])} are refused{words.accuracy_on_the_rest(found)}."
        )
    return [told, "Pictures that resemble a class without belonging to it are often not recognised as unknown."]


def _confusions(metrics: Mapping[str, Any], split: str | None, names: Sequence[str]) -> list[str]:
    if split is None or not metrics[split].get("confusion"):
        return []
    pairs = confused_pairs(metrics[split]["confusion"], _MOST_PAIRS)
    count = f"n = {words.whole(metrics[split]['n'])}"
    if not pairs:
        return [f"None on {split} ({count})."]
    rows = [
        f"| {plain(names[pair.first])} | {plain(names[pair.second])} | {pair.first_as_second} of {pair.first_count} "
        f"| {pair.second_as_first} of {pair.second_count} |"
        for pair in pairs
    ]
    head = "| A | B | A taken for B | B taken for A |\n|---|---|---|---|\n"
    return [f"On {split} ({count}), the most frequent:", head + "\n".join(rows)]


def _checked(data: DataCard) -> list[str]:
    if "leaks" not in data:
        return []
    return [
        f"- Files that could not be decoded and were left out: {words.whole(int(data.get('skipped', 0)))}.\n"
        f"- Equal pixels: {words.plural(int(data.get('duplicates', 0)), 'group')} of equal pictures, "
        f"{words.whole(int(data.get('leaks', 0)))} of them in more than one split, "
        f"{words.whole(int(data.get('conflicts', 0)))} with different labels.\n"
        f"{_near_copies(data.get('near_across'))}"
        f"- Size: {words.plural(int(data.get('enlarged', 0)), 'picture')} had to be enlarged."
    ]


def _near_copies(across: Mapping[str, Any] | None) -> str:
    """Return the line about near copies, if somebody has looked for them."""
    if across is None:
        return ""
    if across.get("too_alike"):
        return "- Near copies: the pictures are too alike to tell them from likeness.\n"
    told = [
        f"{words.whole(across[split])} of {words.plural(across[f'{split}_total'], f'{split} picture')}"
        for split in ("test", "val")
        if across.get(f"{split}_total")
    ]
    counted = ", ".join(told)
    return f"- Near copies on both sides of the division, by a search that misses some: {counted}.\n" if told else ""


def _cautions(verdict: Verdict | None, cautions: Sequence[Finding]) -> list[str]:
    """Return the warnings about the run, then what limits its figures, as one list."""
    judged = [found for found in (verdict.findings if verdict else ()) if found.severity != "note"]
    # The notes stand in its own section.
    texts = [found.text for found in sort_findings([*judged, *cautions]) if found.kind != "about-the-run"]
    return ["\n".join(f"- {plain(text, 600)}" for text in texts)] if texts else []


def _not_checked(data: DataCard) -> list[str]:
    near = _near_copies(data.get("near_across"))
    lines = [
        "Whether pictures that differ in some pixels are of the same thing, person or moment"
        + (", beyond the near copies that were looked for." if near else " (`eyespot check` looks for near copies)."),
        "Whether the labels are right (`eyespot check --labels` looks for wrong ones).",
        "How much another seed would move the figures.",
        "Whether the pictures may be used: their licence and the rights of who is on them.",
        "Other cameras, places and times than those of the data.",
        # The card is written when the training ends, before anybody can have measured them.
        "Noise, blur, weather and compression, when this card was written (`eyespot evaluate RUN --robustness` "
        "measures them for the run's report).",
    ]
    return ["\n".join(f"- {line}" for line in lines)]


def _weights(info: BundleInfo) -> list[str]:
    known = info.provenance
    told = (
        f"Trained in {words.duration(known.train_seconds)} with seed {known.seed}, finished {plain(known.created)}. "
        "No licence is stated here for what was trained: that is for who publishes it to say."
    )
    if info.pretrained is None:
        return [f"From scratch: no other weights are in it. {told}"]
    source, licence = plain(info.pretrained.source, 300), plain(info.pretrained.licence, 300)
    return [f"Begun from {source}, licence: {licence}. {told}"]


def _load() -> list[str]:
    return [
        "```sh\neyespot predict THIS-FOLDER cat.jpg\n```",
        '```python\nimport eyespot\n\nanswer = eyespot.load("THIS-FOLDER").predict(["cat.jpg"])[0]\n'
        "print(answer.label, answer.prob, answer.unknown)\n```",
        "`model.json` says how a picture is prepared; `weights.safetensors` holds numbers and nothing that could run.",
    ]
