import shutil

import pytest

from convatlas.reports import render_run

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")


@pytest.fixture(scope="session")
def browser():
    if CHROMIUM is None:
        pytest.skip("needs Chromium: apt-get install chromium")
    playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright: pip install -e .[browser]")
    with playwright.sync_playwright() as running:
        chromium = running.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield chromium
        chromium.close()


@pytest.fixture
def visit(browser, tmp_path):
    """Open the page of a record, noting every request and every word of the console."""
    opened = []

    def open_page(record, width=1280, colour_scheme="light"):
        file = tmp_path / "report.html"
        file.write_text(render_run(record), encoding="utf-8")
        page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=colour_scheme)
        opened.append(page)
        page.requested, page.complaints = [], []
        page.on("request", lambda request: page.requested.append(request.url))
        page.on("console", lambda message: page.complaints.append(message.text))
        page.on("pageerror", lambda error: page.complaints.append(str(error)))
        page.goto(file.as_uri())
        return page

    yield open_page
    for page in opened:
        page.close()
