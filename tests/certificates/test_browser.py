"""The page in a real browser, headless Chromium: what it loads, what it shows, who can use it."""

import base64
import importlib.util
import io
import json
import shutil
import tempfile
from dataclasses import replace
from pathlib import Path

import pytest
from page_sample import BARE, CASE, CERTIFICATE, CRASHED, SCAN, picture, with_texts

from robustkit.certificates import badge, page

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
DRIVER = shutil.which("chromedriver")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium (Debian: apt-get install chromium)"),
    pytest.mark.skipif(DRIVER is None, reason="needs chromedriver (Debian: apt-get install chromium-driver)"),
    pytest.mark.skipif(importlib.util.find_spec("selenium") is None, reason="needs selenium: robustkit[test]"),
    # selenium's own, of sockets that it leaves to the garbage collector.
    pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning"),
]

HOSTILE = '<img src=x onerror="document.title=1">\u202e' + "nobreak" * 60
PAGES = {
    "certificate": lambda: page.render(CERTIFICATE, worst=[CASE, CRASHED], scan=SCAN),
    "report": lambda: page.render(BARE, worst=[CRASHED]),
    "not-certified": lambda: page.render(
        replace(CERTIFICATE, certified=False, verdict="does not conform", blockers=("one", "two"))
    ),
    "hostile": lambda: page.render(
        with_texts(CERTIFICATE, lambda v: HOSTILE + v),
        worst=[with_texts(CASE, lambda v: HOSTILE + v)],
        scan=with_texts(SCAN, lambda v: HOSTILE + v),
    ),
}


@pytest.fixture(scope="module")
def browser():
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        for flag in ("headless=new", "no-sandbox", "disable-gpu", "disable-dev-shm-usage", f"user-data-dir={profile}"):
            options.add_argument(f"--{flag}")
        options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
        driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
        yield driver
        driver.quit()


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pages")
    for name, make in PAGES.items():
        (folder / f"{name}.html").write_text(make(), encoding="utf-8")
    return folder


@pytest.fixture(params=PAGES)
def shown(request, browser, written):
    """A browser with a page that it has just opened, 1280 pixels wide and in light colours."""
    return opened(browser, written / f"{request.param}.html")


def opened(browser, path: Path, *, width=1280, dark=False):
    screen = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", screen)
    scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [scheme]})
    for log in ("browser", "performance"):
        browser.get_log(log)
    browser.get(path.as_uri())
    return browser


def test_nothing_is_loaded_and_nothing_complains(shown):
    said = [json.loads(entry["message"])["message"] for entry in shown.get_log("performance")]
    loaded = [m["params"]["request"]["url"] for m in said if m["method"] == "Network.requestWillBeSent"]
    assert [url for url in loaded if not url.startswith("data:image/")] == [shown.current_url]
    assert shown.get_log("browser") == []
    assert shown.title.startswith(("example", "<img"))


def test_every_picture_and_chart_is_there(shown):
    sizes = shown.execute_script("return [...document.images].map(i => [i.complete, i.naturalWidth, i.alt !== ''])")
    assert all(done and width > 0 and alt for done, width, alt in sizes)
    charts = shown.execute_script(
        "return [...document.querySelectorAll('svg[role=img]')].map(s => [s.getBoundingClientRect().height,"
        "s.querySelectorAll('path, rect, circle').length, s.getAttribute('aria-label') !== '',"
        "document.getElementById(s.getAttribute('aria-describedby')).textContent.length])"
    )
    assert all(height > 50 and marks > 3 and named and words > 20 for height, marks, named, words in charts)
    if "certificate" in shown.current_url:
        assert len(charts) == 5
        assert len(sizes) == 4 + 2


@pytest.mark.parametrize(
    ("name", "dark"), [("certificate", False), ("certificate", True), ("report", False), ("hostile", False)]
)
def test_axe_finds_nothing(browser, written, name, dark):
    script = importlib.util.find_spec("axe_selenium_python")
    if script is None:
        pytest.skip("needs axe-selenium-python: robustkit[test]")
    (axe,) = Path(script.origin).parent.glob("node_modules/axe-core/axe.min.js")
    opened(browser, written / f"{name}.html", dark=dark)
    # Closed parts count too.
    browser.execute_script("document.querySelectorAll('details').forEach(d => { d.open = true; })")
    browser.execute_script(axe.read_text(encoding="utf-8"))
    found = browser.execute_async_script(
        "const done = arguments[arguments.length - 1];"
        "axe.run(document).then(r => done(r.violations.map(v => v.id + ': ' + v.impact + ': ' + v.nodes[0].html)));"
    )
    assert found == []


@pytest.mark.parametrize("name", PAGES)
def test_a_telephone_scrolls_no_page_sideways(browser, written, name):
    opened(browser, written / f"{name}.html", width=360)
    browser.execute_script("document.querySelectorAll('details').forEach(d => { d.open = true; })")
    beyond = browser.execute_script(
        "return [...document.querySelectorAll('main *, header *, footer *')]"
        ".filter(e => !e.closest('.scroll, svg, .unseen') && e.getBoundingClientRect().right > 361)"
        ".map(e => e.outerHTML.slice(0, 200))"
    )
    assert beyond == []
    assert browser.execute_script("return document.documentElement.scrollWidth") <= 360


def test_tables_sort_by_mouse_and_by_keyboard(browser, written):
    from selenium.webdriver.common.by import By
    from selenium.webdriver.common.keys import Keys

    opened(browser, written / "certificate.html")
    table = browser.find_element(By.ID, "claims-table")

    def column(index):
        rows = table.find_elements(By.CSS_SELECTOR, f"tbody tr > :nth-child({index + 1})")
        return [cell.text.split("\n")[0] for cell in rows]

    def sorted_by():
        return [head.get_attribute("aria-sort") for head in table.find_elements(By.CSS_SELECTOR, "thead th")]

    assert sorted_by() == ["none"] * 5
    before, buttons = column(0), table.find_elements(By.CSS_SELECTOR, "thead button")
    buttons[0].click()
    assert column(0) == sorted(before)
    assert sorted_by()[0] == "ascending"
    buttons[0].send_keys(Keys.ENTER)
    assert column(0) == sorted(before, reverse=True)
    assert sorted_by() == ["descending", "none", "none", "none", "none"]
    buttons[4].send_keys(Keys.SPACE)
    assert [word.lstrip("✓✕·! ") for word in column(4)] == ["broken", "kept", "kept", "skipped"]
    assert sorted_by() == ["none", "none", "none", "none", "ascending"]
    # Numbers sort as numbers, and what has none comes first.
    parts = browser.find_element(By.CSS_SELECTOR, "#parts table")
    parts.find_elements(By.CSS_SELECTOR, "thead button")[4].click()
    assert [row.text for row in parts.find_elements(By.CSS_SELECTOR, "tbody th")] == ["size (header)", "coefficients"]


def test_colours_follow_the_reader(browser, written):
    def paper():
        return browser.execute_script("return getComputedStyle(document.body).backgroundColor")

    opened(browser, written / "certificate.html")
    light = paper()
    opened(browser, written / "certificate.html", dark=True)
    assert paper() != light


def test_it_prints_all_that_is_closed(browser, written):
    opened(browser, written / "certificate.html")
    pdf = base64.b64decode(browser.execute_cdp_cmd("Page.printToPDF", {"printBackground": True})["data"])
    assert pdf.startswith(b"%PDF")
    browser.execute_script("dispatchEvent(new Event('beforeprint'))")
    assert browser.execute_script("return document.querySelectorAll('details:not([open])').length") == 0
    browser.execute_script("dispatchEvent(new Event('afterprint'))")
    assert browser.execute_script("return document.querySelectorAll('details[open]').length") == 0
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    assert browser.execute_script("return getComputedStyle(document.querySelector('nav')).display") == "none"


def test_the_largest_page_opens(browser, tmp_path):
    long = "<&\"'" * 100_000
    lots = tuple(replace(CERTIFICATE.lines[2], measured=long, severity=f"{i}") for i in range(1000))
    examples = tuple(replace(CERTIFICATE.counterexamples[0], message=long) for _ in range(1000))
    cases = [replace(CASE, original=picture(i, 256, 256)) for i in range(30)]
    path = tmp_path / "large.html"
    path.write_text(
        page.render(replace(CERTIFICATE, lines=lots, counterexamples=examples), worst=cases), encoding="utf-8"
    )
    opened(browser, path)
    assert browser.execute_script("return document.querySelectorAll('#claims-table tbody tr').length") == page.LINES
    assert browser.get_log("browser") == []


def test_a_badge_is_drawn_within_its_frame(browser, tmp_path):
    path = tmp_path / "badge.svg"
    path.write_text(badge.svg(CERTIFICATE), encoding="utf-8")
    opened(browser, path)
    from PIL import Image

    drawn = Image.open(io.BytesIO(browser.get_screenshot_as_png()))
    assert len(drawn.crop((0, 0, 100, 20)).convert("RGB").getcolors(4000)) > 10
    wide = float(browser.execute_script("return document.documentElement.getAttribute('width')"))
    for x, width in browser.execute_script(
        "return [...document.querySelectorAll('text')].map(t => [t.getBBox().x, t.getBBox().width])"
    ):
        assert x >= 0
        assert x + width <= wide
