"""Places for boxes and lines of a directed graph: ranks from top to bottom, lanes from left to right.

The method is Sugiyama's: a rank is the longest way from the start, lines that pass a rank have a lane of their own in
it, lanes are ordered so that few lines cross. Lines run vertically in their lanes and horizontally only between ranks,
so that none runs through a box.

Source: Sugiyama, Tagawa & Toda 1981, "Methods for visual understanding of hierarchical system structures".
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

Point = tuple[float, float]
Edge = tuple[int, int]

LANE = 0.14  # width of a passing line's lane, in inches, as all lengths here
BETWEEN_LANES = 0.14
GAP = 0.2  # between ranks; more where lines need tracks of their own
TRACK = 0.08  # between two horizontal lines in the same gap
SWEEPS = 12
STRAIGHT = 0.2  # a line that would bend by less is made straight
FAINT = 1e-9  # how strongly a line that passes everything pulls at what it is joined to, where a box pulls with 1


@dataclass(frozen=True)
class Line:
    """A line from one rank to the next, through these corners."""

    corners: tuple[Point, ...]
    target: int | None  # the node it reaches; None: it goes on in the next rank


@dataclass(frozen=True)
class Layout:
    """Where everything is, from the top left corner; y grows downwards."""

    width: float
    height: float
    corners: tuple[Point, ...]  # top left, of each node
    lines: tuple[Line, ...]


@dataclass
class _Graph:
    """Nodes, of which the first are the caller's, the others bends of long lines; every hop leads to the next rank."""

    sizes: list[tuple[float, float]]
    ranks: list[int]
    hops: list[Edge] = field(default_factory=list)
    real: int = 0

    def rows(self) -> list[list[int]]:
        found: list[list[int]] = [[] for _ in range(1 + max(self.ranks, default=-1))]
        for node, rank in enumerate(self.ranks):
            found[rank].append(node)
        return found


def lay_out(sizes: Sequence[tuple[float, float]], edges: Iterable[Edge]) -> Layout:
    """Places for nodes of these widths and heights, in the order in which they run.

    An edge from a later node to an earlier one is left out of the ranking and not drawn: in a record of calls there is
    none.

    >>> layout = lay_out([(2.0, 1.0), (2.0, 1.0)], [(0, 1)])
    >>> layout.corners
    ((0.0, 0.0), (0.0, 1.2))
    >>> layout.lines[0].corners
    ((1.0, 1.0), (1.0, 1.2))
    """
    forward = sorted({(a, b) for a, b in edges if a < b})
    graph = _Graph(list(sizes), _ranks(len(sizes), forward), real=len(sizes))
    _add_hops(graph, forward)
    rows = _ordered(graph)
    centres = _centres(graph, rows)
    return _placed(graph, rows, centres)


def _ranks(nodes: int, edges: Sequence[Edge]) -> list[int]:
    ranks = [0] * nodes
    for a, b in sorted(edges, key=lambda edge: edge[1]):
        ranks[b] = max(ranks[b], ranks[a] + 1)
    return ranks


def _add_hops(graph: _Graph, edges: Sequence[Edge]) -> None:
    """Cut long edges at each rank; those that leave the same node share their way."""
    targets = defaultdict(list)
    for a, b in edges:
        targets[a].append(b)
    for a, ends in targets.items():
        way = {graph.ranks[a]: a}
        for rank in range(graph.ranks[a] + 1, max(graph.ranks[b] for b in ends)):
            way[rank] = len(graph.sizes)
            graph.sizes.append((LANE, 0.0))
            graph.ranks.append(rank)
            graph.hops.append((way[rank - 1], way[rank]))
        graph.hops += [(way[graph.ranks[b] - 1], b) for b in ends]


def _ordered(graph: _Graph) -> list[list[int]]:
    """Left to right in each rank: as the branches come in the record, then changed as long as fewer lines cross."""
    first = _walked(graph)
    best = [sorted(row, key=first.__getitem__) for row in graph.rows()]
    fewest = _crossings(graph, best)
    rows = best
    for sweep in range(SWEEPS):
        if not fewest:
            break
        rows = _swept(graph, rows, downwards=sweep % 2 == 0)
        crossings = _crossings(graph, rows)
        if crossings < fewest:
            best, fewest = rows, crossings
    return best


def _walked(graph: _Graph) -> dict[int, int]:
    """Node -> when a walk, depth first and along the earliest line first, meets it; ways past other boxes come last."""
    below = _neighbours(graph.hops, 0)
    met: dict[int, int] = {}
    for start in range(len(graph.sizes)):
        waiting = [start]
        while waiting:
            node = waiting.pop()
            if node not in met:
                met[node] = len(met)
                waiting += sorted(below[node], reverse=True)
    return met


def _neighbours(hops: Iterable[Edge], end: int) -> dict[int, list[int]]:
    found: dict[int, list[int]] = defaultdict(list)
    for hop in hops:
        found[hop[end]].append(hop[1 - end])
    return found


def _swept(graph: _Graph, rows: Sequence[Sequence[int]], *, downwards: bool) -> list[list[int]]:
    neighbours = _neighbours(graph.hops, 1 if downwards else 0)
    place = {node: index for row in rows for index, node in enumerate(row)}
    swept = []
    for row in rows if downwards else reversed(rows):
        means = {node: _mean([place[each] for each in neighbours[node]], place[node]) for node in row}
        ordered = sorted(row, key=means.__getitem__)
        place.update({node: index for index, node in enumerate(ordered)})
        swept.append(ordered)
    return swept if downwards else swept[::-1]


def _mean(values: Sequence[float], otherwise: float) -> float:
    return sum(values) / len(values) if values else otherwise


def _crossings(graph: _Graph, rows: Sequence[Sequence[int]]) -> int:
    place = {node: index for row in rows for index, node in enumerate(row)}
    by_rank = defaultdict(list)
    for a, b in graph.hops:
        by_rank[graph.ranks[a]].append((place[a], place[b]))
    return sum(
        (one[0] - other[0]) * (one[1] - other[1]) < 0
        for hops in by_rank.values()
        for index, one in enumerate(hops)
        for other in hops[:index]
    )


# --- from left to right


def _centres(graph: _Graph, rows: Sequence[Sequence[int]]) -> list[float]:
    """The middle of each node; nodes of a chain stand exactly below each other.

    Chains are first pushed as far to the left as their neighbours allow and then, as long as there is room, to the
    middle of what they are joined to.
    """
    chain_of = _chains(graph, rows)
    apart = _distances(graph, rows, chain_of)
    chains = len(set(chain_of))
    order = _left_to_right(apart, chains)
    place = [0.0] * chains
    for chain in order:
        place[chain] = max((place[left] + gap for left, gap in apart.to_left[chain]), default=0.0)
    pulls = _pulls(graph, chain_of)
    for sweep in range(2 * SWEEPS):
        for chain in reversed(order) if sweep % 2 == 0 else order:
            _pull(chain, place, apart, pulls)
    for chain in order:
        _straighten(chain, place, apart, pulls)
    centres = [place[chain] for chain in chain_of]
    left = min((centre - graph.sizes[node][0] / 2 for node, centre in enumerate(centres)), default=0.0)
    return [centre - left for centre in centres]


def _chains(graph: _Graph, rows: Sequence[Sequence[int]]) -> list[int]:
    """Number of the chain of each node: a line that alone leaves one node and alone reaches the next joins them."""
    below, above = _neighbours(graph.hops, 0), _neighbours(graph.hops, 1)
    chain_of = [-1] * len(graph.sizes)
    count = 0
    place = {node: index for row in rows for index, node in enumerate(row)}
    used: dict[int, list[tuple[int, int]]] = defaultdict(list)  # links between two ranks: those that cross no other
    for row in rows:
        for node in row:
            up = above[node]
            alone = len(up) == 1 and len(below[up[0]]) == 1
            if alone and not _crosses((place[up[0]], place[node]), used[graph.ranks[node]]):
                used[graph.ranks[node]].append((place[up[0]], place[node]))
                chain_of[node] = chain_of[up[0]]
            else:
                chain_of[node] = count
                count += 1
    return chain_of


def _crosses(link: Edge, others: Iterable[Edge]) -> bool:
    return any((link[0] - other[0]) * (link[1] - other[1]) < 0 for other in others)


@dataclass
class _Distances:
    """Least distances between the middles of neighbouring chains."""

    to_left: Mapping[int, list[tuple[int, float]]]
    to_right: Mapping[int, list[tuple[int, float]]]


def _distances(graph: _Graph, rows: Sequence[Sequence[int]], chain_of: Sequence[int]) -> _Distances:
    needed: dict[Edge, float] = defaultdict(float)
    for row in rows:
        for left, right in pairwise(row):
            gap = (graph.sizes[left][0] + graph.sizes[right][0]) / 2 + BETWEEN_LANES
            pair = (chain_of[left], chain_of[right])
            needed[pair] = max(needed[pair], gap)
    to_left: dict[int, list[tuple[int, float]]] = defaultdict(list)
    to_right: dict[int, list[tuple[int, float]]] = defaultdict(list)
    for (left, right), gap in needed.items():
        to_left[right].append((left, gap))
        to_right[left].append((right, gap))
    return _Distances(to_left, to_right)


def _left_to_right(apart: _Distances, chains: int) -> list[int]:
    missing = {chain: len(apart.to_left[chain]) for chain in range(chains)}
    ready = [chain for chain in range(chains) if not missing[chain]]
    order = []
    while ready:
        chain = ready.pop()
        order.append(chain)
        for right, _ in apart.to_right[chain]:
            missing[right] -= 1
            if not missing[right]:
                ready.append(right)
    return order


def _pulls(graph: _Graph, chain_of: Sequence[int]) -> Mapping[int, list[tuple[int, float]]]:
    """Chain -> the chains it is joined to, and how strongly: lines that pass everything hardly pull."""
    pulls: dict[int, list[tuple[int, float]]] = defaultdict(list)
    boxes = set(chain_of[: graph.real])
    for a, b in graph.hops:
        one, other = chain_of[a], chain_of[b]
        if one != other:
            pulls[one].append((other, 1.0 if other in boxes else FAINT))
            pulls[other].append((one, 1.0 if one in boxes else FAINT))
    return pulls


def _straighten(
    chain: int, place: list[float], apart: _Distances, pulls: Mapping[int, list[tuple[int, float]]]
) -> None:
    """Put a chain exactly below or above what it is joined to, where it nearly is."""
    low, high = _room(chain, place, apart)
    joined = [place[other] for other, strength in pulls[chain] if strength > FAINT]
    near = [x for x in joined if low <= x <= high and abs(x - place[chain]) < STRAIGHT]
    place[chain] = min(near, key=lambda x: abs(x - place[chain]), default=place[chain])


def _room(chain: int, place: Sequence[float], apart: _Distances) -> tuple[float, float]:
    low = max((place[left] + gap for left, gap in apart.to_left[chain]), default=float("-inf"))
    high = min((place[right] - gap for right, gap in apart.to_right[chain]), default=float("inf"))
    return low, high


def _pull(chain: int, place: list[float], apart: _Distances, pulls: Mapping[int, list[tuple[int, float]]]) -> None:
    low, high = _room(chain, place, apart)
    weight = sum(strength for _, strength in pulls[chain])
    if weight:
        wanted = sum(place[other] * strength for other, strength in pulls[chain]) / weight
        place[chain] = max(low, min(high, wanted))


# --- from top to bottom


def _placed(graph: _Graph, rows: Sequence[Sequence[int]], centres: Sequence[float]) -> Layout:
    tracks = _tracks(graph, centres)
    tops, bottoms = [0.0] * len(centres), [0.0] * len(centres)
    above_gap: list[float] = []  # where the gap below each rank begins
    y = 0.0
    for rank, row in enumerate(rows):
        height = max((graph.sizes[node][1] for node in row), default=0.0)
        for node in row:
            own = graph.sizes[node][1]
            tops[node] = y + height if node >= graph.real else y + (height - own) / 2  # a bend is where its rank ends
            bottoms[node] = tops[node] + own
        y += height
        above_gap.append(y)
        y += max(GAP, TRACK * (1 + tracks.count(rank)) + GAP / 2)
    lines = []
    for a, b in graph.hops:
        level = above_gap[graph.ranks[a]] + TRACK * (1 + tracks.of.get((a, b), 0))
        start, end = (centres[a], bottoms[a]), (centres[b], tops[b])
        bends = () if abs(centres[a] - centres[b]) < 1e-6 else ((centres[a], level), (centres[b], level))
        lines.append(Line((start, *bends, end), b if b < graph.real else None))
    width = max((centre + graph.sizes[node][0] / 2 for node, centre in enumerate(centres)), default=0.0)
    corners = tuple((centres[node] - graph.sizes[node][0] / 2, tops[node]) for node in range(graph.real))
    return Layout(width, above_gap[-1] if above_gap else 0.0, corners, tuple(lines))


@dataclass
class _Tracks:
    of: dict[Edge, int]  # hop -> its track, from the top
    counts: dict[int, int]

    def count(self, rank: int) -> int:
        return self.counts.get(rank, 0)


def _tracks(graph: _Graph, centres: Sequence[float]) -> _Tracks:
    """A height for each horizontal line: lines that fork from one node or join in one share it, others do not."""
    below = _neighbours(graph.hops, 0)
    nets: dict[tuple[int, int, int], list[Edge]] = defaultdict(list)
    for a, b in graph.hops:
        if abs(centres[a] - centres[b]) >= 1e-6:
            forks = len(below[a]) > 1
            nets[graph.ranks[a], 0 if forks else 1, a if forks else b].append((a, b))
    taken: dict[int, list[list[tuple[float, float]]]] = defaultdict(list)
    of: dict[Edge, int] = {}
    for (rank, _, _), hops in sorted(nets.items()):
        ends = [centres[node] for hop in hops for node in hop]
        track = _free_track(taken[rank], (min(ends), max(ends)))
        of.update(dict.fromkeys(hops, track))
    return _Tracks(of, {rank: len(each) for rank, each in taken.items()})


def _free_track(tracks: list[list[tuple[float, float]]], span: tuple[float, float]) -> int:
    for number, spans in enumerate(tracks):
        if all(span[1] < low or high < span[0] for low, high in spans):
            spans.append(span)
            return number
    tracks.append([span])
    return len(tracks) - 1
