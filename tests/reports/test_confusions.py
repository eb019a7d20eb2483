from hypothesis import given
from hypothesis import strategies as st

from convatlas.reports import Confusion, most_confused

square_matrices = st.integers(1, 6).flatmap(
    lambda classes: st.lists(
        st.lists(st.integers(0, 9), min_size=classes, max_size=classes), min_size=classes, max_size=classes
    )
)


def test_mistakes_are_ordered_by_images_then_by_the_share_of_their_class():
    matrix = [[5, 3, 0], [3, 90, 7], [0, 0, 4]]
    assert most_confused(matrix, ["ant", "bee", "cat"]) == [
        Confusion("bee", "cat", 7, 0.07),
        Confusion("ant", "bee", 3, 0.375),
        Confusion("bee", "ant", 3, 0.03),
    ]


def test_a_faultless_matrix_has_no_mistakes():
    assert most_confused([[3, 0], [0, 0]], ["ant", "bee"]) == []


@given(square_matrices, st.integers(0, 40))
def test_every_mistake_is_listed_once_up_to_the_limit(matrix, limit):
    names = [str(index) for index in range(len(matrix))]
    mistakes = most_confused(matrix, names, limit=36)
    assert sum(mistake.images for mistake in mistakes) == sum(map(sum, matrix)) - sum(
        row[i] for i, row in enumerate(matrix)
    )
    assert len({(mistake.truth, mistake.answer) for mistake in mistakes}) == len(mistakes)
    assert most_confused(matrix, names, limit) == mistakes[:limit]
