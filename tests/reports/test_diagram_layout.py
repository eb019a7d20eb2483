"""Layouts of random graphs: boxes apart, lines around them, and every edge drawn."""

from collections import defaultdict
from itertools import combinations, pairwise

from hypothesis import given, settings
from hypothesis import strategies as st

from convatlas.reports.diagram_layout import lay_out

SMALL = 1e-6


@st.composite
def graphs(draw):
    count = draw(st.integers(1, 14))
    sizes = draw(st.lists(st.tuples(st.floats(0.2, 3), st.floats(0.2, 2)), min_size=count, max_size=count))
    nodes = st.integers(0, count - 1)
    edges = draw(st.lists(st.tuples(nodes, nodes), max_size=25))
    return sizes, edges


def meets(one, other):
    """Whether two rectangles (left, top, right, bottom) share more than an edge."""
    across = min(one[2], other[2]) - max(one[0], other[0])
    down = min(one[3], other[3]) - max(one[1], other[1])
    return across > SMALL and down > SMALL


def rectangle_of(corner, size):
    return corner[0], corner[1], corner[0] + size[0], corner[1] + size[1]


def crosses(start, end, rectangle):
    """Whether a vertical or horizontal line runs through the inside of a rectangle."""
    left, right = sorted((start[0], end[0]))
    top, bottom = sorted((start[1], end[1]))
    within = left < rectangle[2] - SMALL and right > rectangle[0] + SMALL
    return within and top < rectangle[3] - SMALL and bottom > rectangle[1] + SMALL


@settings(deadline=None, derandomize=True)
@given(graphs())
def test_boxes_are_apart_and_lines_run_around_them(graph):
    sizes, edges = graph
    layout = lay_out(sizes, edges)
    rectangles = [rectangle_of(corner, size) for corner, size in zip(layout.corners, sizes, strict=True)]
    assert not any(meets(one, other) for one, other in combinations(rectangles, 2))
    for left, top, right, bottom in rectangles:
        assert min(left, top) >= -SMALL
        assert right <= layout.width + SMALL
        assert bottom <= layout.height + SMALL
    for line in layout.lines:
        for start, end in pairwise(line.corners):
            assert abs(start[0] - end[0]) < SMALL or abs(start[1] - end[1]) < SMALL
            assert not any(crosses(start, end, rectangle) for rectangle in rectangles)


@settings(deadline=None, derandomize=True)
@given(graphs())
def test_every_edge_is_drawn_downwards_and_no_other(graph):
    sizes, edges = graph
    layout = lay_out(sizes, edges)
    onwards = defaultdict(list)
    for line in layout.lines:
        onwards[line.corners[0]].append(line)
    drawn = set()
    for node, (corner, size) in enumerate(zip(layout.corners, sizes, strict=True)):
        waiting = [(corner[0] + size[0] / 2, corner[1] + size[1])]
        while waiting:
            for line in next((lines for start, lines in onwards.items() if near(start, waiting[-1])), []):
                assert line.corners[-1][1] > line.corners[0][1]
                if line.target is None:
                    waiting.insert(0, line.corners[-1])
                else:
                    drawn.add((node, line.target))
            waiting.pop()
    assert drawn == {(a, b) for a, b in edges if a < b}


def near(one, other):
    return abs(one[0] - other[0]) + abs(one[1] - other[1]) < SMALL


def test_a_chain_is_straight():
    widths = (1.0, 2.0, 0.5)
    layout = lay_out([(width, 0.5) for width in widths], [(0, 1), (1, 2)])
    assert {round(corner[0] + width / 2, 6) for corner, width in zip(layout.corners, widths, strict=True)} == {1}
    assert all(len(line.corners) == 2 for line in layout.lines)


def test_branches_stand_in_their_order_around_what_they_come_from():
    layout = lay_out([(1.0, 0.5)] * 5, [(0, 1), (0, 2), (0, 3), (1, 4), (2, 4), (3, 4)])
    lefts = [corner[0] for corner in layout.corners]
    assert lefts[1] < lefts[2] < lefts[3]
    assert lefts[0] == lefts[4] == lefts[2]
    assert len({corner[1] for corner in layout.corners[1:4]}) == 1


def test_a_shortcut_passes_on_the_right_and_leaves_the_chain_straight():
    layout = lay_out([(1.0, 0.5)] * 4, [(0, 1), (1, 2), (2, 3), (0, 3)])
    assert max(corner[0] for corner in layout.corners) < SMALL
    assert layout.width > 1.0
    assert max(x for line in layout.lines for x, _ in line.corners) > 1.0


def test_lines_of_different_nets_do_not_share_a_height():
    layout = lay_out([(1.0, 0.5)] * 4, [(0, 3), (1, 2)])  # two nodes above two others, crossed
    levels = [line.corners[1][1] for line in layout.lines if len(line.corners) == 4]
    assert len(levels) == len(set(levels))


def test_nothing_is_an_empty_layout():
    layout = lay_out([], [])
    assert (layout.width, layout.height, layout.corners, layout.lines) == (0.0, 0.0, (), ())
