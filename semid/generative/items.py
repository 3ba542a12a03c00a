"""The item encoder: one vector an item, used both as input token and as item tower.

Shapes: M items asked for, D width, L levels, W width of a part.
"""

import torch
from torch import Tensor, nn

from semid.generative.catalogue import Catalogue
from semid.generative.config import InputConfig, ModelConfig
from semid.generative.fields import FieldsEncoder, HashedIds, dropped
from semid.generative.joining import Join
from semid.generative.layers import EmbeddingTables

# Rows that prefixes of each length share.
MAX_PREFIX_ROWS = 1 << 18
_MIXER = 0x9E3779B1


class CodesEncoder(nn.Module):
    """Embeddings of an item's codes, of their prefixes, or of both.

    In training the codes may be noisy (*random-k*): any of an item's nearest centroids, or cut after a random level.

    Args:
        prefixes: also embed (c₁, c₂), (c₁, c₂, c₃) and so on, each length hashed into a table of its own.
    """

    def __init__(self, catalogue: Catalogue, width: int, config: InputConfig, *, codes: bool, prefixes: bool) -> None:
        super().__init__()
        self.config = config
        self.codes = EmbeddingTables(catalogue.num_codes, width) if codes else None
        sizes, combinations = [], 1
        for count in catalogue.num_codes:
            combinations *= count
            sizes.append(min(combinations, MAX_PREFIX_ROWS))
        self.prefixes = EmbeddingTables(sizes, width) if prefixes else None
        self.num_codes = catalogue.num_codes

    def forward(self, catalogue: Catalogue, rows: Tensor) -> list[Tensor]:
        """Vectors (M, W) of codes, and of prefixes, as far as each is on."""
        codes = self._noisy(catalogue, rows) if self.training else catalogue.codes[rows]
        kept = self._kept(codes)
        parts = []
        if self.codes is not None:
            parts.append(self._sum(self.codes, codes.unbind(1), kept))
        if self.prefixes is not None:
            parts.append(self._sum(self.prefixes, self._hashed(codes), kept))
        return parts

    def _noisy(self, catalogue: Catalogue, rows: Tensor) -> Tensor:
        """The codes (M, L), some of them replaced by others of the item's nearest centroids."""
        codes, near = catalogue.codes[rows], self.config.near_codes
        if near < 2 or catalogue.near_codes is None:
            return codes
        choice = torch.randint(near, codes.shape, device=codes.device)
        other = catalogue.near_codes[rows].long().gather(2, choice[..., None])[..., 0]
        change = dropped(codes.numel(), self.config.near_rate, codes.device).view(codes.shape)
        return torch.where(change, other, codes)

    def _kept(self, codes: Tensor) -> Tensor | None:
        """(M, L) bool, which levels are not cut away; the first one never is."""
        if not (self.training and self.config.prefix_rate):
            return None
        count, levels = codes.shape
        cut = dropped(count, self.config.prefix_rate, codes.device)
        until = torch.where(cut, torch.randint(1, levels + 1, (count,), device=codes.device), levels)
        return torch.arange(levels, device=codes.device) < until[:, None]

    def _hashed(self, codes: Tensor) -> list[Tensor]:
        """Rows of each prefix; exact as long as all combinations fit, otherwise mixed."""
        key, columns, combinations = torch.zeros_like(codes[:, 0]), [], 1
        for level, count in enumerate(self.num_codes):
            key, combinations = key * count + codes[:, level], combinations * count
            mixed = key if combinations <= MAX_PREFIX_ROWS else (key * _MIXER) >> 15
            columns.append(mixed % min(combinations, MAX_PREFIX_ROWS))
        return columns

    @staticmethod
    def _sum(tables: EmbeddingTables, columns: list[Tensor] | tuple[Tensor, ...], kept: Tensor | None) -> Tensor:
        if kept is None:
            return tables(columns)  # type: ignore[no-any-return]
        parts = [tables.column(level, column) * kept[:, level, None] for level, column in enumerate(columns)]
        return torch.stack(parts).sum(0)


class ItemEncoder(nn.Module):
    """All that is known of an item in one vector; its parts are the item features that are switched on.

    Items that training never saw get no id part, and ids are dropped at random while training, so that cold items can
    live from codes, content and columns.

    Args:
        whole: whether every training step encodes all items; otherwise a step costs by the items that it looks at.
    """

    def __init__(self, catalogue: Catalogue, config: ModelConfig, *, whole: bool = True) -> None:
        super().__init__()
        features, inputs, width = config.features, config.inputs, config.width
        part = inputs.part_width or width
        self.id_dropout = config.id_dropout
        id_width = inputs.id_width or part
        self.ids = HashedIds(catalogue.id_counts[0], id_width, sparse=not whole) if "id" in features else None
        by_codes = {"codes": "codes" in features, "prefixes": "prefixes" in features}
        self.codes = CodesEncoder(catalogue, part, inputs, **by_codes) if any(by_codes.values()) else None
        self.content = nn.Linear(catalogue.content.shape[1], part) if "content" in features else None
        self.unknown = nn.Parameter(torch.zeros(part)) if "content" in features else None
        lists = tuple(column.size for column in catalogue.item_lists)
        self.fields = (
            FieldsEncoder(catalogue.item_sizes, lists, part, sparse=not whole) if "fields" in features else None
        )
        if self.content is not None:
            nn.init.normal_(self.content.weight, std=0.05 / catalogue.content.shape[1] ** 0.5)
            nn.init.zeros_(self.content.bias)
        widths = [id_width] * (self.ids is not None) + [part] * sum(by_codes.values())
        widths += [part] * ((self.content is not None) + (len(self.fields) if self.fields is not None else 0))
        self.join = Join(widths, width, inputs.join, inputs.join_layers)

    def forward(self, catalogue: Catalogue, rows: Tensor) -> Tensor:
        """Vectors of item ``rows`` (M,). (M, D)"""
        parts: list[Tensor] = []
        if self.ids is not None:
            keep = catalogue.trained[rows]
            if self.training and self.id_dropout:
                keep = keep & ~dropped(len(rows), self.id_dropout, rows.device)
            ids = rows if catalogue.item_ids is None else catalogue.item_ids.rows[rows].clamp(min=0)
            parts.append(self.ids(ids) * keep[:, None])
        if self.codes is not None:
            parts += self.codes(catalogue, rows)
        if self.content is not None and self.unknown is not None:
            projected = self.content(catalogue.content[rows])
            parts.append(torch.where(catalogue.known[rows, None], projected, self.unknown))
        if self.fields is not None:
            parts += self.fields(catalogue.item_fields, catalogue.item_lists, rows)
        joined: Tensor = self.join(parts)
        return joined
