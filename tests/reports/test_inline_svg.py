import re
from xml.etree import ElementTree

import pytest

from convatlas.reports.figures import GRID, INK, MUTED, TRAIN, VALIDATION, confusion_figure, loss_curve
from convatlas.reports.inline_svg import inline_svg

VARIABLES = {INK: "--ink", MUTED: "--muted", GRID: "--line", TRAIN: "--train", VALIDATION: "--accent"}


@pytest.fixture
def curve(run_record):
    return loss_curve(run_record["history"], best_epoch=5.5)


def test_an_inline_figure_is_one_named_element_sized_by_the_page(curve):
    root = ElementTree.fromstring(inline_svg(curve, "loss", 'Loss "by" <epoch>', VARIABLES))
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    assert root.get("role") == "img"
    assert root.get("aria-label") == 'Loss "by" <epoch>'
    assert root.get("viewBox")
    assert root.get("width") is None
    assert root.get("height") is None


def test_every_colour_of_the_curves_is_the_pages(curve):
    svg = inline_svg(curve, "loss", "Loss", VARIABLES)
    assert not re.findall(r"#[0-9a-fA-F]{3,8}\b", re.sub(r'(id|href|clip-path)="[^"]*"', "", svg))
    assert set(re.findall(r"var\((--\w+)\)", svg)) == set(VARIABLES.values())


def test_two_figures_on_a_page_share_no_identifier_and_keep_their_references(curve):
    def identifiers(name):
        svg = inline_svg(curve, name, name, VARIABLES)
        defined = set(re.findall(r'\bid="([^"]*)"', svg))
        assert set(re.findall(r'(?:href="|url\()#([^")]*)', svg)) <= defined
        return defined

    assert not identifiers("one") & identifiers("two")
    assert identifiers("one")


def test_nothing_of_a_figure_reaches_the_rest_of_the_page(curve):
    svg = inline_svg(curve, "loss", "Loss", VARIABLES)
    assert "<style" not in svg
    assert "font-family" not in svg  # the page's fonts apply
    assert "<?xml" not in svg
    assert "<!DOCTYPE" not in svg


def test_class_names_stay_text_and_are_escaped():
    names = ["<script>alert(1)</script>", "猫 & 犬", '" onload="alert(1)']
    svg = inline_svg(confusion_figure([[1, 0, 0], [0, 1, 0], [0, 0, 1]], names), "confusion", "", VARIABLES)
    assert "<script" not in svg
    texts = {element.text for element in ElementTree.fromstring(svg).iter("{http://www.w3.org/2000/svg}text")}
    assert {"<script>alert(1)</scrip…", "猫 & 犬", '" onload="alert(1)'} <= texts


def test_the_same_figure_gives_the_same_bytes(run_record):
    def draw():
        return inline_svg(loss_curve(run_record["history"], 5.5), "loss", "Loss", VARIABLES)

    assert draw() == draw()
