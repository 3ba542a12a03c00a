"""Whole searches as CUDA graphs: one for each shape, so that a search costs one launch instead of hundreds."""

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from semid.generative.beam_steps import Beams
from semid.generative.code_search import CodeSearch
from semid.generative.item_filter import Allowed
from semid.generative.trunk_decoder import TrunkDecoder

Run = Callable[[CodeSearch, Tensor, Allowed], Beams]
_MOST_GRAPHS = 16
_WARM_UPS = 2


@dataclass(frozen=True, eq=False)
class Inputs:
    """What differs from one search to the next, so that a graph has copies of it.

    Attributes:
        search: the decoder.
        state: (B, D).
        limits: of the users.
    """

    search: CodeSearch
    state: Tensor
    limits: Allowed

    def tensors(self) -> list[Tensor]:
        """All of it, in one order."""
        reader = self.search.reader
        history = reader.tensors() if isinstance(reader, TrunkDecoder) else []
        return [self.state, self.limits.which, *(self.limits.gone or ()), *history]

    def of(self, tensors: list[Tensor]) -> "Inputs":
        """The same search of other values."""
        state, which, *rest = tensors
        count = len(self.limits.gone or ())
        limits = replace(self.limits, which=which, gone=None if self.limits.gone is None else tuple(rest[:count]))
        reader = self.search.reader
        if isinstance(reader, TrunkDecoder):
            reader = reader.holding(rest[count:])
        return Inputs(replace(self.search, reader=reader), state, limits)


@dataclass(frozen=True, eq=False)
class _Captured:
    """A graph, and all that it reads and writes, which must not be freed."""

    graph: "torch.cuda.CUDAGraph"
    inputs: Inputs
    beams: Beams


class SearchGraphs:
    """The graphs of one model over one catalogue, as many as were used of late; its weights stay where they are."""

    def __init__(self) -> None:
        self._graphs: OrderedDict[Any, _Captured] = OrderedDict()

    def run(self, search: Run, inputs: Inputs, setting: Any) -> Beams:
        """What ``search`` returns, replayed where a search of these shapes and this setting has run before."""
        given = inputs.tensors()
        key = (setting, id(inputs.limits.filter), *((tuple(value.shape), value.dtype) for value in given))
        if key not in self._graphs:
            self._graphs[key] = _capture(search, inputs)
            if len(self._graphs) > _MOST_GRAPHS:
                self._graphs.popitem(last=False)
        self._graphs.move_to_end(key)
        captured = self._graphs[key]
        for mine, value in zip(captured.inputs.tensors(), given, strict=True):
            mine.copy_(value)
        captured.graph.replay()
        return Beams(*(value.clone() for value in vars(captured.beams).values()))


def _capture(search: Run, inputs: Inputs) -> _Captured:
    mine = inputs.of([value.clone() for value in inputs.tensors()])
    side = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):  # what is made once, and the kernels, are made now
        for _ in range(_WARM_UPS):
            search(mine.search, mine.state, mine.limits)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        beams = search(mine.search, mine.state, mine.limits)
    return _Captured(graph, mine, beams)
