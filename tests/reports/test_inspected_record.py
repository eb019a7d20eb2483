"""The record as tables: nothing is lost when rows are folded, and what is not known is said."""

import csv
import io

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from inspected_networks import branched_network, networks, plain_network, residual_network

from convatlas.errors import ConvatlasError
from convatlas.reports import folded_to_depth, layers_csv, layers_markdown
from convatlas.reports.inspected import in_bytes, inspected_model, known_sum, layer_row

SUMMED = ("parameters", "frozen_parameters", "buffers", "macs", "flops", "activation_bytes")


@settings(deadline=None, derandomize=True, max_examples=50)
@given(networks(), st.integers(1, 4))
def test_folding_keeps_the_sums_the_order_and_who_reads_whom(model, depth):
    folded = folded_to_depth(model, depth)
    for column in SUMMED:
        assert known_sum(row[column] for row in folded) == known_sum(row[column] for row in model["layers"])
    assert sum(row["layers"] for row in folded) == len(model["layers"])
    assert all(row["depth"] <= depth for row in folded)
    assert all(source < place for place, row in enumerate(folded) for source in row["sources"])
    operators = [operator for row in model["layers"] for operator in row["operators"]]
    assert [operator for row in folded for operator in row["operators"]] == operators


def test_a_module_folds_to_its_last_row():
    rows = folded_to_depth(residual_network(blocks=2), 2)
    assert [row["name"] for row in rows] == ["stem.conv", "stem.bn", "stem.relu", "layer1.0", "layer1.1"]
    block = rows[3]
    assert (block["type"], block["tap"], block["layers"]) == ("Block", "conv2_1", 8)
    assert block["output_shape"] == [1, 16, 28, 28]
    assert block["parameters"] == 2 * (9 * 16 + 2 * 16)
    assert block["sources"] == [2]
    assert rows[4]["sources"] == [3]


def test_calls_of_the_same_module_stay_apart():
    rows = [layer_row("shared", ["aten.convolution"], [place - 1], call=place + 1, calls=3) for place in range(3)]
    assert [row["layers"] for row in folded_to_depth(inspected_model(rows), 1)] == [1, 1, 1]


def test_an_unknown_part_makes_an_unknown_sum():
    rows = [layer_row("a.b", macs=5), layer_row("a.c", macs=None, unknown_operators=["custom.thing"]), layer_row("d")]
    folded = folded_to_depth(inspected_model(rows), 1)
    assert [row["macs"] for row in folded] == [None, 0]
    assert folded[0]["unknown_operators"] == ["custom.thing"]


def test_depth_zero_is_refused():
    with pytest.raises(ConvatlasError, match="depth 0"):
        folded_to_depth(plain_network(), 0)


@settings(deadline=None, derandomize=True, max_examples=20)
@given(networks())
def test_csv_is_read_back(model):
    rows = list(csv.DictReader(io.StringIO(layers_csv(model))))
    assert [row["name"] for row in rows] == [row["name"] for row in model["layers"]]
    for row, layer in zip(rows, model["layers"], strict=True):
        assert int(row["parameters"]) == layer["parameters"]
        assert row["macs"] == ("" if layer["macs"] is None else str(layer["macs"]))
        assert [int(source) for source in row["sources"].split()] == layer["sources"]
        assert row["output_shape"] == "x".join(map(str, layer["output_shape"]))


def test_csv_leaves_empty_what_is_not_known():
    row = next(csv.DictReader(io.StringIO(layers_csv(inspected_model([layer_row("a", macs=None)])))))
    assert (row["macs"], row["receptive_field"], row["jump"]) == ("", "", "")


def test_markdown_has_totals_and_a_row_a_layer():
    model = plain_network(convs=1)
    text = layers_markdown(model)
    assert text.startswith("# plain\n")
    assert f"Parameters: {model['parameters']:,}" in text
    assert f"{model['macs']:,} multiply-adds" in text
    assert "| features.1.relu | conv1 | ReLU | 8x32x32 | 0 | 0 |" in text
    table = [line for line in text.splitlines() if line.startswith("|")]
    assert len(table) == 2 + len(model["layers"])
    assert len({line.count("|") for line in table}) == 1


def test_markdown_at_a_depth():
    text = layers_markdown(branched_network(modules=2), depth=1)
    assert "| mixed1 | mixed\\_1 | Mixed |" in text
    assert "mixed1.one" not in text


def test_markdown_says_what_is_not_known():
    rows = [layer_row("a", macs=None, unknown_operators=["custom.thing", "custom.thing"]), layer_row("b")]
    text = layers_markdown(inspected_model(rows))
    assert "- Cost: not known" in text
    assert "Not known: `custom.thing` (2 times). What depends on it is left empty, not guessed." in text
    assert "| a |  |  |  | 0 | ? |" in text


def test_markdown_tells_the_memory():
    memory = {"batch_size": 32, "inference_peak_bytes": 5 * 10**6, "training_peak_bytes": 2 * 10**9}
    text = layers_markdown(inspected_model([], memory=memory))
    assert "- Memory at a batch of 32: 5.00 MB inference, 2.00 GB training" in text


def test_a_name_cannot_break_the_table():
    text = layers_markdown(inspected_model([layer_row("a|b\n`c`", type="<b>")]))
    assert "| a\\|b \\`c\\` |  | \\<b\\> |" in text


def test_a_thousand_never_shows_as_a_thousand():
    assert [in_bytes(count) for count in (999, 1000, 9_996, 999_499, 999_600)] == [
        "999 B", "1.00 kB", "10.0 kB", "999 kB", "1.00 MB",
    ]  # fmt: skip
