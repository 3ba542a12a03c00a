"""Routed experts: tokens sorted by expert, so that each expert is one dense product over its own rows.

Shapes: T tokens, k experts of each, M = T · k sorted rows, D width, F inside of an expert, E experts.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

# Rows of the grouped kernel start at multiples of 16 bytes: eight numbers in bfloat16.
_GROUPED_MULTIPLE = 8


@dataclass(frozen=True)
class ExpertRows:
    """Where the k copies of each token stand once they are sorted by expert.

    Attributes:
        order: (M,) which of the T · k choices each sorted row is; within an expert they ascend.
        place: (T, k) sorted row of each token and choice.
        counts: (E,) rows of each expert.
    """

    order: Tensor
    place: Tensor
    counts: Tensor

    @staticmethod
    def of(expert_Tk: Tensor, num_experts: int) -> "ExpertRows":
        """Sort the choices (T, k), each below ``num_experts``."""
        chosen = expert_Tk.flatten()
        order = chosen.argsort(stable=True)
        place = torch.empty_like(order).scatter_(0, order, torch.arange(len(order), device=order.device))
        return ExpertRows(order, place.view_as(expert_Tk), count_choices(chosen, num_experts))

    @property
    def source(self) -> Tensor:
        """(M,) token of each sorted row."""
        return self.order // self.place.shape[1]


def count_choices(chosen: Tensor, num_experts: int, weight: Tensor | None = None) -> Tensor:
    """How often each expert stands among the choices (M,), or the sum of their integer weights (M,). (E,) int64"""
    each = torch.ones_like(chosen) if weight is None else weight.long()
    return chosen.new_zeros(num_experts).scatter_add_(0, chosen, each)  # bincount would wait for a GPU


class Experts(nn.Module):
    """E SwiGLUs of one shape, each for the tokens that chose it.

    Args:
        width: D.
        hidden: F.
        num_experts: E.

    Attributes:
        gate_up: (E, 2F, D), both products of an expert at once: the gate's rows first.
        down: (E, D, F).
    """

    def __init__(self, width: int, hidden: int, num_experts: int) -> None:
        super().__init__()
        self.gate_up = nn.Parameter(torch.empty(num_experts, 2 * hidden, width))
        self.down = nn.Parameter(torch.empty(num_experts, width, hidden))
        for weight in (self.gate_up, self.down):
            bound = weight.shape[2] ** -0.5  # as nn.Linear begins
            nn.init.uniform_(weight, -bound, bound)

    def forward(self, tokens_TD: Tensor, expert_Tk: Tensor, weight_Tk: Tensor) -> Tensor:
        """Σ_j weight[t, j] · SwiGLU of expert[t, j] at token t, in the dtype of the tokens. (T, D)"""
        device, dtype = tokens_TD.device, tokens_TD.dtype
        rows = ExpertRows.of(expert_Tk, len(self.down))
        form = grouped_experts if _groups_fit(device, dtype, self.down.shape[1:]) else sorted_experts
        with torch.autocast(device.type, enabled=False):
            return form(tokens_TD, weight_Tk, self.gate_up.to(dtype), self.down.to(dtype), rows)


def _groups_fit(device: torch.device, dtype: torch.dtype, sizes: Sequence[int]) -> bool:
    """Whether one kernel can do the products of all experts."""
    if device.type != "cuda" or dtype != torch.bfloat16 or not hasattr(F, "grouped_mm"):
        return False
    # Before Hopper there is no such kernel; Blackwell's is wrong for experts without tokens (pytorch issue 172439).
    hopper = torch.cuda.get_device_capability(device)[0] == 9
    return hopper and all(size % _GROUPED_MULTIPLE == 0 for size in sizes)


def grouped_experts(tokens: Tensor, weight_Tk: Tensor, gate_up: Tensor, down: Tensor, rows: ExpertRows) -> Tensor:
    """The experts' sum (T, D), each product of all experts one kernel, without waiting for the counts."""
    ends = rows.counts.cumsum(0).to(torch.int32)
    inputs = _taken(tokens, rows.source, rows.place)
    gate, up = F.grouped_mm(inputs, gate_up.mT, offs=ends).chunk(2, dim=-1)
    outputs = F.grouped_mm(F.silu(gate) * up, down.mT, offs=ends)
    by_token = _taken(outputs, rows.place.flatten(), rows.order[:, None]).view(*rows.place.shape, -1)
    return (by_token * weight_Tk[..., None].to(by_token.dtype)).sum(1)


def _taken(values: Tensor, rows: Tensor, takers: Tensor) -> Tensor:
    """Rows (N,) of a matrix, of which row i is taken at the places takers[i]."""
    result: Tensor = _Taken.apply(values, rows, takers)  # type: ignore[no-untyped-call]
    return result


class _Taken(torch.autograd.Function):
    """As indexing, but the gradient is summed in a fixed order and nothing has to be sorted for it."""

    @staticmethod
    def forward(context: Any, values: Tensor, rows: Tensor, takers: Tensor) -> Tensor:
        context.save_for_backward(takers)
        return values.index_select(0, rows)

    @staticmethod
    @once_differentiable
    def backward(context: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        return F.embedding_bag(context.saved_tensors[0], upstream, mode="sum"), None, None


def sorted_experts(tokens: Tensor, weight_Tk: Tensor, gate_up: Tensor, down: Tensor, rows: ExpertRows) -> Tensor:
    """The same by plain products, one expert after the other, on any device."""
    arguments = (tokens, weight_Tk, gate_up, down, rows.source, rows.place, rows.counts.tolist())
    result: Tensor = _SortedExperts.apply(*arguments)  # type: ignore[no-untyped-call]
    return result


class _SortedExperts(torch.autograd.Function):
    """All experts as one node of autograd.

    What an expert computes is overwritten by the next one while it is in cache: on CPUs that costs less than keeping
    it. Kept for the gradient are the products gate and up alone.
    """

    @staticmethod
    def forward(
        context: Any,
        tokens: Tensor,
        weight_Tk: Tensor,
        gate_up: Tensor,
        down: Tensor,
        source: Tensor,
        place: Tensor,
        counts: list[int],
    ) -> Tensor:
        _, width, hidden = down.shape
        inputs, outputs = (tokens.new_empty(len(source), n) for n in (2 * hidden, width))
        scratch = tokens.new_empty(max(counts), hidden)
        for chosen, both, output, into, out_of in _by_expert(counts, (source, inputs, outputs), (gate_up, down)):
            inner = scratch[: len(chosen)]
            torch.index_select(tokens, 0, chosen, out=output)
            torch.mm(output, into.T, out=both)
            torch.ops.aten.silu.out(both[:, :hidden], out=inner)
            torch.mm(inner.mul_(both[:, hidden:]), out_of.T, out=output)
        context.save_for_backward(tokens, weight_Tk, gate_up, down, source, place, inputs)
        context.counts = counts
        return F.embedding_bag(place, outputs, per_sample_weights=weight_Tk.to(outputs.dtype), mode="sum")

    @staticmethod
    @once_differentiable
    def backward(context: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        tokens, weight_Tk, gate_up, down, source, place, inputs = context.saved_tensors
        counts: list[int] = context.counts
        _, width, hidden = down.shape
        weight = torch.empty_like(weight_Tk).view(-1).scatter_(0, place.view(-1), weight_Tk.reshape(-1))
        for_tokens, for_weight = tokens.new_empty(len(source), width), torch.empty_like(weight)
        for_gate_up, for_down = torch.empty_like(gate_up), torch.empty_like(down)
        scratch = tokens.new_empty(max(counts), 5 * hidden)
        by_expert = _by_expert(
            counts,
            (source, inputs, weight.to(tokens.dtype)[:, None], for_tokens, for_weight),
            (gate_up, down, for_gate_up, for_down),
        )
        for chosen, both, scale, row, for_scale, into, out_of, for_into, for_out_of in by_expert:
            for_both, for_inner, inner, silu = _matrices(scratch, len(chosen), (2 * hidden, hidden, hidden, hidden))
            torch.index_select(upstream, 0, chosen, out=row)
            torch.mm(row, out_of, out=for_inner)
            torch.ops.aten.silu.out(both[:, :hidden], out=silu)
            torch.mul(silu, both[:, hidden:], out=inner)
            terms = torch.mul(for_inner, inner, out=for_both[:, hidden:])
            torch.sum(terms, dim=1, dtype=for_scale.dtype, out=for_scale)
            torch.mm(row.T, inner.mul_(scale), out=for_out_of)
            _through_swiglu(both, silu, for_inner.mul_(scale), for_both)
            torch.index_select(tokens, 0, chosen, out=row)
            torch.mm(for_both.T, row, out=for_into)
            torch.mm(for_both, into, out=row)
        summed = F.embedding_bag(place, for_tokens, mode="sum")
        return summed, for_weight[place], for_gate_up, for_down, None, None, None


def _by_expert(
    counts: list[int], by_row: Sequence[Tensor], by_weight: Sequence[Tensor]
) -> Iterator[tuple[Tensor, ...]]:
    """Each expert's rows of the tensors over sorted rows, and its own of the stacked weights."""
    return zip(*(torch.split(rows, counts) for rows in by_row), *(stack.unbind() for stack in by_weight), strict=True)


def _matrices(scratch: Tensor, rows: int, widths: Sequence[int]) -> list[Tensor]:
    """Contiguous matrices of so many rows in memory that is there already."""
    parts = torch.split(scratch.view(-1)[: rows * sum(widths)], [rows * width for width in widths])
    return [part.view(rows, width) for part, width in zip(parts, widths, strict=True)]


def _through_swiglu(both: Tensor, silu: Tensor, upstream: Tensor, result: Tensor) -> None:
    """Gradient (n, 2F) of gate and up from that of silu(gate) · up, (n, F), which is overwritten."""
    hidden = silu.shape[1]
    torch.mul(upstream, silu, out=result[:, hidden:])
    upstream.mul_(both[:, hidden:])
    torch.ops.aten.silu_backward.grad_input(upstream, both[:, :hidden], grad_input=result[:, :hidden])
