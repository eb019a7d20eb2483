"""Diagrams are read back: what the boxes say, what is framed and folded, and that nothing covers anything."""

from itertools import combinations, pairwise

import pytest
from hypothesis import given, settings
from inspected_networks import Rows, branched_network, networks, plain_network, residual_network
from PIL import Image
from test_diagram_layout import SMALL, crosses, meets

from convatlas.reports import diagram_figure, save_figure
from convatlas.reports.diagram import drawable_rows, picture_of
from convatlas.reports.diagram_blocks import fused_boxes
from convatlas.reports.inspected import inspected_model, layer_row


def picture_of_model(model):
    return picture_of(model, drawable_rows(model)[0])


def boxes_of(picture):
    return [card for card in picture.cards if card.kind is not None]


def frames_of(picture):
    return [card for card in picture.cards if card.kind is None]


def said(card):
    return [line for line in card.lines if line]


def rectangle(card):
    return card.x, card.y, card.x + card.width, card.y + card.height


def assert_nothing_covers_anything(picture):
    boxes = list(map(rectangle, boxes_of(picture)))
    assert not any(meets(one, other) for one, other in combinations(boxes, 2))
    for one, other in combinations(map(rectangle, frames_of(picture)), 2):
        assert not meets(one, other) or holds(one, other) or holds(other, one)
    for wire in picture.wires:
        for start, end in pairwise(wire.corners):
            assert not any(crosses(start, end, box) for box in boxes)


def holds(outer, inner):
    return (
        outer[0] <= inner[0] + SMALL
        and outer[1] <= inner[1] + SMALL
        and outer[2] >= inner[2] - SMALL
        and outer[3] >= inner[3] - SMALL
    )


def test_a_convolution_is_one_box_with_what_follows_it():
    picture = picture_of_model(plain_network(convs=2))
    assert [said(card) for card in picture.cards] == [
        ["image", "3×32×32"],
        ["conv1", "3×3 conv, 8, BN, ReLU", "8×32×32 · 88"],
        ["conv2", "3×3 conv, 16, BN, ReLU", "16×32×32 · 176"],
        ["pool", "global average pool", "16×1×1"],
        ["fc", "dense, 10", "10 · 170"],
        ["output", "10"],
    ]
    assert [card.kind for card in picture.cards] == ["end", "convolution", "convolution", "pooling", "dense", "end"]


def test_an_activation_that_others_read_around_stays_apart():
    rows = Rows()
    conv = rows.add("conv", ["aten.convolution"], [-1], type="Conv2d")
    relu = rows.add("relu", ["aten.relu"], [conv], type="ReLU")
    rows.add("", ["aten.add"], [conv, relu], type="Net")
    assert [box.operation for box in fused_boxes(rows.rows)] == ["conv", "ReLU", "add"]


def test_what_runs_nothing_stands_between_nothing():
    rows = Rows()
    conv = rows.add("conv", ["aten.convolution"], [-1], type="Conv2d")
    rows.add("drop_block", [], [conv], type="Identity")
    relu = rows.add("relu", ["aten.relu"], [conv], type="ReLU")
    rows.add("dropout", [], [relu], type="Dropout")
    rows.add("next", ["aten.convolution"], [relu], type="Conv2d")
    assert [box.operation for box in fused_boxes(rows.rows)] == ["conv, ReLU, dropout", "conv"]


def test_a_frame_around_most_of_a_large_network_is_left_out():
    rows = branched_network(modules=12, width=lambda module: module)["layers"]
    for row in rows:
        row["name"] = f"features.{row['name']}"
    last = len(rows) - 1
    head = layer_row("fc", ["aten.addmm"], [last, 2], parameters=1)  # it reads the stem too: the frame has branches
    picture = picture_of_model(inspected_model([*rows, head]))
    assert not [frame for frame in frames_of(picture) if "features" in frame.lines]
    assert len(frames_of(picture)) == 12


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"detail": "7x7, stride 2, padding 3"}, "7x7 conv, 64, stride 2"),
        ({"detail": "3x3, groups 64"}, "3x3 conv, 64, each channel"),
        ({"detail": "3x3, groups 32"}, "3x3 conv, 64, groups 32"),
        ({"detail": "2x2, stride 2", "type": "ConvTranspose2d"}, "2x2 transposed conv, 64, stride 2"),
        ({"operators": ["aten.max_pool2d_with_indices"], "detail": "3x3, stride 2"}, "3x3 max pool, stride 2"),
        ({"operators": ["aten._adaptive_avg_pool2d"], "detail": "to 7x7"}, "average pool to 7x7"),
        ({"operators": ["aten.avg_pool2d", "aten.mul", "aten.add"]}, "average pool"),
        ({"operators": ["aten.mean"], "output_shape": [1, 64, 1, 1]}, "global average pool"),
        ({"operators": ["aten.native_layer_norm"]}, "layer norm"),
        ({"operators": ["aten.mul", "aten.tanh", "aten.mul"], "type": "ScaledTanh"}, "ScaledTanh"),
        ({"operators": ["aten.native_batch_norm", "aten.convolution"], "detail": "1x1"}, "1x1 conv, 64"),
        (
            {"operators": ["aten.addmm", "aten.bmm", "aten._softmax"], "parameters": 9, "type": "Attention"},
            "Attention, 8",
        ),
        ({"operators": ["aten.t", "aten.addmm"], "parameters": 9, "output_shape": [1, 64]}, "dense, 64"),
        ({"operators": ["custom.thing"], "type": "Thing"}, "Thing"),
    ],
)
def test_what_a_box_says(given, expected):
    row = layer_row("x", **({"operators": ["aten.convolution"], "output_shape": [1, 64, 8, 8]} | given))
    assert fused_boxes([row])[0].operation == expected


def test_branches_stand_side_by_side_in_a_frame_with_the_modules_name():
    picture = picture_of_model(branched_network(modules=1))
    (frame,) = frames_of(picture)
    assert frame.lines == ["mixed_1"]
    inside = [card for card in boxes_of(picture) if holds(rectangle(frame), rectangle(card))]
    assert [said(card)[0] for card in inside] == ["one", "two_a", "two_b", "pool", "concatenate"]
    one, two_a, two_b, pool, joined = inside
    assert one.y == two_a.y == pool.y < two_b.y < joined.y
    assert one.x < two_a.x < pool.x
    assert abs(two_a.x + two_a.width / 2 - two_b.x - two_b.width / 2) < SMALL


def test_equal_modules_are_drawn_once_with_the_range_of_what_differs():
    model = branched_network(modules=4)
    for place, row in enumerate(model["layers"]):
        if row["name"] == "mixed3.one.conv":
            model["layers"][place]["parameters"] += 1_000
    (frame,) = frames_of(picture_of_model(model))
    assert frame.lines == ["4 × mixed_1", "… mixed_4"]
    assert frame.times == 4
    texts = [text.get_text() for text in diagram_figure(model).axes[0].texts]
    assert "16×28×28 · 176–1.18 k" in texts


def test_modules_of_other_widths_are_not_equal():
    picture = picture_of_model(branched_network(modules=3, width=lambda module: 16 * module))
    assert [frame.lines for frame in frames_of(picture)] == [["mixed_1"], ["mixed_2"], ["mixed_3"]]


def test_a_shortcut_runs_beside_its_block():
    picture = picture_of_model(residual_network(blocks=1))
    (frame,) = frames_of(picture)
    assert frame.lines == ["conv2_1"]
    assert [said(card)[0] for card in boxes_of(picture) if card.kind == "join"] == ["add, ReLU"]
    right = max(card.x + card.width for card in boxes_of(picture) if holds(rectangle(frame), rectangle(card)))
    assert any(x > right for wire in picture.wires for x, _ in wire.corners)
    assert_nothing_covers_anything(picture)


def test_a_long_chain_is_wrapped_into_columns():
    model = plain_network(convs=24)
    for row in model["layers"]:
        row["detail"] = row["name"][-9:]  # no two alike: nothing is folded
    picture = picture_of_model(model)
    assert 0.5 < picture.width / picture.height < 1.4
    image, output = picture.cards[0], picture.cards[-1]
    assert output.x > image.x + image.width
    assert_nothing_covers_anything(picture)


def test_many_equal_layers_become_one():
    rows = [layer_row(f"layers.{place}", ["aten.convolution"], [place - 1], type="Conv2d") for place in range(500)]
    model = inspected_model(rows)
    (frame,) = frames_of(picture_of_model(model))
    assert frame.lines == ["500 × layers.0", "… layers.499"]


def test_a_huge_network_is_drawn_by_its_modules_and_says_so():
    rows = Rows()
    last = -1
    for block in range(20):
        for layer in range(40):
            last = rows.conv(f"block{block}.layer{layer}", last, 8 + layer, 28)
        last = rows.add(f"block{block}", ["aten.max_pool2d_with_indices"], [last], detail=f"{block}x{block}")
    figure = diagram_figure(inspected_model(rows.rows))
    texts = [text.get_text() for text in figure.axes[0].texts]
    assert "2,420 layers are too many to draw; these are modules, to depth 1" in texts
    assert "block19" in texts


@settings(deadline=None, derandomize=True, max_examples=60)
@given(networks(most=16))
def test_any_network_is_drawn_with_nothing_covered(model):
    picture = picture_of_model(model)
    assert_nothing_covers_anything(picture)
    kinds = [card.kind for card in boxes_of(picture)]
    assert kinds.count("end") == 2
    for left, top, right, bottom in map(rectangle, picture.cards):
        assert min(left, top) >= -SMALL
        assert right <= picture.width + SMALL
        assert bottom <= picture.height + SMALL


def test_a_network_that_reads_itself_is_drawn():
    rows = [layer_row("block.conv", ["aten.convolution"], [1]), layer_row("block", ["aten.add", "aten.relu"], [0, -1])]
    assert len(boxes_of(picture_of_model(inspected_model(rows)))) == 4


def test_hostile_names_are_drawn_and_saved(tmp_path):
    rows = [layer_row(name, ["custom.thing"], [-1], type=name) for name in ("$\\frac$", "猫 \x07 \udcff", "a" * 300)]
    figure = diagram_figure(inspected_model(rows, model="<$\\frac$>"))
    for suffix in ("png", "svg"):
        save_figure(figure, tmp_path / f"diagram.{suffix}")
        assert (tmp_path / f"diagram.{suffix}").stat().st_size > 1000


def test_text_stays_inside_its_box_and_the_figure(tmp_path):
    figure = diagram_figure(residual_network(blocks=2))
    save_figure(figure, tmp_path / "diagram.png")
    with Image.open(tmp_path / "diagram.png") as picture:
        assert min(picture.size) > 300
    figure.set_dpi(160)
    figure.draw_without_rendering()
    axes = figure.axes[0]
    canvas = figure.bbox
    to_pixels = axes.transData.transform
    picture = picture_of_model(residual_network(blocks=2))
    widest = max(boxes_of(picture), key=lambda card: card.width)
    pixels = (to_pixels((widest.width, 0)) - to_pixels((0, 0)))[0]
    for text in axes.texts:
        extent = text.get_window_extent()
        assert canvas.x0 <= extent.x0
        assert extent.x1 <= canvas.x1
        if "conv" in text.get_text() and "," in text.get_text():
            assert extent.width < pixels
