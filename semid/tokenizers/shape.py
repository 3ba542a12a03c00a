"""How many codes a level where nobody says: many at the first, as many as the catalogue feeds, and few after it.

What a decoder gets wrong it gets wrong at the first code, where it chooses among all of the catalogue. With many
codes there it chooses nearly among items, and those that are alike are told apart after it.
"""

import math

# Items to a code of the first level, and the fewest and most codes there.
_ITEMS_A_CODE, _FIRST = 3, (4, 8192)
# Codes for each item, all levels together, and the fewest and most a later level has for them.
_ROOM, _LATER = 512, (4, 1024)


def usual_shape(num_items: int, fitted: int, levels: int) -> tuple[int, ...]:
    """K of each level for N items: powers of two.

    Args:
        num_items: N.
        fitted: how many of them codes are fitted to; no level has more codes than that, but for 2.
        levels: L.
    """
    most = 1 << (max(fitted, 2).bit_length() - 1)
    first = min(max(_nearest_power(fitted / _ITEMS_A_CODE), _FIRST[0]), _FIRST[1], most)
    if levels == 1:
        return (most,)
    needed = (_ROOM * num_items / first) ** (1 / (levels - 1))
    later = min(max(_power_above(needed), _LATER[0]), _LATER[1], most)
    return (first, *[later] * (levels - 1))


def _nearest_power(value: float) -> int:
    return 1 << max(0, round(math.log2(max(value, 1))))


def _power_above(value: float) -> int:
    return 1 << math.ceil(math.log2(value))
