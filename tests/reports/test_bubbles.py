"""Bubbles are read back: places, areas, and labels that cover each other nowhere."""

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from convatlas.errors import ConvatlasError
from convatlas.reports import bubble_figure
from convatlas.reports.bubbles import BubbleRow


def bubble(name="net", family="family", accuracy=70.0, macs=10**9, parameters=10**7):
    return BubbleRow(name=name, family=family, accuracy=accuracy, macs=macs, parameters=parameters)


def names_of(figure, rows):
    names = {row["name"] for row in rows}
    return [text for text in figure.axes[0].texts if text.get_text() in names]


def crowd(count, seed=0):
    """Networks of which most are alike, as published ones are."""
    generator = np.random.default_rng(seed)
    return [
        bubble(
            f"network{place}_{'bn' * (place % 3)}",
            f"family{place % 9}",
            float(generator.normal(76, 2)),
            int(10 ** generator.normal(9.6, 0.4)),
            int(10 ** generator.normal(7.4, 0.4)),
        )
        for place in range(count)
    ]


def labels_apart(figure, rows):
    figure.draw_without_rendering()
    extents = [text.get_window_extent() for text in names_of(figure, rows)]
    # a label's window is a little higher than its letters
    extents = [extent.expanded(1.0, 0.8) for extent in extents]
    inside = all(figure.bbox.x0 <= each.x0 and each.x1 <= figure.bbox.x1 for each in extents)
    return inside and not any(one.overlaps(other) for one, other in combinations(extents, 2))


@pytest.mark.parametrize("count", [1, 3, 12, 25])
def test_every_network_is_named_without_overlap(count):
    rows = crowd(count)
    figure = bubble_figure(rows)
    assert {text.get_text() for text in names_of(figure, rows)} == {row["name"] for row in rows}
    assert labels_apart(figure, rows)


@pytest.mark.slow
def test_forty_networks_are_named_without_overlap():
    rows = crowd(40, seed=1)
    assert labels_apart(bubble_figure(rows), rows)


def test_areas_are_parameters_and_places_are_accuracy_and_cost():
    rows = [bubble("small", macs=10**8, parameters=10**6), bubble("large", "other", 80.0, 10**10, 10**8)]
    figure = bubble_figure(rows)
    axes = figure.axes[0]
    figure.draw_without_rendering()
    large, small = axes.collections[:2]  # small ones are drawn over large ones
    assert large.get_sizes()[0] == pytest.approx(100 * small.get_sizes()[0])
    for scatter, row in ((small, rows[0]), (large, rows[1])):
        pixels = axes.transAxes.transform(scatter.get_offsets()[0])
        macs, accuracy = axes.transData.inverted().transform(pixels)
        assert macs == pytest.approx(row["macs"], rel=1e-6)
        assert accuracy == pytest.approx(row["accuracy"])
    assert axes.get_xscale() == "log"


def test_families_have_colours_and_the_legend_their_names():
    rows = [bubble("a", "vgg"), bubble("b", "vgg", 71.0), bubble("c", "resnet", 75.0)]
    axes = bubble_figure(rows).axes[0]
    colours = [tuple(scatter.get_edgecolors()[0]) for scatter in axes.collections[:3]]
    assert len(set(colours)) == 2
    assert {"vgg", "resnet", "Parameters", "10 M"} <= {text.get_text() for text in axes.texts}


def test_the_source_is_told():
    figure = bubble_figure([bubble()], source="the papers")
    assert "as published (the papers)" in figure.texts[1].get_text()


def test_equal_networks_are_told_apart():
    rows = [bubble(f"twin{place}") for place in range(5)]
    assert labels_apart(bubble_figure(rows), rows)


def test_none_is_refused():
    with pytest.raises(ConvatlasError, match="received none"):
        bubble_figure([])


def test_a_network_without_cost_is_refused():
    with pytest.raises(ConvatlasError, match="cannot draw net: received 0 multiply-adds"):
        bubble_figure([bubble(macs=0)])


@settings(deadline=None, derandomize=True, max_examples=10)
@given(
    st.lists(
        st.builds(
            bubble,
            name=st.sampled_from(["$\\frac$", "猫\x07", "a" * 40]),
            accuracy=st.floats(0, 100),
            macs=st.integers(1, 10**12),
            parameters=st.integers(1, 10**10),
        ),
        min_size=1,
        max_size=4,
    )
)
def test_any_networks_are_drawn(rows):
    bubble_figure(rows)
