"""Tiny datasets, catalogues and models in memory, with every kind of input a model can take."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from semid.codes import SemanticIds
from semid.data.dataset import Dataset
from semid.data.events import ACTION_UNKNOWN, TIME_MISSING, EventLog, Queries
from semid.data.features import Fields, ListField
from semid.data.timeline import Timeline
from semid.generative.catalogue import Catalogue
from semid.generative.code_decoder import CodeDecoder, CodeTree
from semid.generative.config import FEATURES, ModelConfig
from semid.generative.histories import BatchBuilder, TokenBatch, training_segments
from semid.generative.model import Model
from semid.generative.recommender import GenerativeRecommender

Rows = Sequence[Sequence[int]]


def code_logits(decoder: CodeDecoder, state: Tensor, codes: Tensor, tree: CodeTree) -> list[Tensor]:
    """Logits (P, K_l) of each level given the true codes before it, -inf where no item goes on."""
    tokens = [decoder.state(state)]
    tokens += [decoder.codes.column(level, codes[:, level]) for level in range(len(decoder.codes))]
    hidden, _ = decoder._run(torch.stack(tokens, dim=1), first=0, past=None)
    query, nodes, logits = F.normalize(state, dim=-1), torch.zeros_like(codes[:, 0]), []
    for level in range(codes.shape[1]):
        logits.append(decoder.heads.logits(level, hidden[:, level], query, nodes, tree))
        nodes = tree.trie.step(level, nodes, codes[:, level])
    return logits


class Build:
    """Functions that make things to test; handed to tests as one fixture."""

    code_logits = staticmethod(code_logits)

    @staticmethod
    def log(histories: Rows, times: Rows | None = None, actions: Rows | None = None) -> EventLog:
        """One user per history."""
        offsets = np.concatenate([[0], np.cumsum([len(history) for history in histories])]).astype(np.int64)

        def flat(rows: Rows | None, missing: int, dtype: Any) -> np.ndarray:
            if rows is None:
                return np.full(offsets[-1], missing, dtype)
            return np.array([value for row in rows for value in row], dtype)

        return EventLog(
            flat(histories, 0, np.int32),
            flat(actions, ACTION_UNKNOWN, np.int8),
            flat(times, TIME_MISSING, np.int64),
            offsets,
        )

    @staticmethod
    def list_field(rows: Rows, size: int) -> ListField:
        offsets = np.concatenate([[0], np.cumsum([len(row) for row in rows])]).astype(np.int64)
        return ListField(offsets, np.array([value for row in rows for value in row], np.int32), size)

    @staticmethod
    def dataset(
        log: EventLog,
        num_items: int,
        *,
        holdout: int = 0,
        item_fields: Fields | None = None,
        user_fields: Fields | None = None,
        action_names: tuple[str, ...] = ("click",),
    ) -> Dataset:
        """The last ``holdout`` events of each user are kept from training; the first of these is asked for."""
        train_end = np.maximum(log.offsets[1:] - holdout, log.offsets[:-1])
        users = np.flatnonzero((train_end < log.offsets[1:]) & (train_end > log.offsets[:-1]))
        queries = Queries(
            log=log,
            users=users.astype(np.int32),
            start=log.offsets[:-1][users],
            end=train_end[users],
            target_items=log.items[train_end[users]],
            target_actions=log.actions[train_end[users]],
            target_offsets=np.arange(len(users) + 1),
        )
        return Dataset(
            events=log,
            train_end=train_end,
            queries={"valid": queries, "test": queries},
            candidates=np.arange(num_items, dtype=np.int32),
            item_fields=item_fields or Fields((), (), np.zeros((num_items, 0), np.int32)),
            user_fields=user_fields or Fields((), (), np.zeros((log.num_users, 0), np.int32)),
            embeddings={},
            action_names=action_names,
            action_weights=(1.0,) * len(action_names),
        )

    @staticmethod
    def catalogue(dataset: Dataset, num_codes: tuple[int, ...] = (4, 4, 4)) -> Catalogue:
        """Distinct random codes and random content; every seventh item has no content."""
        generator = np.random.default_rng(1)
        chosen = generator.choice(int(np.prod(num_codes)), dataset.num_items, replace=False)
        codes = np.stack(np.unravel_index(chosen, num_codes), axis=1).astype(np.int32)
        content = torch.from_numpy(generator.normal(size=(dataset.num_items, 6)))
        known = torch.arange(dataset.num_items) % 7 != 6
        catalogue = Catalogue.of(dataset, SemanticIds(codes, num_codes), content, known)
        return catalogue.with_events(dataset, FEATURES)

    @staticmethod
    def model(catalogue: Catalogue, **changes: Any) -> Model:
        """Random weights everywhere, also where training would start from zeros or ones; evaluation mode."""
        settings = {"width": 16, "heads": 4, "kv_heads": 2, "hidden": 24, "context": 8, **changes}
        torch.manual_seed(0)
        model = Model(ModelConfig(**settings).restricted_to(catalogue.available()), catalogue)
        Build.randomise(model)
        return model.eval()

    @staticmethod
    def randomise(model: nn.Module, std: float = 0.2) -> None:
        generator = torch.Generator().manual_seed(0)
        for parameter in model.parameters():
            parameter.data += torch.randn(parameter.shape, generator=generator) * std


@pytest.fixture(scope="session")
def build() -> type[Build]:
    return Build


@pytest.fixture(scope="session")
def rich() -> Dataset:
    """24 items, 12 users with 0, 1, 2, 3 and more events; actions, times and columns, some of them missing.

    The last two items never occur. Each user's last event is kept from training.
    """
    generator = np.random.default_rng(0)
    lengths = [0, 1, 2, 3, *generator.integers(4, 16, 8).tolist()]
    histories = [generator.integers(0, 22, n).tolist() for n in lengths]
    times = [(1_600_000_000 + np.cumsum(generator.integers(0, 10**6, n))).tolist() for n in lengths]
    times[4][1] = TIME_MISSING
    actions = [generator.integers(-1, 3, n).tolist() for n in lengths]
    tags = [generator.integers(0, 9, generator.integers(0, 4)).tolist() for _ in range(24)]
    likes = [generator.integers(0, 5, generator.integers(0, 3)).tolist() for _ in range(12)]
    brands, ages = generator.integers(0, (5, 7), (24, 2)), generator.integers(0, 4, (12, 1))
    return Build.dataset(
        Build.log(histories, times, actions),
        24,
        holdout=1,
        item_fields=Fields(("brand", "shop"), (5, 7), brands.astype(np.int32), {"tags": Build.list_field(tags, 9)}),
        user_fields=Fields(("age",), (4,), ages.astype(np.int32), {"likes": Build.list_field(likes, 5)}),
        action_names=("show", "click", "buy"),
    )


@pytest.fixture(scope="session")
def catalogue(rich: Dataset) -> Catalogue:
    return Build.catalogue(rich)


@pytest.fixture(scope="session")
def recommender(rich: Dataset, catalogue: Catalogue) -> GenerativeRecommender:
    """Random weights; items 0 and 5 are no candidates."""
    candidates = np.setdiff1d(np.arange(rich.num_items), [0, 5])
    return GenerativeRecommender(Build.model(catalogue), catalogue, candidates, rich.action_names)


@pytest.fixture
def builder(rich: Dataset) -> BatchBuilder:
    return BatchBuilder(training_segments(rich, 8, profile=True), profile=True, timeline=Timeline.of(rich))


@pytest.fixture
def packed(builder: BatchBuilder) -> TokenBatch:
    """Two rows of several segments each, with padding behind."""
    return builder.build([[3, 0, 5, 1], [4, 2, 6]], 30)
