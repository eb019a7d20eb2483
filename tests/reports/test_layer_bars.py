"""Bars are read back: they add up to the network, and unknown is not zero."""

from hypothesis import given, settings
from inspected_networks import Rows, networks, plain_network

from convatlas.reports import layer_bars_figure
from convatlas.reports.figures import missing_glyphs_allowed
from convatlas.reports.inspected import inspected_model, known_sum, layer_row
from convatlas.reports.layer_bars import MOST_BARS, layer_bars


@settings(deadline=None, derandomize=True, max_examples=50)
@given(networks())
def test_bars_add_up_to_the_network(model):
    bars = layer_bars(model)
    assert sum(bar.parameters for bar in bars) == model["parameters"] + model["frozen_parameters"]
    assert known_sum(bar.macs for bar in bars) == model["macs"]
    assert sum(bar.activation_bytes for bar in bars) == sum(row["activation_bytes"] for row in model["layers"])
    assert len(bars) <= MOST_BARS


def test_many_layers_are_shown_by_module():
    rows, last = Rows(), -1
    for block in range(12):
        for layer in range(10):
            last = rows.conv(f"block{block}.layer{layer}", last, 8, 28)
    bars = layer_bars(inspected_model(rows.rows))
    assert [bar.name for bar in bars] == [f"block{block}" for block in range(12)]
    assert {bar.parameters for bar in bars} == {10 * 88}


def test_many_layers_without_modules_are_shown_by_neighbours():
    rows = [layer_row(f"conv{place}", ["aten.convolution"], [place - 1], parameters=1) for place in range(100)]
    bars = layer_bars(inspected_model(rows))
    assert len(bars) == 34
    assert bars[0].name == "conv0 … conv2"
    assert bars[-1].name == "conv99"
    assert sum(bar.parameters for bar in bars) == 100


def test_titles_are_totals_and_labels_are_figures():
    figure = layer_bars_figure(plain_network(convs=2))
    parameters, macs, activations = figure.axes
    assert parameters.get_title(loc="left") == "Parameters: 434"
    assert macs.get_title(loc="left") == "Multiply-adds: 2.24 k"
    assert activations.get_title(loc="left") == "Activations: 98.3 kB"
    assert [label.get_text() for label in parameters.get_yticklabels()] == ["conv1", "conv2", "fc"]
    assert [text.get_text() for text in parameters.texts] == ["88", "176", "170"]
    assert [patch.get_width() for patch in macs.patches] == [720, 1440, 80]
    low, high = parameters.get_ylim()
    assert low > high  # the first layer at the top


def test_unknown_is_a_question_mark():
    rows = [layer_row("a", ["custom.thing"], [-1], macs=None), layer_row("b", ["aten.convolution"], [0], macs=5)]
    macs = layer_bars_figure(inspected_model(rows)).axes[1]
    assert macs.get_title(loc="left") == "Multiply-adds: not known"
    assert [text.get_text() for text in macs.texts] == ["?", "5"]


def test_weights_of_auxiliary_heads_are_told():
    model = plain_network(convs=1) | {"parameters": 5_000}
    assert layer_bars_figure(model).axes[0].get_title(loc="left") == "Parameters: 178 of 5.00 k"


def test_a_batch_is_told():
    model = plain_network(convs=1) | {"input_shape": [8, 3, 32, 32]}
    assert layer_bars_figure(model).axes[2].get_title(loc="left") == "Activations of 8 images: 32.8 kB"


@settings(deadline=None, derandomize=True, max_examples=4)
@given(networks(most=6))
def test_any_network_is_drawn(model):
    with missing_glyphs_allowed():
        layer_bars_figure(model).draw_without_rendering()
