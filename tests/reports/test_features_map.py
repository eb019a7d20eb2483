"""The map of the features as a figure: a mark a class, rings, and names that are text."""

from __future__ import annotations

from matplotlib.colors import to_hex

from convatlas.reports.features_map import MOST_COLOURED, features_figure, features_svg
from convatlas.reports.figures import INK


def test_a_mark_for_each_class_and_a_ring_for_each_mistake() -> None:
    points = [(float(place), 0.0) for place in range(6)]
    figure = features_figure(points, ["bee", "ant", "bee", "$x$", "ant", "bee"], wrong=[1, 3])
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert labels == ["$x$ (1)", "ant (2)", "bee (3)", "misclassified (2)"]
    rings = figure.axes[0].collections[-1]
    assert rings.get_offsets().tolist() == [[1, 0], [3, 0]]
    assert to_hex(rings.get_edgecolor()[0]) == INK


def test_many_classes_are_told_apart_as_far_as_they_can_be() -> None:
    classes = [f"class {number:02}" for number in range(30)] + [f"class {number:02}" for number in range(25)]
    figure = features_figure([(0.0, 0.0)] * 55, classes, wrong=[])
    marks = figure.axes[0].collections
    assert len(marks) == MOST_COLOURED + 1
    looks = {(to_hex(mark.get_facecolor()[0]), mark.get_paths()[0].vertices.tobytes()) for mark in marks}
    assert len(looks) == len(marks)
    assert figure.legends[0].get_texts()[-1].get_text() == "10 other classes (15)"


def test_a_class_cannot_write_into_the_page() -> None:
    svg = features_svg([(0, 0), (1, 1)], ["<script>alert(1)</script>", "犬"], [0], "t-SNE")
    assert "<script>" not in svg
    assert 'aria-label="t-SNE of 2 images, 1 of them misclassified"' in svg
    assert "var(--ink)" in svg
