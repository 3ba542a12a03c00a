"""Oracle: embeddings looked up one by one."""

from dataclasses import replace
from typing import Any

import pytest
import torch

from semid.data.dataset import Dataset
from semid.generative import items
from semid.generative.catalogue import Catalogue
from semid.generative.config import InputConfig, ModelConfig
from semid.generative.items import ItemEncoder

WIDTH = 8


def encoder(catalogue: Catalogue, *names: str, id_dropout: float = 0.0, **inputs: Any) -> ItemEncoder:
    torch.manual_seed(0)
    shape = {"width": WIDTH, "features": names, "id_dropout": id_dropout, "inputs": InputConfig(**inputs)}
    made = ItemEncoder(catalogue, ModelConfig(**shape))
    for parameter in made.parameters():
        torch.nn.init.normal_(parameter)
    return made.eval()


def rows_of(catalogue: Catalogue) -> torch.Tensor:
    return torch.arange(catalogue.num_items)


def test_each_part_of_an_item_is_a_switch(catalogue: Catalogue) -> None:
    """All parts together are the sum of the parts alone, each computed here by hand."""
    made = encoder(catalogue, "id", "codes", "content", "fields")
    rows = torch.tensor([0, 5, 6, 22, 23, 5])
    assert (made.ids, made.codes, made.content, made.unknown, made.fields) != (None,) * 5
    ids = made.ids.tables.tables[0].weight[rows] * catalogue.trained[rows, None]
    codes = torch.stack(
        [
            sum(
                made.codes.codes.tables[level].weight[code]
                for level, code in enumerate(catalogue.codes[row].tolist())
            )
            for row in rows.tolist()
        ]
    )
    content = torch.stack(
        [
            made.content.weight @ catalogue.content[row] + made.content.bias if catalogue.known[row] else made.unknown
            for row in rows.tolist()
        ]
    )
    fields = torch.stack(made.fields(catalogue.item_fields, catalogue.item_lists, rows)).sum(0)
    torch.testing.assert_close(made(catalogue, rows), ids + codes + content + fields)

    for name, expected in {"id": ids, "codes": codes, "content": content, "fields": fields}.items():
        alone = encoder(catalogue, name)
        alone.load_state_dict({key: made.state_dict()[key] for key in alone.state_dict()})
        torch.testing.assert_close(alone(catalogue, rows), expected)


def test_cold_items_have_no_id_part(rich: Dataset, catalogue: Catalogue) -> None:
    assert catalogue.trained.tolist() == (rich.train_counts > 0).tolist()
    assert not catalogue.trained[22:].any()
    vectors = encoder(catalogue, "id")(catalogue, rows_of(catalogue))
    assert ((vectors == 0).all(dim=1) == ~catalogue.trained).all()


def test_ids_are_dropped_while_training_only(catalogue: Catalogue) -> None:
    made = encoder(catalogue, "id", id_dropout=0.25)
    rows = torch.full((4000,), int(catalogue.trained.nonzero()[0]))
    assert (made(catalogue, rows) != 0).all()
    dropped = (made.train()(catalogue, rows) == 0).all(dim=1).float().mean()
    assert 0.22 < dropped < 0.28


def test_prefixes_are_embedded_as_wholes(catalogue: Catalogue) -> None:
    """Two items share the row of a prefix exactly if they share the prefix."""
    made = encoder(catalogue, "prefixes")
    columns = made.codes._hashed(catalogue.codes)
    for length, column in enumerate(columns, start=1):
        prefixes = [tuple(row[:length]) for row in catalogue.codes.tolist()]
        for one in range(24):
            for other in range(24):
                assert (prefixes[one] == prefixes[other]) == bool(column[one] == column[other])
    tables = [table.weight for table in made.codes.prefixes.tables]
    expected = torch.stack([sum(t[c[row]] for t, c in zip(tables, columns, strict=True)) for row in range(24)])
    torch.testing.assert_close(made(catalogue, rows_of(catalogue)), expected)


def test_long_prefixes_share_rows_evenly(catalogue: Catalogue, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(items, "MAX_PREFIX_ROWS", 40)
    codes = torch.cartesian_prod(*[torch.arange(16)] * 3)
    wide = replace(catalogue, codes=codes, num_codes=(16, 16, 16))
    made = encoder(wide, "prefixes")
    assert [table.num_embeddings for table in made.codes.prefixes.tables] == [16, 40, 40]
    used = made.codes._hashed(codes)[2].bincount(minlength=40)
    assert used.min() > 0.5 * 4096 / 40
    assert used.max() < 2 * 4096 / 40


def test_random_codes_are_among_the_nearest_and_only_in_training(catalogue: Catalogue) -> None:
    """Near codes are own code, own + 1, own + 2: so what was drawn can be told."""
    near = (catalogue.codes[..., None] + torch.arange(3)) % 4
    wide = replace(catalogue, near_codes=near.int())
    made = encoder(wide, "codes", near_codes=3, near_rate=0.5)
    rows = torch.full((6000,), 11)
    assert torch.equal(made.codes._noisy(wide, rows), made.codes._noisy(wide, rows)) is False
    moved = (made.codes._noisy(wide, rows) - wide.codes[11]) % 4
    for level in range(3):
        shares = moved[:, level].bincount(minlength=4) / 6000
        torch.testing.assert_close(shares, torch.tensor([0.5 + 0.5 / 3, 0.5 / 3, 0.5 / 3, 0]), atol=0.03, rtol=0)
    plain = encoder(catalogue, "codes")
    plain.load_state_dict(made.state_dict())
    assert torch.equal(made(wide, rows_of(wide)), plain(catalogue, rows_of(catalogue)))
    assert not torch.equal(made.train()(wide, rows_of(wide)), plain(catalogue, rows_of(catalogue)))


def test_codes_are_cut_after_a_random_level(catalogue: Catalogue) -> None:
    made = encoder(catalogue, "codes", prefix_rate=0.6).train()
    kept = made.codes._kept(catalogue.codes[torch.full((6000,), 3)])
    assert kept[:, 0].all()
    assert (kept[:, 1] >= kept[:, 2]).all()
    # Cut after level 1, 2, or 3, which is no cut, each in a third of 0.6.
    torch.testing.assert_close(kept.float().mean(0), torch.tensor([1.0, 0.8, 0.6]), atol=0.03, rtol=0)
    tables = [table.weight for table in made.codes.codes.tables]
    vectors = made(catalogue, torch.full((200,), 3))
    codes = catalogue.codes[3].tolist()
    for count in (1, 2, 3):
        prefix = sum(tables[level][codes[level]] for level in range(count))
        assert (vectors - prefix).abs().amax(1).lt(1e-5).any()


@pytest.mark.parametrize("join", ["sum", "linear", "mlp", "gated"])
def test_parts_of_any_width_are_joined(catalogue: Catalogue, join: str) -> None:
    widths = {} if join == "sum" else {"part_width": 6}
    made = encoder(catalogue, "id", "codes", "prefixes", "content", "fields", join=join, id_width=5, **widths)
    assert made.ids.tables.tables[0].embedding_dim == 5
    vectors = made(catalogue, rows_of(catalogue))
    assert vectors.shape == (24, WIDTH)
    assert len(vectors.unique(dim=0)) > 12


def test_narrow_ids_begin_as_large_as_others_and_cold_items_have_none(catalogue: Catalogue) -> None:
    torch.manual_seed(0)
    shape = {"width": 256, "features": ("id",), "id_dropout": 0.0}
    encoders = [
        ItemEncoder(catalogue, ModelConfig(**shape, inputs=InputConfig(id_width=width))).eval()
        for width in (0, 32, 512)
    ]
    plain, *mapped = (made(catalogue, rows_of(catalogue))[catalogue.trained].std().item() for made in encoders)
    assert mapped == pytest.approx([plain, plain], rel=0.1)
    assert not encoders[1](catalogue, rows_of(catalogue))[~catalogue.trained].any()
