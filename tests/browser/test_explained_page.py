"""The page of ``convatlas explain`` in a real browser: silent, legible in both themes and on a phone, with a slider."""

import numpy as np
import pytest
from PIL import Image
from test_report_page import WEAKEST_CONTRAST

from convatlas.reports.explained import render_explained
from convatlas.reports.features_map import features_svg
from convatlas.reports.heat import address, filter_tiles, heat, map_tiles
from convatlas.reports.sheets import beside, outlined, thumbnail

pytestmark = pytest.mark.browser


def picture(name):
    random = np.random.default_rng(0)
    found = random.random((28, 28)).astype(np.float32)
    methods = [
        {
            "name": method,
            "title": method,
            "meaning": "Where it looks.",
            "source": "Somebody 2017, arXiv 1610.02391",
            "layer": None,
            "heat": address(heat(found)),
            "file": f"explained/1-{method}.png",
        }
        for method in ("gradcam", "occlusion")
    ]
    return {
        "name": name,
        "explained": "bee",
        "probability": 0.75,
        "top": [("bee", 0.75), ("</style><script>document.title = 'taken'</script>", 0.25)],
        "picture": address(Image.fromarray(random.integers(0, 255, (224, 224, 3), dtype=np.uint8))),
        "methods": methods,
        "maps": {"layer": "s4", "shown": 16, "channels": 16, "picture": address(map_tiles(found[None], [0]))},
        "nearest": [thumbnail_record("bee") for _ in range(8)],
    }


def thumbnail_record(title):
    pixels = np.random.default_rng(1).integers(0, 255, (28, 28, 3), dtype=np.uint8)
    picture = beside(outlined(pixels, (4, 4, 12, 12), (8, 8)), thumbnail(pixels[4:12, 4:12]))
    return {"picture": address(picture), "title": title, "note": "w" * 60, "name": "train[3]"}


def features_map_record():
    points, classes = np.random.default_rng(2).normal(size=(40, 2)).tolist(), ["bee", "w" * 90] * 20
    return {
        "title": "t-SNE",
        "part": "test",
        "images": 40,
        "is_judged": True,
        "wrong": 2,
        "svg": features_svg(points, classes, [3, 7], "t-SNE"),
        "thumbnails": [thumbnail_record("w" * 90), thumbnail_record("bee")],
        "file": "explained/features-map.png",
        "table": "explained/features-map.csv",
    }


@pytest.fixture
def visit_explained(browser, tmp_path):
    opened = []

    def open_page(width=1280, colour_scheme="light"):
        filters = address(filter_tiles(np.zeros((6, 5, 5), dtype=np.float32)))
        pictures = [picture("a-bee-on-" + "w" * 200 + ".png"), picture("another.png")]
        channels = [
            {
                "layer": "c3",
                "number": 4,
                "are_pairs": True,
                "thumbnails": [thumbnail_record("bee")] * 9,
                "file": "c.png",
            },
            {"layer": "c3", "number": 5, "are_pairs": False, "thumbnails": [], "file": None},
        ]
        record = {
            "model": "lenet5",
            "run_path": "runs/" + "r" * 120,
            "pictures": pictures,
            "filters": filters,
            "features_map": features_map_record(),
            "channels": channels,
            "kind": "training image",
            "remarks": ["the images have changed since the training"],
        }
        (tmp_path / "index.html").write_text(render_explained(record), encoding="utf-8")
        page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=colour_scheme)
        opened.append(page)
        page.requested, page.complaints = [], []
        page.on("request", lambda request: page.requested.append(request.url))
        page.on("console", lambda message: page.complaints.append(message.text))
        page.on("pageerror", lambda error: page.complaints.append(str(error)))
        page.goto((tmp_path / "index.html").as_uri())
        return page

    yield open_page
    for page in opened:
        page.close()


def test_the_page_loads_nothing_and_complains_of_nothing(visit_explained):
    page = visit_explained()
    assert [url for url in page.requested if not url.startswith("data:")] == [page.url]
    assert page.complaints == []
    assert page.title() == "What lenet5 sees · convatlas"


def test_a_slider_fades_the_maps_of_its_picture_alone(visit_explained):
    page = visit_explained()
    opacities = "maps => maps.map(map => getComputedStyle(map).opacity)"
    maps = page.locator(".seen img")
    assert maps.evaluate_all(opacities) == ["0.7"] * 4
    page.locator("input[type=range]").first.fill("20")
    assert maps.evaluate_all(opacities) == ["0.2"] * 2 + ["0.7"] * 2


def test_the_map_lies_over_the_picture(visit_explained):
    page = visit_explained()
    seen, hot = page.locator(".seen").first, page.locator(".seen img").first
    assert seen.bounding_box() == hot.bounding_box()
    assert seen.evaluate("e => getComputedStyle(e).backgroundImage").startswith('url("data:image/jpeg;base64,')


@pytest.mark.parametrize("width", [390, 1280])
def test_nothing_is_wider_than_the_screen(visit_explained, width):
    page = visit_explained(width)
    assert page.evaluate("document.documentElement.scrollWidth") == width


@pytest.mark.parametrize("colour_scheme", ["light", "dark"])
def test_every_text_can_be_read(visit_explained, colour_scheme):
    weakest = visit_explained(colour_scheme=colour_scheme).evaluate(WEAKEST_CONTRAST)
    assert weakest["ratio"] >= 4.5, weakest
