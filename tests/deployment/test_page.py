"""The page in a real browser: choose, paste, unknown, error, phone width."""

from __future__ import annotations

import base64
import json
import shutil
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from eyespot.deployment.engine import open_engine
from eyespot.deployment.guard import Door
from eyespot.deployment.limits import Limits
from eyespot.runs import Run

from .test_server import Running, Slow, png, until

# Each name keeps its own direction to itself.
KNOWS = "#model:has-text('3 classes: \u2068cat\u2069, \u2068dog\u2069, \u2068eel\u2069')"
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if CHROMIUM is None:
        pytest.skip("no chromium on this machine")
    with playwright.sync_playwright() as api:
        browser = api.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox", "--use-fake-device-for-media-stream"]
        )
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


def test_the_page_works_below_an_address_of_a_proxy(browser: Any, trained: Run) -> None:
    server = Running(open_engine(trained.path, engine="torch"), Limits())
    try:
        page = browser.new_page()
        asked: list[str] = []
        page.on("request", lambda request: asked.append(request.url))
        below = f"{server.url}/pictures/"
        page.route(
            f"{below}**",
            lambda route: route.fulfill(response=route.fetch(url=route.request.url.replace("/pictures/", "/"))),
        )
        page.goto(below)
        page.wait_for_selector(KNOWS)
        page.set_input_files("#files", [{"name": "a.png", "mimeType": "image/png", "buffer": png()}])
        page.wait_for_selector(".answer.told-all")
        assert all(url.startswith((below, "blob:", "data:")) for url in asked)
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
        page.wait_for_selector(KNOWS)
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
        assert page.inner_text(".answer:not(.bad) .why") == "Show the picture"
        assert page.get_attribute(".answer:not(.bad) .why", "aria-pressed") is None, "its name says what it does next"
        assert page.evaluate("document.querySelector('.map:not([hidden])').naturalWidth") > 0
        page.click(".answer:not(.bad) .why")
        assert page.locator(".answer .map:not([hidden])").count() == 0
        page.evaluate(paste, base64.b64encode(good.read_bytes()).decode())
        page.wait_for_selector(".answer:not(.waiting) >> text=pasted.png")
        assert "pasted.png" in page.inner_text("#status")
        answer = '{"predictions":[{"top":[{"name":"cat","prob":0.4}],"unknown":true}]}'
        page.route("**/v1/predict*", lambda route: route.fulfill(body=answer, content_type="application/json"))
        page.set_input_files("#files", [str(good)])
        page.wait_for_selector(".answer.unknown >> text=the nearest class is \u2068cat\u2069")
        assert page.evaluate("document.documentElement.scrollWidth") <= 390, "nothing leads beyond a phone's width"
        page.keyboard.press("Tab")
        page.click("#clear")
        assert page.locator(".answer").count() == 0
        assert all(url.startswith((server.url, "blob:", "data:")) for url in asked)
    finally:
        server.close()


def test_a_refusal_is_a_sentence_and_one_of_the_picture_only_where_the_picture_is_the_reason(browser: Any) -> None:
    server = Running(Slow(0), Limits())
    try:
        page = browser.new_page()
        page.goto(server.url)
        empty = {"name": "empty.png", "mimeType": "image/png", "buffer": b""}
        page.set_input_files("#files", [empty])
        page.wait_for_selector(".answer.bad >> text='This file is empty'")
        one = [{"name": "a.png", "mimeType": "image/png", "buffer": png()}]
        said = [
            (500, "the server failed", "look into its log", "No answer, the server failed: look into its log"),
            (422, "picture 1 is a text file", "send a picture", "This file is a text file: send a picture"),
            (502, "", "", "No answer, the server answered 502"),
        ]
        for status, what, remedy, wanted in said:
            page.unroute_all()
            body = json.dumps({"what": what, "remedy": remedy}) if what else "<html>"
            page.route("**/v1/predict*", partial(_fulfill, status=status, body=body))
            page.set_input_files("#files", one)
            page.wait_for_selector(f".answer.bad >> text='{wanted}'")
        # A folder that is dropped is a file that cannot be read.
        page.evaluate(
            "() => { const file = new File(['x'], 'photos'); file.slice = () => ({ arrayBuffer: async () => {"
            " throw new DOMException('', 'NotFoundError'); } }); add([file]); }"
        )
        page.wait_for_selector(".answer.bad >> text='This cannot be read: a folder, or a file that is no longer there'")
    finally:
        server.close()


def test_many_long_class_names_leave_room_and_a_spoilt_figure_says_so(browser: Any) -> None:
    server = Running(Slow(0), Limits())
    try:
        page = browser.new_page(viewport={"width": 375, "height": 700})
        names = [f"{n:03} {'Taraxacum officinale ' * 10}" for n in range(200)]
        test = {"n": 100, "top1": 0.99, "top1_ci95": [0.946, 0.998], "flaw": "leaked"}
        told = json.dumps({"class_names": names, "limits": {"body_bytes": 1000}, "metrics": {"test": test}})
        page.route("**/v1/model", lambda route: route.fulfill(body=told, content_type="application/json"))
        page.goto(server.url)
        page.wait_for_selector("#model:has-text(' and 188 more. leaked: 99.0')")
        assert len(page.inner_text("#model")) < 700
        page.set_input_files("#files", [{"name": "a.png", "mimeType": "image/png", "buffer": bytes(1001)}])
        page.wait_for_selector(".answer.bad >> text=This file is larger than")
    finally:
        server.close()


def _fulfill(route: Any, *, status: int, body: str) -> None:
    route.fulfill(status=status, body=body)


def test_pictures_wait_for_the_token_and_a_wrong_one_is_said(browser: Any) -> None:
    server = Running(Slow(0), Limits(), Door(token="a-token-of-16-signs", log=False))
    try:
        page = browser.new_page()
        page.goto(server.url)
        page.wait_for_selector("#locked:not([hidden])")
        page.set_input_files("#files", [{"name": "a.png", "mimeType": "image/png", "buffer": png()}])
        page.wait_for_selector(".answer.waiting >> text='This server asks for a token'")
        page.fill("#token", "another-token-of-16")
        page.keyboard.press("Enter")
        page.wait_for_selector("#problem >> text='The server does not take this token.'")
        page.fill("#token", "a-token-of-16-signs")
        page.keyboard.press("Enter")
        page.wait_for_selector(".answer.told-all")
        assert page.is_hidden("#problem")
        assert page.is_hidden("#locked")
    finally:
        server.close()


def test_a_photograph_is_taken_with_the_camera_of_a_computer_or_it_is_said_why_not(browser: Any) -> None:
    server = Running(Slow(0), Limits())
    try:
        page = browser.new_page()
        page.goto(server.url)
        page.click("#photograph")
        page.wait_for_selector("#problem >> text='The camera may not be used: allow it in the browser.'")
        page.context.grant_permissions(["camera"])
        page.click("#photograph")
        assert until(lambda: page.evaluate("document.querySelector('#finder').videoWidth") > 0)
        page.keyboard.press("Escape")
        off = "document.querySelector('#finder').srcObject === null"  # once the event of the closing came
        assert until(lambda: page.evaluate(off)), "the camera is off again"
        page.click("#photograph")
        assert until(lambda: page.evaluate("document.querySelector('#finder').videoWidth") > 0)
        page.click("#shoot")
        page.wait_for_selector(".answer.told-all >> text=photograph.jpg")
        assert page.evaluate("document.querySelector('.picture').naturalWidth") > 0
        assert page.is_hidden("#viewfinder")
    finally:
        server.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_on_paper_the_page_is_dark_on_white_with_its_bars_and_without_its_buttons(browser: Any, scheme: str) -> None:
    server = Running(Slow(0), Limits())
    try:
        page = browser.new_context(color_scheme=scheme).new_page()
        page.goto(server.url)
        page.set_input_files("#files", [{"name": "a.png", "mimeType": "image/png", "buffer": png()}])
        page.wait_for_selector(".answer.told-all")
        page.emulate_media(media="print")
        assert page.evaluate("getComputedStyle(document.body).color") == "rgb(27, 29, 33)"
        assert page.evaluate("getComputedStyle(document.querySelector('.fill')).printColorAdjust") == "exact"
        assert page.locator("button:visible").count() == 0
    finally:
        server.close()


def test_a_token_that_no_header_can_carry_is_refused_and_not_kept(browser: Any) -> None:
    server = Running(Slow(0), Limits(), Door(token="a-token-of-16-signs", log=False))
    try:
        page = browser.new_page()
        page.goto(server.url)
        page.wait_for_selector("#locked:not([hidden])")
        for spoilt in ("a\N{EN DASH}token-of-16-signs", "a-token-of\u200b-16-signs"):
            page.fill("#token", spoilt)
            page.keyboard.press("Enter")
            page.wait_for_selector(
                "#problem >> text='A token has printable ASCII characters only: copy it again, or type it.'"
            )
            assert page.evaluate("sessionStorage.getItem('token')") is None
        page.fill("#token", " a-token-of-16-signs\ufeff")
        page.keyboard.press("Enter")
        page.wait_for_selector("#locked", state="hidden")
    finally:
        server.close()


def test_the_token_is_asked_for_until_the_server_took_it_and_then_what_waits_is_sent(browser: Any) -> None:
    server = Running(Slow(0), Limits(), Door(token="a-token-of-16-signs", log=False))
    try:
        page = browser.new_page()
        page.goto(server.url)
        page.wait_for_selector("#locked:not([hidden])")
        page.set_input_files("#files", [{"name": "a.png", "mimeType": "image/png", "buffer": png()}])
        page.wait_for_selector(".answer.waiting >> text='This server asks for a token'")
        page.fill("#token", "a-token-of-16-signs")
        page.route("**/v1/model", lambda route: route.abort())
        page.keyboard.press("Enter")
        page.wait_for_selector("#problem >> text='The server does not answer. Is it still running?'")
        page.unroute_all()
        page.route("**/v1/model", lambda route: route.fulfill(body="<html>", content_type="text/html"))
        page.keyboard.press("Enter")
        page.wait_for_selector("#problem >> text='What answers here is not eyespot\\'s server.'")
        assert page.is_visible("#locked")
        page.unroute_all()
        page.keyboard.press("Enter")
        page.wait_for_selector(".answer.told-all")
        assert page.is_hidden("#locked")
        assert page.evaluate("document.activeElement.id") == "choose"
    finally:
        server.close()


@pytest.mark.parametrize("status", [200, 422, 401, 503])
def test_a_picture_that_was_cleared_says_nothing_more_and_is_not_sent_again(browser: Any, status: int) -> None:
    server = Running(Slow(0), Limits())
    try:
        page = browser.new_page()
        page.clock.install()
        page.goto(server.url)
        held: list[Any] = []
        page.route("**/v1/predict*", lambda route: held.append(route))
        page.set_input_files("#files", [{"name": "a.png", "mimeType": "image/png", "buffer": png()}])
        assert until(lambda: page.evaluate("running") == 1 and len(held) == 1)
        page.click("#clear")
        with page.expect_response("**/v1/predict*"):
            body = '{"predictions":[{"top":[{"name":"cat","prob":0.4}]}]}'
            held[0].fulfill(status=status, body=body, headers={"Retry-After": "1000000"})
        # Longer than any wait that a server can ask for, once the page began to wait.
        assert until(lambda: page.clock.run_for(11_000) or page.evaluate("running") == 0)
        assert page.inner_text("#status") == "Cleared"
        assert page.evaluate("locked.length") == 0
        assert len(held) == 1
    finally:
        server.close()


def test_what_is_dropped_and_no_file_is_said_and_text_reaches_the_token(browser: Any) -> None:
    server = Running(Slow(0), Limits(), Door(token="a-token-of-16-signs", log=False))
    try:
        page = browser.new_page()
        page.goto(server.url)
        page.wait_for_selector("#locked:not([hidden])")
        drop = (
            "([id, file]) => { const box = new DataTransfer(); box.setData('text/plain', 'words');"
            "if (file) box.items.add(new File(['x'], 'a.txt'));"
            "const drop = new DragEvent('drop', {dataTransfer: box, bubbles: true, cancelable: true});"
            "return document.getElementById(id).dispatchEvent(drop); }"
        )
        assert page.evaluate(drop, ["token", False]), "the browser does with it what it does"
        assert page.is_hidden("#problem")
        assert not page.evaluate(drop, ["drop", False])
        page.wait_for_selector("#problem >> text='That was no file: save the picture, then drop it here.'")
        assert not page.evaluate(drop, ["token", True]), "no file takes the place of the page"
        page.wait_for_selector(".answer >> text=a.txt")
    finally:
        server.close()


def test_the_heat_map_of_a_picture_that_the_browser_cannot_show_covers_nothing(browser: Any) -> None:
    server = Running(Slow(0), Limits())
    try:
        page = browser.new_page()
        page.goto(server.url)
        said = {"top": [{"name": "cat", "prob": 0.4}]}
        heat = {"image": f"data:image/png;base64,{base64.b64encode(png()).decode()}", "label": "cat"}
        told = [("**/v1/model", {"class_names": ["cat"], "limits": {"body_bytes": 1000}, "explain": True})]
        told += [("**/v1/predict*", {"predictions": [{**said, "heatmap": heat}]})]
        for address, answer in told:
            page.route(address, partial(_fulfill, status=200, body=json.dumps(answer)))
        page.reload()
        page.wait_for_selector("#model:has-text('cat')")
        page.set_input_files("#files", [{"name": "a.tif", "mimeType": "image/tiff", "buffer": b"II*\0"}])
        page.wait_for_selector(".picture", state="hidden")
        page.click(".why")
        page.wait_for_selector(".map:not([hidden])")
        box, name = page.locator(".map").bounding_box(), page.locator("figcaption").bounding_box()
        assert box["height"] > 100
        assert box["y"] + box["height"] <= name["y"]
    finally:
        server.close()


def test_a_right_to_left_name_does_not_move_the_words_beside_it(browser: Any) -> None:
    server = Running(Slow(0), Limits())
    try:
        page = browser.new_page()
        cat = "\u05d7\u05ea\u05d5\u05dc"
        told = {"class_names": [cat, "a\u202eb\u2069"], "limits": {"body_bytes": 1000}}
        page.route("**/v1/model", partial(_fulfill, status=200, body=json.dumps(told)))
        said = {"predictions": [{"top": [{"name": cat, "prob": 0.4}], "unknown": True}]}
        page.route("**/v1/predict*", partial(_fulfill, status=200, body=json.dumps(said)))
        page.goto(server.url)
        page.wait_for_selector("#model:has-text('Knows 2 classes')")
        assert page.inner_text("#model").endswith(f": \u2068{cat}\u2069, \u2068a\ufffdb\ufffd\u2069.")
        page.set_input_files("#files", [{"name": "a.png", "mimeType": "image/png", "buffer": png()}])
        page.wait_for_selector(".answer.unknown")
        assert page.inner_text(".note").endswith(f"the nearest class is \u2068{cat}\u2069.")
        assert f"nearest \u2068{cat}\u2069, 40.0" in page.inner_text("#status")
    finally:
        server.close()
