"""The report page in a real browser: complete, silent, legible in both themes and on a phone."""

import json
from pathlib import Path

import pytest

pytestmark = pytest.mark.browser
SAMPLE = Path(__file__).parents[1] / "reports" / "run_record.json"

# Contrast of every text with the nearest coloured background behind it, as WCAG 2.1 defines it (section 1.4.3).
# Counts on strongly coloured cells of the confusion matrix lie on a picture, which has no background to ask for.
WEAKEST_CONTRAST = """() => {
  const channels = colour => (colour.match(/[\\d.]+/g) || []).map(Number);
  const luminance = colour => {
    const linear = c => c <= .03928 ? c / 12.92 : ((c + .055) / 1.055) ** 2.4;
    const [r, g, b] = channels(colour).map(c => linear(c / 255));
    return .2126 * r + .7152 * g + .0722 * b;
  };
  const opaque = colour => channels(colour).length === 3 || channels(colour)[3] === 1;
  const behind = element => {
    for (let e = element; e; e = e.parentElement)
      if (opaque(getComputedStyle(e).backgroundColor)) return getComputedStyle(e).backgroundColor;
    return "rgb(255, 255, 255)";
  };
  const weakest = { ratio: 99, text: "" };
  for (const element of document.querySelectorAll("body *")) {
    const text = [...element.childNodes].filter(n => n.nodeType === 3).map(n => n.data.trim()).join("");
    const style = getComputedStyle(element);
    const colour = element instanceof SVGElement ? style.fill : style.color;
    if (!text || !element.getClientRects().length || colour === "rgb(255, 255, 254)") continue;
    const [dark, light] = [luminance(colour), luminance(behind(element))].sort((a, b) => a - b);
    const ratio = (light + .05) / (dark + .05);
    if (ratio < weakest.ratio) Object.assign(weakest, { ratio, text, colour });
  }
  return weakest;
}"""


@pytest.fixture
def run_record():
    return json.loads(SAMPLE.read_text(encoding="utf-8"))


def test_the_page_loads_nothing_and_complains_of_nothing(visit, run_record):
    page = visit(run_record)
    outside = [url for url in page.requested if not url.startswith("data:")]
    assert outside == [page.url]
    assert page.complaints == []


def test_the_headline_is_on_the_first_screen(visit, run_record):
    headline = visit(run_record).locator(".accuracy")
    assert headline.inner_text() == "83.33\N{NO-BREAK SPACE}%"
    box = headline.bounding_box()
    assert box["y"] + box["height"] < 900


def test_figures_have_room(visit, run_record):
    page = visit(run_record)
    sizes = [drawing.bounding_box() for drawing in page.locator("figure svg").all()]
    assert len(sizes) == 3
    assert all(size["width"] > 300 and size["height"] > 150 for size in sizes)


def test_the_matrix_picture_is_drawn(visit, run_record):
    page = visit(run_record)
    image = page.locator(".matrix image")
    assert image.bounding_box()["width"] > 200
    assert (
        image.evaluate(
            "image => new Promise(done => { const copy = new Image();"
            "copy.onload = () => done(copy.naturalWidth); copy.onerror = () => done(0);"
            "copy.src = image.href.baseVal; })"
        )
        == 6
    )


@pytest.mark.parametrize("path_of_a_folder", ["wasps", "w" * 200])
def test_a_phone_scrolls_down_only(visit, run_record, path_of_a_folder):
    test = run_record["test"]
    test["classes"][5] = test["per_class"][5]["name"] = run_record["data"]["classes"][5] = path_of_a_folder
    run_record["title"] = f"{run_record['title']} {path_of_a_folder}"
    page = visit(run_record, width=390)
    page.locator("details").evaluate_all("all => all.forEach(details => details.open = true)")
    assert page.evaluate("document.documentElement.scrollWidth") == 390


@pytest.mark.parametrize("colour_scheme", ["light", "dark"])
def test_every_text_stands_out_from_what_is_behind_it(visit, run_record, colour_scheme):
    page = visit(run_record, colour_scheme=colour_scheme)
    background = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (background == "rgb(13, 17, 23)") == (colour_scheme == "dark")
    weakest = page.evaluate(WEAKEST_CONTRAST)
    assert weakest["ratio"] >= 4.5, weakest


def test_tables_that_scroll_can_be_reached_with_the_keyboard(visit, run_record):
    page = visit(run_record, width=390)
    page.locator("details").evaluate_all("all => all.forEach(details => details.open = true)")
    unreachable = page.evaluate(
        "() => [...document.querySelectorAll('*')].filter(e => e.scrollWidth > e.clientWidth + 1 &&"
        "['auto', 'scroll'].includes(getComputedStyle(e).overflowX) && e.tabIndex < 0).map(e => e.outerHTML)"
    )
    assert unreachable == []
    assert page.locator(".scroll").count() >= 4


def test_a_script_in_a_class_name_does_not_run(visit, run_record):
    attack = "<img src=x onerror=\"document.title='attacked'\"><script>document.title='attacked'</script>"
    test = run_record["test"]
    test["classes"][0] = test["per_class"][0]["name"] = run_record["data"]["classes"][0] = attack
    page = visit(run_record)
    assert page.title() == "vgg11_bn_cifar on insects · convatlas"
    assert page.complaints == []
    assert page.get_by_role("rowheader", name=attack).count() >= 1
