"""The user encoder: the profile token, and how a user colours a whole history.

Shapes: R rows, S tokens, D width, G users asked for.
"""

import torch
from torch import Tensor, nn

from semid.generative.catalogue import Catalogue
from semid.generative.config import ModelConfig
from semid.generative.fields import FieldsEncoder, HashedIds, dropped
from semid.generative.histories import TokenBatch
from semid.generative.joining import Join
from semid.generative.layers import FiLM


class UserEncoder(nn.Module):
    """One vector a user: its columns (``profile``) and its id (``user``), as far as each is on.

    Somebody unknown, and in training a share of all users, has no id part.
    """

    def __init__(self, catalogue: Catalogue, config: ModelConfig) -> None:
        super().__init__()
        inputs, width = config.inputs, config.width
        part = inputs.part_width or width
        self.user_dropout = inputs.user_dropout
        lists = tuple(column.size for column in catalogue.user_lists)
        columns = "profile" in config.features
        self.fields = FieldsEncoder(catalogue.user_sizes, lists, part, sparse=True) if columns else None
        known = "user" in config.features
        id_width = inputs.id_width or part
        self.ids = HashedIds(max(catalogue.id_counts[1], 1), id_width, sparse=True) if known else None
        widths = [part] * (len(self.fields) if self.fields is not None else 0) + [id_width] * known
        self.join = Join(widths, width, inputs.join, inputs.join_layers)

    def forward(self, catalogue: Catalogue, users: Tensor) -> Tensor:
        """Vectors (G, D) of user rows (G,), -1 for somebody unknown."""
        parts: list[Tensor] = []
        if self.fields is not None:
            rows = users % len(catalogue.user_fields)  # the last row is that of somebody unknown
            parts += self.fields(catalogue.user_fields, catalogue.user_lists, rows)
        if self.ids is not None:
            if catalogue.user_ids is not None:
                users = torch.where(users >= 0, catalogue.user_ids.rows[users], -1)
            keep = users >= 0
            if self.training and self.user_dropout:
                keep = keep & ~dropped(len(users), self.user_dropout, users.device)
            parts.append(self.ids(users.clamp(min=0)) * keep[:, None])
        joined: Tensor = self.join(parts)
        return joined


class UserFiLM(nn.Module):
    """Tokens scaled and shifted by their user."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.film = FiLM(width)

    def forward(self, tokens: Tensor, encoded: Tensor, batch: TokenBatch) -> Tensor:
        """Tokens (R, S, D), and the vectors (G, D) of the users of the profile tokens in order. (R, S, D)"""
        led = batch.segments[batch.profile]  # ascending, as segments are numbered in the order of the rows
        owner = torch.searchsorted(led, batch.segments).clamp(max=len(led) - 1)
        result: Tensor = self.film(tokens, encoded, owner)
        return result
