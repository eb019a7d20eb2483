"""The page of an autoencoder in a real browser: silent, legible in both themes, and no wider than a phone."""

import json
from pathlib import Path

import pytest
from test_report_page import WEAKEST_CONTRAST

pytestmark = pytest.mark.browser
SAMPLE = Path(__file__).parents[1] / "reports" / "anomaly_record.json"


@pytest.fixture
def anomaly_record():
    return json.loads(SAMPLE.read_text(encoding="utf-8"))


def opened(page):
    page.locator("details").evaluate_all("all => all.forEach(details => details.open = true)")
    return page


def test_the_page_loads_nothing_and_complains_of_nothing(visit, anomaly_record):
    page = visit(anomaly_record)
    assert page.requested == [page.url]
    assert page.complaints == []


@pytest.mark.parametrize("width", [390, 1280])
def test_figure_and_verdict_are_on_the_first_screen(visit, anomaly_record, width):
    page = visit(anomaly_record, width=width)
    assert page.locator(".accuracy").inner_text() == "0.861"
    box = page.locator(".verdict").first.bounding_box()
    assert box["y"] + box["height"] < 900


@pytest.mark.parametrize("name", ["V14", "w" * 200])
def test_a_phone_scrolls_down_only(visit, anomaly_record, name):
    test = anomaly_record["test"]
    test["columns"][0]["name"] = test["misses"][0]["columns"][0]["name"] = test["rivals"][0]["name"] = name
    test["misses"][0]["columns"][1]["seen"] = anomaly_record["data"]["columns"][0] = name
    page = opened(visit(anomaly_record, width=390))
    assert page.evaluate("document.documentElement.scrollWidth") == 390


def test_no_table_is_cut_on_a_desktop(visit, anomaly_record):
    page = opened(visit(anomaly_record))
    cut = page.evaluate(
        "[...document.querySelectorAll('.scroll')].filter(e => e.scrollWidth > e.clientWidth + 1).length"
    )
    assert cut == 0


@pytest.mark.parametrize("colour_scheme", ["light", "dark"])
def test_every_text_stands_out_from_what_is_behind_it(visit, anomaly_record, colour_scheme):
    weakest = opened(visit(anomaly_record, colour_scheme=colour_scheme)).evaluate(WEAKEST_CONTRAST)
    assert weakest["ratio"] >= 4.5, weakest


def test_a_script_in_the_name_of_a_column_does_not_run(visit, anomaly_record):
    attack = "<img src=x onerror=\"document.title='attacked'\"><script>document.title='attacked'</script>"
    anomaly_record["test"]["columns"][0]["name"] = anomaly_record["test"]["misses"][0]["columns"][0]["seen"] = attack
    page = visit(anomaly_record)
    assert page.title() == "autoencoder_plain on payments · convatlas"
    assert page.complaints == []
