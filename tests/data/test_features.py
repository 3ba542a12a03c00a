import numpy as np

from semid.data.features import FIELD_MISSING, FIELD_RESERVED, FIELD_UNKNOWN, Embedding


def test_reserved_codes_are_distinct_and_below_values() -> None:
    assert FIELD_MISSING == 0
    assert FIELD_UNKNOWN == 1
    assert FIELD_RESERVED == 2


def test_embedding_width() -> None:
    assert Embedding("82", np.zeros((3, 5), np.float16), np.ones(3, np.bool_)).dim == 5
