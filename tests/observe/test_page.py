# SPDX-License-Identifier: Apache-2.0
"""The page in a browser: every control, no error, no request that leaves, no untrusted script."""

import functools
import os
import shutil
import threading

import pytest

from jaxvl.observe.metrics import MetricsWriter
from jaxvl.observe.report import write_report
from jaxvl.observe.watch import serve
from tests.observe.pages import EVIL, write_run

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("chrome")
pytestmark = pytest.mark.skipif(not BROWSER, reason="no Chromium is installed")


@pytest.fixture(scope="module")
def browser():
    with sync_api.sync_playwright() as playwright:
        # Chromium's own sandbox does not start for root, as in containers.
        args = ["--no-sandbox"] if os.geteuid() == 0 else []
        found = playwright.chromium.launch(executable_path=BROWSER, args=args)
        yield found
        found.close()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pages")
    write_run(folder / "one")
    write_run(folder / "other", steps=(2, 60))
    write_report(folder / "one")
    write_report(folder / "one", folder / "other", out=folder / "both.html")
    return folder


@pytest.fixture
def opened(browser):
    """A function that opens an address; at the end nothing was logged, asked for or run."""
    contexts, wrong = [], []

    def opens(address, **settings):
        context = browser.new_context(**settings)
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: wrong.append(message.text))
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("dialog", lambda dialog: wrong.append(f"dialog {dialog.message}"))
        allowed = (address, "data:", "blob:")
        page.on("request", lambda r: r.url.startswith(allowed) or wrong.append(r.url))
        page.goto(address)
        page.wait_for_selector("#prompts article.prompt")
        return page

    yield opens
    for context in contexts:
        context.close()
    assert wrong == []


def texts(page, selector):
    return page.locator(selector).all_inner_texts()


def expect(page, selector):
    return sync_api.expect(page.locator(selector))


def note(page):
    return page.inner_text("#rollout-note")


def test_rollouts_step_by_step(opened, folder):
    page = opened((folder / "one/report.html").as_uri())
    assert "of step 60." in note(page) and page.input_value("#step") == "60"
    assert page.is_disabled("text=step 60: 3/4")
    page.click("[aria-label='previous step']")
    expect(page, "#step").to_have_value("10")
    page.keyboard.press("p")
    expect(page, "#step").to_have_value("5")
    page.fill("#step", "59")  # the nearest that there is
    page.locator("#step").press("Enter")
    expect(page, "#step").to_have_value("60")
    page.locator("#step-slider").press("Home")
    expect(page, "#rollout-note").to_contain_text("step 1.")
    page.click("text=Newest")
    page.click("text=step 5: 1/4")  # the history of an example
    expect(page, "#step").to_have_value("5")


def test_filters_leave_what_they_name(opened, folder):
    page = opened((folder / "one/report.html").as_uri())
    assert page.locator("article.completion").count() == 8
    for kind, count in (("right", 5), ("wrong", 3), ("truncated", 2), ("all", 8)):
        page.select_option("#filter", kind)
        assert page.locator("article.completion").count() == count, kind
    page.fill("#query", "LET ME")
    assert page.locator("article.completion").count() == 2
    page.fill("#query", "")
    page.check("#changed")  # ex-1 went from 2 to 3 of 4; the other was never asked before
    assert texts(page, "article.prompt h3") == [f"{EVIL} ex-1"]


def test_hostile_text_is_text_and_reflection_is_marked(opened, folder):
    page = opened((folder / "one/report.html").as_uri())
    first = page.locator("article.completion").first
    assert first.locator("pre").inner_text() == EVIL
    assert texts(page, "article.prompt >> nth=0 >> mark") == ["wait", "check", "again"]
    assert page.locator("img[src^='http']").count() == 0
    assert page.evaluate("document.querySelectorAll('body script:not([type])').length") == 1


def test_gaps_by_token_are_shown_on_demand(opened, folder):
    page = opened((folder / "one/report.html").as_uri())
    first = page.locator("article.completion").first
    assert first.locator("table").count() == 0
    page.check("#gaps")
    assert first.locator("pre").inner_text() == EVIL  # it stays a text
    assert first.locator("pre span").first.get_attribute("title") == "gap -0.1"
    assert first.locator("tbody tr").first.inner_text().split("\t") == ["2", '"/"', "-0.1"]
    assert page.locator("article.prompt").first.get_by_text("No gap is known").count() == 3
    page.uncheck("#gaps")
    assert page.locator("article.completion pre span").count() == 0


def test_curves_smooth_zoom_hide_and_open_steps(opened, folder):
    page = opened((folder / "one/report.html").as_uri(), viewport={"width": 1200, "height": 900})
    reward = page.locator("[role=slider][aria-label='Reward']")
    reward.scroll_into_view_if_needed()
    page.wait_for_selector("[aria-label='Reward'] canvas")
    assert reward.get_attribute("aria-valuetext") == "step 60: reward 1"
    reward.press("ArrowLeft")
    assert reward.get_attribute("aria-valuetext") == "step 59: reward 0.983"
    page.locator("#smooth").press("End")
    assert page.inner_text("#smooth-value") == "0.99"
    box = page.locator("[aria-label='Reward'] .u-over").bounding_box()
    page.mouse.move(box["x"] + 50, box["y"] + 50)
    page.mouse.down()
    page.mouse.move(box["x"] + 150, box["y"] + 50, steps=4)
    page.mouse.up()
    assert page.is_enabled("#unzoom")
    page.click("#unzoom")
    assert page.is_disabled("#unzoom")
    legend = page.locator("figure", has=reward).locator("button")
    legend.click()
    assert page.locator("figure", has=reward).locator("button").get_attribute("aria-pressed") == (
        "false"
    )
    reward.press("Home")
    reward.press("Enter")
    expect(page, "#step").to_have_value("1")
    page.click("#others summary")
    assert page.locator("#others figure").count() == 1


def test_images_grow(opened, folder):
    page = opened((folder / "one/report.html").as_uri())
    page.click("button.image >> nth=0")
    width = page.locator("#zoom img").bounding_box()["width"]
    page.click("#zoom-in")
    assert page.locator("#zoom img").bounding_box()["width"] == 2 * width
    page.keyboard.press("Escape")
    assert not page.is_visible("#zoom")


def test_several_runs_are_beside_each_other(opened, folder):
    page = opened((folder / "both.html").as_uri())
    figure = page.locator("figure", has=page.locator("[aria-label='Reward']"))
    assert [text.split()[0] for text in figure.locator("button").all_inner_texts()] == [
        "one",
        "other",
    ]
    assert page.locator("#tiles tbody tr").count() == 2
    page.select_option("#run", "1")
    expect(page, "#rollout-note").to_contain_text("step 60")
    page.click("[aria-label='previous step']")
    expect(page, "#step").to_have_value("2")


def test_a_watched_run_is_followed(opened, folder):
    server = serve(folder / "other")
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    page = opened(f"http://127.0.0.1:{server.server_port}/")
    MetricsWriter(folder / "other").write(61, {"reward": 0.25})
    expect(page, "#progress").to_contain_text("61 of 99", timeout=15_000)
    page.uncheck("#follow")
    page.click("[aria-label='previous step']")
    expect(page, "#step").to_have_value("2")
    page.close()
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize("how", ["desktop", "phone", "dark"])
def test_anyone_can_use_it(browser, folder, how):
    """No serious finding of axe, and nothing wider than the screen."""
    axe = pytest.importorskip("axe_playwright_python.sync_playwright")
    size = {"width": 390, "height": 800} if how == "phone" else {"width": 1280, "height": 900}
    scheme = "dark" if how == "dark" else "light"
    opens = functools.partial(browser.new_context, viewport=size, color_scheme=scheme)
    context = opens(bypass_csp=True)  # axe is a script of our own
    page = context.new_page()
    page.goto((folder / "both.html").as_uri())
    page.wait_for_selector("#prompts article.prompt")
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    found = axe.Axe().run(page).response["violations"]
    context.close()
    serious = [one for one in found if one["impact"] in ("serious", "critical")]
    assert [(one["id"], one["nodes"][0]["html"]) for one in serious] == []
