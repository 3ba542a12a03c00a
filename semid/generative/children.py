"""The children of a user's beams side by side in one buffer.

Where its size is that of the W largest families of the level, it never overflows, and no shape depends on what the
beams are: the host need not wait for a GPU, and a CUDA graph can hold the search.

Shapes: B users, W beams, C places, n nodes of the level.
"""

from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from semid.generative.trie import CodeTrie


@dataclass(frozen=True, eq=False)
class Children:
    """Where the children of nodes (B, W) of the level above ``depth`` stand.

    What stands at all C places is worked out where it is asked for; places behind the last child hold anything.

    Attributes:
        trie: the catalogue.
        depth: of the children.
        starts: (B, W) int64 first child of each node.
        begins, ends: (B, W) int64 place of the first child of each, and behind the last.
        size: C.
    """

    trie: CodeTrie
    depth: int
    starts: Tensor
    begins: Tensor
    ends: Tensor
    size: int

    @staticmethod
    def of(
        trie: CodeTrie, depth: int, nodes: Tensor, alive: Tensor | None = None, size: int | None = None
    ) -> "Children":
        """Of those of nodes (B, W) that are ``alive`` (B, W); in ``size`` places, else as many as they need."""
        above = trie.levels[depth - 1].children
        starts = above[nodes].long()
        counts = above[nodes + 1] - starts
        if alive is not None:
            counts = counts.masked_fill(~alive, 0)
        ends = counts.cumsum(1)
        size = max(1, int(ends[:, -1].max())) if size is None else size
        return Children(trie, depth, starts, ends - counts, ends, size)

    @cached_property
    def places(self) -> Tensor:
        """(C,) all of them."""
        return torch.arange(self.size, device=self.ends.device)

    @cached_property
    def owner(self) -> Tensor:
        """(B, C) which node each place belongs to."""
        return self._owner(self.places.expand(len(self.ends), -1).contiguous())

    @cached_property
    def row(self) -> Tensor:
        """(B, C) the same counted over all users."""
        return self.owner + torch.arange(len(self.ends), device=self.ends.device)[:, None] * self.ends.shape[1]

    @cached_property
    def nodes(self) -> Tensor:
        """(B, C) the child at each place."""
        shifted = (self.starts - self.begins).gather(1, self.owner).add_(self.places)
        return shifted.clamp_(max=len(self.trie.levels[self.depth]) - 1)

    @cached_property
    def codes(self) -> Tensor:
        """(B, C) int64 code of each child."""
        return self.trie.levels[self.depth].codes[self.nodes].long()

    @cached_property
    def there(self) -> Tensor:
        """(B, C) whether there is a child at all."""
        return self.places < self.ends[:, -1:]

    @cached_property
    def distinct(self) -> Tensor:
        """(B, C) whether there is one with another code than the one before: items may share all their codes."""
        if self.trie.is_unique or self.depth + 1 < len(self.trie.levels):
            return self.there
        first = self.places == self.begins.gather(1, self.owner)
        return self.there & (first | (self.codes != self.codes.roll(1, dims=1)))

    def at(self, places: Tensor) -> tuple[Tensor, Tensor]:
        """Owners (B, P) and children (B, P) at places (B, P)."""
        owner = self._owner(places)
        return owner, (self.starts - self.begins).gather(1, owner) + places

    def _owner(self, places: Tensor) -> Tensor:
        return torch.searchsorted(self.ends, places, right=True).clamp_(max=self.ends.shape[1] - 1)

    def users(self, part: slice) -> "Children":
        """Those of some users."""
        return replace(self, starts=self.starts[part], begins=self.begins[part], ends=self.ends[part])

    def log_sum_exp(self, values: Tensor) -> Tensor:
        """log Σ exp of values (B, C) over the different codes of each node, (B, W); -inf of none."""
        flat, row = values.masked_fill(~self.distinct, -torch.inf).flatten(), self.row.flatten()
        most = flat.new_full((self.ends.numel(),), -torch.inf).scatter_reduce(0, row, flat, "amax")
        shift = most.clamp(min=torch.finfo(flat.dtype).min)  # of none
        total = torch.zeros_like(most).index_add_(0, row, (flat - shift[row]).exp_())
        return (shift + total.log()).view(self.ends.shape)
