"""Figures are read back: from their axes, and from the files they are saved to."""

import math
import subprocess
import sys
from itertools import pairwise
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

from convatlas.errors import ConvatlasError, StorageError
from convatlas.reports import confusion_figure, learning_curves, save_figure
from convatlas.reports.figures import ON_STRONG

HOSTILE_NAMES = ["<script>alert(1)</script>", "$\\frac$", "猫 \x07 \udcff", "a" * 300]


def names(count):
    return [f"class {index}" for index in range(count)]


def random_confusion(classes, seed=0):
    generator = np.random.default_rng(seed)
    return (generator.poisson(0.3, (classes, classes)) + 20 * np.eye(classes, dtype=int)).tolist()


def labels_inside_the_figure(figure):
    """Whether no tick label overlaps its neighbour or leaves the figure."""
    figure.draw_without_rendering()
    axes = figure.axes[0]
    for labels in (axes.get_xticklabels(), axes.get_yticklabels()):
        boxes = [label.get_window_extent() for label in labels]
        if any(one.overlaps(other) for one, other in pairwise(boxes)):
            return False
        if any(box.x0 < 0 or box.y0 < 0 for box in boxes):
            return False
    return True


@pytest.mark.parametrize("classes", [2, 3, 10, 20, 21, 37, 100])
def test_every_class_is_named_without_overlap(classes):
    figure = confusion_figure(random_confusion(classes), names(classes))
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == names(classes)
    assert labels_inside_the_figure(figure)


def test_a_thousand_classes_name_every_tenth():
    figure = confusion_figure(np.eye(1000, dtype=int).tolist(), names(1000))
    assert [label.get_text() for label in figure.axes[0].get_xticklabels()] == names(1000)[::10]


def test_cells_carry_their_counts_with_the_truth_in_rows():
    figure = confusion_figure([[8, 2, 0], [1, 9, 0], [0, 0, 5]], names(3))
    axes = figure.axes[0]
    written = {tuple(map(int, text.get_position())): text.get_text() for text in axes.texts}
    assert written == {(0, 0): "8", (1, 0): "2", (0, 1): "1", (1, 1): "9", (2, 2): "5"}  # (column, row)
    assert axes.get_ylabel() == "True class"
    assert axes.get_title(loc="left") == "22 of 25 images correct (88.0 %)"


def test_many_classes_have_a_colour_scale_in_place_of_counts():
    figure = confusion_figure(random_confusion(21), names(21))
    assert not figure.axes[0].texts
    assert figure.axes[1].get_ylabel() == "Share of the true class"


def test_colour_is_the_share_of_the_row_whatever_the_size_of_the_class():
    figure = confusion_figure([[1, 1], [500, 500]], names(2))
    np.testing.assert_array_equal(figure.axes[0].images[0].get_array(), np.full((2, 2), 0.5))


def test_a_class_without_images_is_an_empty_row():
    figure = confusion_figure([[4, 0], [0, 0]], names(2))
    np.testing.assert_array_equal(figure.axes[0].images[0].get_array()[1], [0, 0])


def test_counts_on_dark_cells_are_light():
    figure = confusion_figure([[9, 1], [0, 10]], names(2))
    assert {text.get_text(): text.get_color() == ON_STRONG for text in figure.axes[0].texts} == {
        "9": True,
        "1": False,
        "10": True,
    }


def test_curves_hold_the_history_in_percent_and_mark_the_best_epoch(run_record):
    history = run_record["history"]
    accuracy, loss = learning_curves(history, best_epoch=5.5).axes
    train, validation, _, ring = accuracy.lines
    np.testing.assert_allclose(train.get_xdata(), [1, 2, 3, 4, 5, 5.5])
    np.testing.assert_allclose(train.get_ydata(), [100 * row["train_accuracy"] for row in history])
    np.testing.assert_allclose(validation.get_ydata(), [100 * row["validation_accuracy"] for row in history])
    np.testing.assert_allclose(ring.get_xydata(), [[5.5, 59.85]])
    np.testing.assert_allclose(loss.lines[3].get_xydata(), [[5.5, 1.2161]])
    assert [text.get_text() for text in accuracy.get_legend().get_texts()] == [
        "train",
        "validation",
        "best: epoch 5.5",
    ]


def test_no_epoch_is_marked_unless_it_is_given(run_record):
    accuracy, _ = learning_curves(run_record["history"]).axes
    assert [line.get_label() for line in accuracy.lines] == ["train", "validation"]


def test_a_single_epoch_shows_as_dots_on_a_whole_axis(run_record):
    accuracy, _ = learning_curves(run_record["history"][:1], best_epoch=1).axes
    assert accuracy.lines[0].get_marker() == "o"
    assert set(accuracy.get_xticks()) >= {0, 1}
    assert all(float(tick).is_integer() for tick in accuracy.get_xticks())


def test_a_diverged_history_can_still_be_drawn(run_record, tmp_path):
    for row, loss in zip(run_record["history"], [1.0, math.inf, math.nan, 1.2, math.nan, math.nan], strict=True):
        row["train_loss"] = row["validation_loss"] = loss
    save_figure(learning_curves(run_record["history"]), tmp_path / "curves.png")
    assert (tmp_path / "curves.png").stat().st_size > 1000


@pytest.mark.parametrize("suffix", [".png", ".svg", ".pdf", ".PNG"])
def test_figures_are_saved_in_the_format_of_the_suffix(suffix, tmp_path):
    path = tmp_path / "new folder" / f"confusion{suffix}"
    save_figure(confusion_figure([[8, 2], [1, 9]], names(2)), path)
    start = {".png": b"\x89PNG", ".svg": b"<?xml", ".pdf": b"%PDF"}[suffix.lower()]
    assert path.read_bytes().startswith(start)
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]


def test_a_saved_picture_is_cropped_to_its_content_on_white(tmp_path):
    save_figure(confusion_figure([[8, 2], [1, 9]], names(2)), tmp_path / "confusion.png")
    pixels = np.asarray(Image.open(tmp_path / "confusion.png").convert("L"))
    assert (pixels[0] == 255).all()
    assert (pixels[:40] < 128).any()


def test_another_suffix_is_refused_with_the_ones_that_work(tmp_path):
    with pytest.raises(ConvatlasError, match=r"must be one of \.png, \.svg, \.pdf; received \.jpeg") as refused:
        save_figure(learning_curves([]), tmp_path / "curves.jpeg")
    assert "\n" not in str(refused.value)
    assert not list(tmp_path.iterdir())


def test_a_write_that_fails_keeps_the_figure_that_was_there(tmp_path, monkeypatch):
    path = tmp_path / "curves.png"
    path.write_bytes(b"the old figure")
    figure = learning_curves([])

    def full_disk(temporary, **_):
        temporary.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(figure, "savefig", full_disk)
    with pytest.raises(StorageError, match="No space left on device"):
        save_figure(figure, path)
    assert path.read_bytes() == b"the old figure"
    assert [entry.name for entry in tmp_path.iterdir()] == ["curves.png"]


@pytest.mark.parametrize("suffix", [".png", ".svg"])
def test_hostile_class_names_are_drawn_as_text(suffix, tmp_path):
    path = tmp_path / f"confusion{suffix}"
    figure = confusion_figure(random_confusion(4), HOSTILE_NAMES)
    save_figure(figure, path)
    labels = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert labels == ["<script>alert(1)</scrip…", "$\\frac$", "猫 � �", "a" * 23 + "…"]
    if suffix == ".svg":
        ElementTree.parse(path)


def test_reports_import_nothing_heavy():
    code = "import sys, convatlas.reports; print({'torch', 'numpy', 'matplotlib', 'jinja2'} & set(sys.modules))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "set()"


def test_figures_do_not_touch_pyplot():
    code = (
        "import sys; from convatlas.reports import confusion_figure, learning_curves;"
        "confusion_figure([[1]], ['a']); learning_curves([]); print('matplotlib.pyplot' in sys.modules)"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "False"
