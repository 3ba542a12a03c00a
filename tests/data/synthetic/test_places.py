"""Every item of a leaf has a place and a kind, and is found again by them."""

import numpy as np

from semid.data.synthetic.places import Kinds, Places


def test_a_kind_is_a_price_a_pace_and_a_style() -> None:
    kinds = Kinds(prices=2, paces=2, styles=3)
    price, pace, style = (part.reshape(-1) for part in np.indices((2, 2, 3)))
    kind = kinds.join(price, pace, style)
    assert sorted(kind) == list(range(kinds.count))
    np.testing.assert_array_equal(kinds.price(kind), price)
    np.testing.assert_array_equal(kinds.pace(kind), pace)
    np.testing.assert_array_equal(kinds.style(kind), style)


def test_an_index_and_back() -> None:
    places = Places(np.array([24, 26, 1]), 4)
    assert places.lengths.tolist() == [6, 6, 1]
    place, kind = (part.reshape(-1) for part in np.indices((6, 4)))
    leaf = np.ones(24, np.int64)
    index = places.index(leaf, place, kind)
    assert sorted(index) == list(range(24))
    np.testing.assert_array_equal(places.place(leaf, index), place)
    np.testing.assert_array_equal(places.kind(index), kind)
    assert places.index(2 * leaf, 0 * place, kind).max() == 0, "the last item stands in where there is no other"


def test_a_single_kind_leaves_places_as_they_are() -> None:
    places = Places(np.array([7]), Kinds().count)
    index = np.arange(7)
    leaf = np.zeros(7, np.int64)
    np.testing.assert_array_equal(places.place(leaf, index), index)
    np.testing.assert_array_equal(places.index(leaf, index, places.kind(index)), index)
