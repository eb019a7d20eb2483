import pytest
from hypothesis import given
from hypothesis import strategies as st

from convatlas.reports.wording import duration, printable, settings


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0.0 s"),
        (59.94, "59.9 s"),
        (60, "1 min 0 s"),
        (119.6, "2 min 0 s"),
        (3599.4, "59 min 59 s"),
        (3600, "1 h 0 min"),
    ],
)
def test_durations_show_two_units(seconds, text):
    assert duration(seconds) == text


def test_settings_of_every_kind_become_text():
    recipe = {
        "augmentation": [{"kind": "flip", "p": 0.5}, {"kind": "shift", "fill": "edge"}],
        "mean": [0.5, 0.25],
        "skips": [],
        "schedule": {"warmup": {"epochs": 2}},
        "compile": False,
        "rate": 1e-5,
    }
    assert dict(settings(recipe)) == {
        "augmentation": "flip p=0.5 · shift fill=edge",
        "mean": "0.5, 0.25",
        "skips": "none",
        "schedule.warmup.epochs": "2",
        "compile": "no",
        "rate": "1e-05",
    }


@given(st.text(st.characters(), max_size=30))
def test_printable_text_can_be_written_and_is_otherwise_unchanged(text):
    shown = printable(text)
    shown.encode("utf-8")
    assert len(shown) == len(text)
    assert printable(shown) == shown


def test_names_in_any_script_stay_as_they_are():
    for name in ("Ä ö ß", "猫", "голубь", "👩‍🔬", "non\u00a0breaking", "two\nlines"):
        assert printable(name) == name
    assert printable("\x00\x1b[31m \udcff \ufffe") == "��[31m � �"
