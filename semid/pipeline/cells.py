"""Cells of tables that people read: codes, titles, and columns that hold nothing."""

from collections.abc import Sequence


def written(codes: Sequence[int]) -> str:
    """Codes side by side."""
    return "-".join(map(str, codes))


def shortened(title: str | None, width: int = 32) -> str:
    """A title that fits into a table; nothing where there is none."""
    if title is None or len(title) <= width:
        return title or ""
    return title[: width - 1] + "…"


def without_empty_columns(rows: Sequence[tuple[str, ...]]) -> list[tuple[str, ...]]:
    """A header and rows, but the columns in which no row has anything."""
    kept = [place for place in range(len(rows[0])) if any(row[place] for row in rows[1:])]
    return [tuple(row[place] for place in kept) for row in rows]
