"""One Triton kernel from logits to the scores of all children: gather, log-sum-exp, sum and filter in one go.

A program is one beam. It goes through the beam's children twice: for the mass of their probability, then to write
their scores side by side.
"""

import torch
import triton  # type: ignore[import-not-found, import-untyped, unused-ignore]
import triton.language as tl  # type: ignore[import-not-found, import-untyped, unused-ignore]
from torch import Tensor

from semid.generative.beam_steps import Beams, StepLogits
from semid.generative.children import Children
from semid.generative.edges import DENSE, products_at
from semid.generative.item_filter import Allowed

_BLOCK = 512


def fused_scores(step: StepLogits, children: Children, beams: Beams, limits: Allowed) -> Tensor:
    """Scores (B, C) of all children, -inf where there is none or none that is allowed, float32."""
    level, (users, width) = children.trie.levels[children.depth], beams.nodes.shape
    scores = torch.full((users, children.size), -torch.inf, device=step.codes.device)
    added, by_place = scores, False
    if step.query is not None and step.vectors is not None:
        by_place = len(step.vectors) > DENSE * children.size
        columns = products_at(step.query, step.vectors, children.nodes) if by_place else step.query @ step.vectors.T
        added = columns.contiguous()
    _score[(users * width,)](
        step.codes.float().contiguous(),
        added,
        scores if step.mass is None else step.mass,
        beams.scores.float().contiguous(),
        children.starts.contiguous(),
        children.begins.contiguous(),
        children.ends.contiguous(),
        level.codes,
        scores if limits.filter is None else limits.filter.before[children.depth],
        limits.which,
        scores,
        width,
        step.codes.shape[1],
        len(level),
        children.size,
        added.shape[1],
        HAS_ADDED=added is not scores,
        BY_PLACE=by_place,
        HAS_MASS=step.mass is not None,
        HAS_FILTER=limits.filter is not None,
        REPEATS=not children.trie.is_unique and children.depth + 1 == len(children.trie.levels),
        BLOCK=_BLOCK,
    )
    return scores


@triton.jit  # type: ignore[misc, untyped-decorator, unused-ignore]
def _values(  # type: ignore[no-untyped-def]
    logits,
    added,
    codes,
    row,
    user,
    start,
    begin,
    place,
    there,
    num_codes,
    num_added,
    HAS_ADDED: tl.constexpr,
    BY_PLACE: tl.constexpr,
):
    """Logits of some children of a beam."""
    node = start + place
    code = tl.load(codes + node, mask=there, other=0).to(tl.int64)
    value = tl.load(logits + row * num_codes + code, mask=there, other=-float("inf"))
    if HAS_ADDED:
        column = begin + place if BY_PLACE else node
        value += tl.load(added + user * num_added + column, mask=there, other=0.0)
    return node, code, value


@triton.jit  # type: ignore[misc, untyped-decorator, unused-ignore]
def _score(  # type: ignore[no-untyped-def]
    logits,
    added,
    masses,
    known_scores,
    starts,
    begins,
    ends,
    codes,
    before,
    which,
    scores,
    width,
    num_codes,
    num_nodes,
    places,
    num_added,
    HAS_ADDED: tl.constexpr,
    BY_PLACE: tl.constexpr,
    HAS_MASS: tl.constexpr,
    HAS_FILTER: tl.constexpr,
    REPEATS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    user = row // width
    start, begin = tl.load(starts + row), tl.load(begins + row)
    count = tl.load(ends + row) - begin
    known = tl.load(known_scores + row)
    lane = tl.arange(0, BLOCK).to(tl.int64)
    if HAS_MASS:
        mass = tl.load(masses + row)
    else:
        peak = -float("inf")
        total = 0.0
        first = count * 0
        while first < count:
            place = first + lane
            there = place < count
            node, code, value = _values(
                logits, added, codes, row, user, start, begin, place, there, num_codes, num_added, HAS_ADDED, BY_PLACE
            )
            if REPEATS:
                earlier = tl.load(codes + node - 1, mask=there & (place > 0), other=-1).to(tl.int64)
                value = tl.where(code == earlier, -float("inf"), value)
            higher = tl.maximum(peak, tl.max(value, 0))
            total = total * tl.exp(peak - higher) + tl.sum(tl.exp(value - higher), 0)
            peak = higher
            first += BLOCK
        mass = peak + tl.log(total)
    first = count * 0
    while first < count:
        place = first + lane
        there = place < count
        node, code, value = _values(
            logits, added, codes, row, user, start, begin, place, there, num_codes, num_added, HAS_ADDED, BY_PLACE
        )
        total_score = known + (value - mass)
        if HAS_FILTER:
            counts = before + tl.load(which + user) * (num_nodes + 1) + node
            alive = tl.load(counts + 1, mask=there, other=0) > tl.load(counts, mask=there, other=0)
            total_score = tl.where(alive, total_score, -float("inf"))
        tl.store(scores + user * places + begin + place, total_score, mask=there)
        first += BLOCK
