"""Windows over a picture are read back as rectangles in pixels."""

from itertools import pairwise

import numpy as np
import pytest
from matplotlib.patches import Rectangle
from PIL import Image

from convatlas.errors import ConvatlasError, InspectionError, UnknownNameError
from convatlas.reports import receptive_field_figure
from convatlas.reports.inspected import inspected_model, layer_row


def row(name, size, jump, centre, side, tap=None):
    return layer_row(
        name,
        tap=tap,
        receptive_field=[size, size],
        jump=[jump, jump],
        centre=[centre, centre],
        output_shape=[1, 8, side, side],
    )


# conv 3x3 with padding; 2x2 pooling; conv 3x3 with padding; 2x2 pooling; a dense layer
LAYERS = [
    row("features.0", 3, 1.0, 0.0, 100, tap="conv1"),
    row("features.1", 4, 2.0, 0.5, 50, tap="pool1"),
    row("features.2", 8, 2.0, 0.5, 50),
    row("features.3", 10, 4.0, 1.5, 25, tap="pool2"),
    row("fc", 130, 1.0, 49.5, 1) | {"output_shape": [1, 10]},
    layer_row("unknown", output_shape=[1, 10]),
]


@pytest.fixture
def model():
    return inspected_model(LAYERS, model="small", input_shape=[1, 3, 100, 100])


@pytest.fixture
def picture():
    return np.random.default_rng(0).integers(0, 256, (150, 100, 3), dtype=np.uint8)


def windows(figure):
    """Left, top, width and height of the outlines, the white edge around each left out."""
    outlines = [patch for patch in figure.axes[0].patches if isinstance(patch, Rectangle) and not patch.get_fill()]
    return [(*outline.get_xy(), outline.get_width(), outline.get_height()) for outline in outlines[1::2]]


def labels(figure):
    return [text.get_text() for text in figure.axes[0].texts]


def test_windows_lie_where_the_jump_and_the_centre_put_them(picture, model):
    figure = receptive_field_figure(picture, model, ["conv1", "pool2"])
    # pool2's position 12 of 25: 1.5 + 12 * 4 = 49.5; conv1's nearest: 50 (or 49)
    assert windows(figure)[1] == (44.5, 44.5, 10, 10)
    assert windows(figure)[0] in ((47.5, 47.5, 3, 3), (48.5, 48.5, 3, 3))
    assert labels(figure) == ["pool2  10x10", "conv1  3x3"]


def test_windows_are_nested(picture, model):
    nested = windows(receptive_field_figure(picture, model))
    for (left, top, width, height), outer in pairwise(nested):
        assert outer[0] <= left
        assert outer[1] <= top
        assert outer[0] + outer[2] >= left + width
        assert outer[1] + outer[3] >= top + height


def test_layers_with_a_papers_name_are_chosen(picture, model):
    assert labels(receptive_field_figure(picture, model)) == ["pool2  10x10", "pool1  4x4", "conv1  3x3"]


def test_six_layers_are_chosen_of_many(picture):
    many = [row(f"conv{place}", 2 * place + 1, 1.0, 0.0, 100) for place in range(1, 41)]
    chosen = labels(receptive_field_figure(picture, inspected_model(many, input_shape=[1, 3, 100, 100])))
    assert len(chosen) == 6
    assert chosen[0] == "conv40  81x81"
    assert len(set(chosen)) == 6


def test_what_is_beyond_the_picture_is_hatched(picture, model):
    inside = receptive_field_figure(picture, model, ["pool2"])
    beyond = receptive_field_figure(picture, model, ["fc"])
    assert not [patch for patch in inside.axes[0].patches if patch.get_hatch()]
    assert [patch for patch in beyond.axes[0].patches if patch.get_hatch()]
    assert windows(beyond) == [(-15.5, -15.5, 130, 130)]
    assert beyond.axes[0].get_xlim()[0] < -15.5
    assert "padding" in beyond.texts[1].get_text()


def test_a_window_far_larger_than_the_picture_is_only_named(picture, model):
    model["layers"][4] = row("fc", 900, 1.0, 49.5, 1)
    figure = receptive_field_figure(picture, model, ["pool2", "fc"])
    assert labels(figure)[0] == "fc  900x900 (beyond this view)"
    assert figure.axes[0].get_xlim()[0] > -20


def test_positions_of_the_last_map_are_dots(picture, model):
    figure = receptive_field_figure(picture, model, ["pool2"])
    dots = figure.axes[0].collections[0].get_offsets()
    assert len(dots) == 25 * 25
    np.testing.assert_array_equal(dots[:2], [[1.5, 1.5], [5.5, 1.5]])
    assert "25x25 positions of pool2, 4 pixels apart" in figure.texts[1].get_text()


def test_a_file_is_opened_and_its_middle_is_shown(tmp_path, model):
    pixels = np.zeros((100, 300, 3), np.uint8)
    pixels[:, 100:200] = (0, 255, 0)
    Image.fromarray(pixels).save(tmp_path / "picture.png")
    figure = receptive_field_figure(tmp_path / "picture.png", model, ["conv1"])
    shown = figure.axes[0].images[0]
    np.testing.assert_array_equal(shown.get_extent(), [-0.5, 99.5, 99.5, -0.5])
    inside = np.asarray(shown.get_array())[:, 12:-12, 1]  # its edges are mixed with their neighbours
    assert (inside > 250).all()


def test_a_grey_picture_is_shown(model):
    receptive_field_figure(np.full((40, 40), 128, np.uint8), model, ["conv1"]).draw_without_rendering()


@pytest.mark.parametrize(
    "picture", [np.zeros((4, 4, 3)), np.zeros((4, 4, 2), np.uint8), np.zeros(4, np.uint8), np.zeros((0, 4), np.uint8)]
)
def test_other_arrays_are_refused(picture, model):
    with pytest.raises(ConvatlasError, match="cannot draw on this picture: received"):
        receptive_field_figure(picture, model)


def test_a_file_that_is_no_picture_is_refused(tmp_path, model):
    (tmp_path / "note.png").write_text("no picture")
    with pytest.raises(ConvatlasError, match="cannot read the picture"):
        receptive_field_figure(tmp_path / "note.png", model)


def test_an_unknown_layer_is_refused_with_the_nearest(picture, model):
    with pytest.raises(UnknownNameError, match="did you mean conv1"):
        receptive_field_figure(picture, model, ["conv11"])


def test_a_layer_whose_field_is_not_known_is_refused(picture, model):
    with pytest.raises(InspectionError, match="unknown: it is not known"):
        receptive_field_figure(picture, model, ["unknown"])


def test_a_network_without_fields_is_refused(picture):
    with pytest.raises(InspectionError, match="that of no layer is known"):
        receptive_field_figure(picture, inspected_model([layer_row("fc")]))


def test_a_network_of_no_images_is_refused(picture, model):
    with pytest.raises(InspectionError, match=r"received the shape \[1, 10\]"):
        receptive_field_figure(picture, model | {"input_shape": [1, 10]})
