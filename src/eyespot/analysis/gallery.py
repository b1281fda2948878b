"""Pictures with their answers and heat maps on one page, such as figure 8 of gomez2025 with one's own pictures.

Before this: `explain`. After this: the file that `explain --out` or `predict --gallery` names.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from eyespot.analysis import words
from eyespot.analysis.explain import Explanation
from eyespot.analysis.heatmaps import MapCheck, summarise_checks
from eyespot.analysis.overlays import shown_picture
from eyespot.analysis.pages import jpeg_data_uri, render_page, write_page

MOST_PICTURES = 1000  # on one page, about 20 MB
_MOST_FAILURES = 1000
TITLES = {"gradcam": "Grad-CAM", "integrated-gradients": "Integrated gradients", "occlusion": "Occlusion"}


class Gallery:
    """A page that grows while pictures are answered; it keeps small JPEG texts, not pixels.

    Args:
        title: Of the page.
        subtitle: Which model answered.
        notes: Sentences for the foot of the page.
    """

    def __init__(self, title: str, subtitle: str, notes: Sequence[str] = ()) -> None:
        self._title, self._subtitle, self._notes = title, subtitle, list(notes)
        self._cards: list[dict[str, Any]] = []
        self._checks: list[MapCheck | None] = []
        self._failures: list[tuple[str, str]] = []
        self._left_out = 0
        self._more_failures = 0

    @property
    def room(self) -> int:
        """Return how many more pictures have room on the page."""
        return MOST_PICTURES - len(self._cards)

    def add(self, explanations: Sequence[Explanation]) -> None:
        """Add pictures; those that could not be read are listed with their reason."""
        for one in explanations:
            if one.prediction.error is not None:
                self.fail(one.prediction.source, one.prediction.error)
            elif self.room > 0:
                self._cards.append(_card(one))
                self._checks += one.checks.values()
            else:
                self.leave_out(1)

    def fail(self, source: str, reason: str) -> None:
        """List a picture that has no answer."""
        if len(self._failures) < _MOST_FAILURES:
            self._failures.append((source, reason))
        else:
            self._more_failures += 1

    def leave_out(self, count: int) -> None:
        """Count pictures that were answered and have no room on the page."""
        self._left_out += count

    def write(self, path: Path) -> None:
        """Write the page.

        Raises:
            RunError: The file cannot be written.
        """
        context = {
            "title": self._title,
            "subtitle": self._subtitle,
            "cards": self._cards,
            "failures": self._failures,
            "more_failures": self._more_failures,
            "left_out": self._left_out,
            "most": MOST_PICTURES,
            "check": summarise_checks(self._checks),
            "notes": self._notes,
        }
        write_page(render_page("gallery.html.j2", context), path)


def _card(one: Explanation) -> dict[str, Any]:
    """Return what a page shows of one explanation."""
    assert one.shown is not None
    top = one.prediction.top
    return {
        "source": one.prediction.source,
        "src": jpeg_data_uri(one.shown),
        "label": one.prediction.label,
        "prob": words.percent(one.prediction.prob),
        "classes": [(score.name, words.percent(score.prob), f"{score.prob:.3f}") for score in top],
        "unknown": bool(getattr(one.prediction, "unknown", None)),
        "maps": [
            {
                "title": TITLES.get(method, method),
                "src": jpeg_data_uri(one.overlay(method)),
                "target": one.target,
                "told": describe_check(one.checks.get(method)),
                "failed": not (check := one.checks.get(method)) or not check.is_passed,
            }
            for method in one.heat
        ],
        "neighbours": [
            {
                "src": jpeg_data_uri(shown_picture(near.pixels)),
                "label": near.label,
                "similarity": f"{near.similarity:.2f}",
            }
            for near in one.neighbours
        ],
    }


def describe_check(check: MapCheck | None) -> str:
    """Return the check of one map in a sentence."""
    if check is None:
        return "Nothing in the picture speaks for this class."
    told = f"Hottest fifth covered: {words.percent(check.prob)} becomes {words.percent(check.hidden)}"
    told += f"; as much elsewhere: {words.percent(check.hidden_elsewhere)}."
    return told if check.is_passed else f"{told} Do not trust this map."
