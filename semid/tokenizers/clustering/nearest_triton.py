"""One Triton kernel that screens all centroids for each vector and stores no N × K values.

Shapes: n rows, W width, K centroids, BLOCK_K lanes: lane j sees the columns j, j + BLOCK_K, ….

A program holds, for each of its rows and lanes, the two least values seen in that lane, with the tile they came from
in their last bits. At the end a row's candidates are the lanes whose least value is within the row's window. Should a
second value of any lane be so too, or more lanes than there are places, the row is marked: its candidates are then
sought by ``nearest_gpu.candidates``.
"""

import torch
import triton  # type: ignore[import-not-found, import-untyped, unused-ignore]
import triton.language as tl  # type: ignore[import-not-found, import-untyped, unused-ignore]

from semid.tokenizers.clustering.nearest_gpu import Screen

# Candidates kept of a row.
KEPT = 4
# Lanes, and the launches that the first call with some width tries out; the interpreter runs the first one only.
_BLOCK_K = 64
_LAUNCHES = [
    triton.Config({"BLOCK_N": 128}, num_warps=8, num_stages=3),
    triton.Config({"BLOCK_N": 64}, num_warps=4, num_stages=3),
    triton.Config({"BLOCK_N": 64}, num_warps=4, num_stages=2),
]
_HUGE = tl.constexpr(1e30)


def fused_candidates(screen: Screen) -> tuple[torch.Tensor, torch.Tensor]:
    """Screen all pairs of rows and centroids in one pass.

    Returns:
        (n, KEPT) int32 candidates by rising value, -1 where there are no more; (n,) bool, True for rows whose
        candidates may not be complete.
    """
    num_rows, width = screen.rows.shape
    num_codes = len(screen.centroids)
    kept = torch.empty(num_rows, KEPT, dtype=torch.int32, device=screen.rows.device)
    more = torch.empty(num_rows, dtype=torch.int8, device=screen.rows.device)
    index_bits = (-(-num_codes // _BLOCK_K) - 1).bit_length()
    if num_rows:
        _screen[lambda launch: (triton.cdiv(num_rows, launch["BLOCK_N"]),)](
            screen.rows,
            screen.ratio,
            screen.offset,
            screen.window,
            screen.centroids,
            screen.halves,
            kept,
            more,
            num_rows,
            num_codes,
            WIDTH=width,
            STEP=width if width <= 128 else 64,
            INDEX_BITS=index_bits,
            PLACES=KEPT,
            BLOCK_K=_BLOCK_K,
        )
    return kept, more.bool()


@triton.autotune(_LAUNCHES if torch.cuda.is_available() else _LAUNCHES[:1], key=["WIDTH"])  # type: ignore[misc, untyped-decorator, unused-ignore]
@triton.jit  # type: ignore[misc, untyped-decorator, unused-ignore]
def _screen(  # type: ignore[no-untyped-def]
    rows,
    ratios,
    offsets,
    windows,
    centroids,
    halves,
    kept,
    more,
    num_rows,
    num_codes,
    WIDTH: tl.constexpr,
    STEP: tl.constexpr,
    INDEX_BITS: tl.constexpr,
    PLACES: tl.constexpr,
    BLOCK_K: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64) * BLOCK_N + tl.arange(0, BLOCK_N)
    is_row = row < num_rows
    lanes = tl.arange(0, BLOCK_K)
    steps = tl.arange(0, STEP)
    mask: tl.constexpr = (1 << INDEX_BITS) - 1
    ratio = tl.load(ratios + row, mask=is_row, other=1.0)
    offset = tl.load(offsets + row, mask=is_row, other=1.0)
    row_starts = rows + row[:, None] * WIDTH + steps[None, :]
    if WIDTH == STEP:
        x = tl.load(row_starts, mask=is_row[:, None], other=0.0)
    first = tl.full((BLOCK_N, BLOCK_K), _HUGE, tl.float32)
    second = tl.full((BLOCK_N, BLOCK_K), _HUGE, tl.float32)
    for tile in range(0, tl.cdiv(num_codes, BLOCK_K)):
        column = tile * BLOCK_K + lanes
        is_column = column < num_codes
        column_starts = centroids + column[None, :] * WIDTH + steps[:, None]
        if WIDTH == STEP:
            y = tl.load(column_starts, mask=is_column[None, :], other=0.0)
            product = tl.dot(x, y)
        else:
            product = tl.zeros((BLOCK_N, BLOCK_K), tl.float32)
            for step in range(0, WIDTH, STEP):
                x = tl.load(row_starts + step, mask=is_row[:, None], other=0.0)
                y = tl.load(column_starts + step, mask=is_column[None, :], other=0.0)
                product = tl.dot(x, y, product)
        half = tl.load(halves + column, mask=is_column, other=0.0)
        value = ratio[:, None] * half[None, :] + offset[:, None] - product
        bits = (value.to(tl.int32, bitcast=True) & ~mask) | tile
        value = tl.where(is_column[None, :], bits.to(tl.float32, bitcast=True), _HUGE)
        second = tl.minimum(second, tl.maximum(first, value))
        first = tl.minimum(first, value)
    window = tl.load(windows + row, mask=is_row, other=0.0)
    limit = (tl.min(first, 1) + window) * (1.0 + 2.0 ** (INDEX_BITS - 21))
    incomplete = tl.min(second, 1) <= limit
    for place in tl.static_range(PLACES):
        least = tl.min(first, 1)
        lane = tl.argmin(first, 1)
        column = (least.to(tl.int32, bitcast=True) & mask) * BLOCK_K + lane
        tl.store(kept + row * PLACES + place, tl.where(least <= limit, column, -1), mask=is_row)
        first = tl.where(lanes[None, :] == lane[:, None], _HUGE, first)
    incomplete = incomplete | (tl.min(first, 1) <= limit)
    tl.store(more + row, incomplete.to(tl.int8), mask=is_row)
