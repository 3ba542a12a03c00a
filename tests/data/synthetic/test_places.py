"""Every item of a leaf has one side, place and style, and is found again by them."""

import numpy as np

from semid.data.synthetic.places import Places


def test_an_index_and_back() -> None:
    places = Places(np.array([24, 26, 1]), sides=2, styles=4)
    assert places.lengths.tolist() == [3, 3, 1]
    side, place, style = (part.reshape(-1) for part in np.indices((2, 3, 4)))
    leaf = np.ones(24, np.int64)
    index = places.index(leaf, side, place, style)
    assert index.tolist() == list(range(24))
    np.testing.assert_array_equal(places.place(leaf, index), place)
    np.testing.assert_array_equal(places.style(index), style)


def test_a_side_is_an_arc_and_the_last_item_stands_in_where_there_is_none() -> None:
    places = Places(np.array([10, 1]), sides=2, styles=1)
    one = np.ones(1, np.int64)
    assert places.index(0 * one, one, 0 * one, 0 * one).tolist() == [5]
    assert places.index(one, one, 0 * one, 0 * one).tolist() == [0]


def test_one_side_and_one_style_leave_places_as_they_are() -> None:
    places = Places(np.array([7]), sides=1, styles=1)
    index = np.arange(7)
    leaf = np.zeros(7, np.int64)
    np.testing.assert_array_equal(places.place(leaf, index), index)
    np.testing.assert_array_equal(places.index(leaf, leaf, index, leaf), index)
