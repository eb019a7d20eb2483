"""Maps of what is unusual, and boxes round it."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import ndimage

from convatlas.tasks.reconstruct.places import Box, Places, boxes, map_scores, peaks, place_errors, smoothed

maps = arrays(np.float32, (6, 5, 7), elements=st.floats(0, 1e6, width=32))


@given(maps)
def test_a_map_is_never_negative_and_adds_up_to_the_score(errors: np.ndarray) -> None:
    places = Places.of(errors)
    assert (places.scale > 0).all()
    residual = places.unusual(errors)
    assert residual.shape == errors.shape
    assert np.isfinite(residual).all()
    assert (residual >= 0).all()
    assert np.allclose(map_scores(residual), residual.astype(float).mean(axis=(1, 2)))


def test_an_error_counts_where_it_is_rare() -> None:
    draws = np.random.default_rng(0)
    noisy = np.zeros((200, 4, 4), dtype=np.float32)
    noisy[:, 0, 0] = draws.exponential(10, 200)  # an edge that is never rebuilt well
    places = Places.of(noisy)
    at_the_edge, elsewhere = np.zeros((2, 4, 4), dtype=np.float32)
    at_the_edge[0, 0] = elsewhere[2, 2] = 12.0
    edge, quiet = map_scores(places.unusual([at_the_edge, elsewhere]))
    assert quiet > 10 * edge


def test_errors_are_the_mean_over_the_channels() -> None:
    draws = np.random.default_rng(0)
    one, other = draws.normal(size=(2, 3, 2, 4, 4))
    assert np.allclose(place_errors(one, other), ((one - other) ** 2).mean(axis=1), rtol=1e-5)


@given(arrays(np.float32, (9, 11), elements=st.integers(0, 10).map(float)), st.integers(0, 9))
def test_boxes_hold_all_that_is_above_the_bound_and_nothing_apart_from_it(residual: np.ndarray, above: int) -> None:
    even = smoothed(residual[None])[0]
    found = boxes(residual, above)
    _, count = ndimage.label(even > above)
    assert len(found) == min(count, 10)
    for box in found:
        assert 0 <= box.left < box.right <= 11
        assert 0 <= box.top < box.bottom <= 9
        assert (even[box.top : box.bottom, box.left : box.right] > above).any()
    if found:
        first = found[0]
        assert even[first.top : first.bottom, first.left : first.right].max() == even.max()
    assert bool(found) == bool(peaks(residual[None])[0] > above)


@given(st.integers(0, 50), st.integers(0, 50), st.integers(1, 20), st.integers(1, 20), st.floats(0.05, 40))
def test_a_scaled_box_covers_its_part_and_is_never_empty(left: int, top: int, wide: int, high: int, by: float) -> None:
    box = Box(left, top, left + wide, top + high)
    scaled = box.scaled(by)
    assert scaled.left <= box.left * by
    assert scaled.right >= box.right * by
    assert scaled.right > scaled.left
    assert scaled.bottom > scaled.top
    moved = scaled.moved(3, 4)
    assert (moved.right - moved.left, moved.top - scaled.top) == (scaled.right - scaled.left, 4)
