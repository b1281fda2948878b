"""The page in a real browser: choose, paste, unknown, error, phone width."""

from __future__ import annotations

import base64
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from eyespot.deployment.engine import open_engine
from eyespot.deployment.limits import Limits
from eyespot.runs import Run

from .test_server import Running, Slow, png, until

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if CHROMIUM is None:
        pytest.skip("no chromium on this machine")
    with playwright.sync_playwright() as api:
        browser = api.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


def test_what_still_waits_is_kept_and_what_was_answered_before_makes_room(browser: Any) -> None:
    server = Running(Slow(0), Limits())
    try:
        page = browser.new_page()
        page.goto(server.url)
        answer = '{"predictions":[{"top":[{"name":"cat","prob":0.4}]}]}'
        held: list[Any] = []
        waits = True

        def reply(route: Any) -> None:
            if waits:
                held.append(route)
            else:
                route.fulfill(body=answer, content_type="application/json")

        page.route("**/v1/predict*", reply)
        files = [{"name": f"{n:02}.png", "mimeType": "image/png", "buffer": png(n)} for n in range(40)]
        page.set_input_files("#files", files)
        page.wait_for_selector(".answer >> nth=39")
        waits = False
        for route in held:
            reply(route)
        assert until(lambda: page.locator(".answer.told-all").count() == 40)
        assert page.inner_text(".answer:last-child figcaption") == "00.png"
        page.set_input_files("#files", files[:1])
        assert until(lambda: page.locator(".answer.told-all").count() == 30)
        assert page.inner_text(".answer:last-child figcaption") == "11.png"
    finally:
        server.close()


def test_choose_paste_error_unknown_and_phone_width(browser: Any, trained: Run, tmp_path: Path) -> None:
    server = Running(open_engine(trained.path, engine="torch"), Limits())
    good, bad = tmp_path / "good.png", tmp_path / "bad.png"
    good.write_bytes(png(size=(40, 30)))
    bad.write_text("no picture")
    try:
        page = browser.new_page(viewport={"width": 390, "height": 800})
        asked: list[str] = []
        page.on("request", lambda request: asked.append(request.url))
        page.goto(server.url)
        # A condition in JavaScript would be evaluated again by polling, which the page's own policy forbids.
        page.wait_for_selector("#model:has-text('3 classes: cat, dog, eel')")
        page.set_input_files("#files", [str(good), str(bad)])
        page.wait_for_selector(".answer.bad >> text=text file")
        page.wait_for_selector(".answer:not(.bad):not(.waiting) .bars li >> nth=2")
        paste = (
            "data => { const bytes = Uint8Array.from(atob(data), c => c.charCodeAt(0)); const box = new DataTransfer();"
            "box.items.add(new File([bytes], 'pasted.png', {type: 'image/png'}));"
            "document.dispatchEvent(new ClipboardEvent('paste', {clipboardData: box, bubbles: true})); }"
        )
        page.click(".answer:not(.bad) .why")
        page.wait_for_selector(".answer .map:not([hidden])")
        page.wait_for_selector(".answer .check:not([hidden])")
        assert page.get_attribute(".answer:not(.bad) .why", "aria-pressed") == "true"
        assert page.evaluate("document.querySelector('.map:not([hidden])').naturalWidth") > 0
        page.click(".answer:not(.bad) .why")
        assert page.locator(".answer .map:not([hidden])").count() == 0
        page.evaluate(paste, base64.b64encode(good.read_bytes()).decode())
        page.wait_for_selector(".answer:not(.waiting) >> text=pasted.png")
        assert "pasted.png" in page.inner_text("#status")
        answer = '{"predictions":[{"top":[{"name":"cat","prob":0.4}],"unknown":true}]}'
        page.route("**/v1/predict*", lambda route: route.fulfill(body=answer, content_type="application/json"))
        page.set_input_files("#files", [str(good)])
        page.wait_for_selector(".answer.unknown >> text=the nearest class is cat")
        assert page.evaluate("document.documentElement.scrollWidth") <= 390, "nothing leads beyond a phone's width"
        page.keyboard.press("Tab")
        page.click("#clear")
        assert page.locator(".answer").count() == 0
        assert all(url.startswith((server.url, "blob:", "data:")) for url in asked)
    finally:
        server.close()
