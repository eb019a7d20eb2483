"""Figures of anomalies: drawn whatever is missing or strange, and saying what the record says."""

import io

import pytest

from convatlas.reports import anomalies
from convatlas.reports.figures import error_curve


def drawn(figure):
    figure.savefig(io.BytesIO(), format="svg")
    return figure.axes[0]


@pytest.mark.parametrize("name", ["score", "precision_recall", "threshold", "rivals"])
def test_each_figure_of_a_record_is_drawn(anomaly_record, name):
    assert drawn(getattr(anomalies, f"{name}_figure")(anomaly_record["test"])).get_legend() is not None


def test_the_threshold_is_marked_where_it_is(anomaly_record):
    test = anomaly_record["test"]
    axes = drawn(anomalies.score_figure(test))
    assert test["threshold"]["value"] in [line.get_xdata()[0] for line in axes.lines]
    assert [text.get_text() for text in axes.texts] == [f"alarm above {test['threshold']['value']:.3g}"]


@pytest.mark.parametrize("value", [0.0, 1e-9, 1e9])
def test_a_threshold_outside_the_scores_does_not_widen_the_axis(anomaly_record, value):
    test = anomaly_record["test"]
    test["threshold"]["value"] = value
    axes = drawn(anomalies.score_figure(test))
    edges = test["distributions"]["edges"]
    assert axes.get_xlim() == pytest.approx((edges[0], edges[-1]))


def test_the_operating_point_is_the_precision_of_the_alarms(anomaly_record):
    test = anomaly_record["test"]
    point = drawn(anomalies.precision_recall_figure(test)).lines[-1]
    precision = 100 * (test["alarms"] - test["false_alarms"]) / test["alarms"]
    assert (point.get_xdata()[0], point.get_ydata()[0]) == pytest.approx((100 * test["recall"], precision))


def test_rivals_without_intervals_are_dots(anomaly_record):
    test = anomaly_record["test"]
    for figures in (test, *test["rivals"]):
        figures.update(average_precision_interval=None, natural_average_precision=None)
    assert all(len(line.get_xdata()) == 1 for line in drawn(anomalies.rivals_figure(test)).lines)


def test_names_of_columns_are_text_and_no_formulas():
    columns = [{"name": name, "share": 0.3, "normal_share": 0.1} for name in ("$\\frac{$", "x" * 80, "\x1b[31m")]
    labels = [label.get_text() for label in drawn(anomalies.columns_figure(columns)).get_yticklabels()]
    assert labels == ["$\\frac{$", "x" * 23 + "…", "�[31m"]


def test_a_single_point_and_a_single_column_are_drawn():
    curve = {"threshold": [0.5], "precision": [1.0], "recall": [1.0], "false_alarm_rate": [0.0]}
    drawn(anomalies.threshold_figure({"by_threshold": curve, "stated_prevalence": None, "threshold": None}))
    drawn(anomalies.columns_figure([{"name": "V1", "share": 1.0, "normal_share": 0.0}]))


@pytest.mark.parametrize(("last", "scale"), [(0.1, "log"), (0.9, "linear"), (0.0, "linear")])
def test_errors_that_fall_by_factors_are_drawn_on_a_logarithmic_scale(last, scale):
    history = [{"epoch": 1.0, "train_loss": 1.0, "validation_loss": 1.0}]
    history.append({"epoch": 2.0, "train_loss": last, "validation_loss": last})
    assert drawn(error_curve(history, best_epoch=2.0)).get_yscale() == scale
