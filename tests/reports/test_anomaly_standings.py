"""Who is ahead of whom: by more than chance, or not to be told apart."""

import pytest

from convatlas.reports.standings import Contender, place, verdicts


def figures(value, half=0.03, natural=None, name=None):
    found = {"average_precision": value, "average_precision_interval": [value - half, value + half]}
    if natural is not None:
        found |= {
            "natural_average_precision": natural,
            "natural_average_precision_interval": [natural - half, natural + half],
            "stated_prevalence": 0.002,
        }
    return found | ({"name": name} if name else {})


@pytest.mark.parametrize(
    ("value", "interval", "where"),
    [
        (0.60, (0.57, 0.63), "ahead"),
        (0.80, (0.77, 0.83), "behind"),
        (0.70, (0.67, 0.73), "close"),
        (0.66, (0.63, 0.69), "close"),  # less than 1.41 half-widths away
        (0.65, (0.62, 0.68), "ahead"),  # more, though the intervals overlap
        (0.10, None, "close"),
    ],
)
def test_a_difference_counts_when_it_is_more_than_chance(value, interval, where):
    assert place(Contender("network", 0.70, (0.67, 0.73)), Contender("rival", value, interval)) == where


def test_places_are_opposite_from_the_other_side():
    one, other = Contender("a", 0.5, (0.3, 0.55)), Contender("b", 0.7, (0.66, 0.9))
    assert (place(one, other), place(other, one)) == ("behind", "ahead")


def test_rivals_that_win_are_named_best_first():
    said = verdicts(figures(0.5) | {"rivals": [figures(0.7, name="PCA"), figures(0.8, name="Mahalanobis")]})
    assert said == [
        "The network is behind Mahalanobis and PCA: 0.500 against 0.800 and 0.700. On such rows, use Mahalanobis."
    ]


def test_a_network_ahead_of_all_names_the_nearest():
    said = verdicts(figures(0.8) | {"rivals": [figures(0.5, name="PCA"), figures(0.6, name="Mahalanobis")]})
    assert said == ["The network is ahead of every rival; the nearest is Mahalanobis: 0.800 against 0.600."]
    assert verdicts(figures(0.8) | {"rivals": [figures(0.5, name="PCA")]}) == [
        "The network is ahead of PCA: 0.800 against 0.500."
    ]


def test_where_anomalies_are_rarer_another_order_is_told():
    rivals = [figures(0.6, natural=0.5, name="PCA")]
    said = verdicts(figures(0.7, natural=0.4) | {"rivals": rivals})
    assert said[0] == "The network is ahead of PCA: 0.700 against 0.600."
    assert said[1].replace("\N{NO-BREAK SPACE}", " ") == (
        "Where 0.2 % of the rows are anomalies: the network is behind PCA: 0.400 against 0.500. On such rows, use that."
    )
    assert len(verdicts(figures(0.7, natural=0.6) | {"rivals": rivals})) == 1


def test_without_rivals_or_without_a_figure_nothing_is_said():
    assert verdicts(figures(0.7) | {"rivals": []}) == []
    assert (
        verdicts({"average_precision": None, "average_precision_interval": None, "rivals": [figures(0.5, name="PCA")]})
        == []
    )
