"""Features by row as JSON objects of re-ids, the way TencentGR layout C writes them."""

import mmap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from semid.data.building.field_files import FieldsBuilder
from semid.data.features import FIELD_RESERVED
from semid.data.tencentgr.feature_spool import FeatureSpool


class FeatureTexts:
    """Looks up the features of rows on disk.

    Args:
        spool: the features, complete.
        folder: where they are laid out by row.
        count: R.
        label: names a row for messages.

    Raises:
        InputError: a row came twice.
    """

    def __init__(self, spool: FeatureSpool, folder: Path, count: int, label: Callable[[int], str]) -> None:
        opened: list[FieldsBuilder] = []

        def open_fields(names: tuple[str, ...], rows: int) -> FieldsBuilder:
            opened.append(FieldsBuilder(folder, names, rows))
            return opened[0]

        spool.write(open_fields, count, label)
        facts = opened[0].close()
        self._single_names = [f'"{name}": ' for name in facts["names"]]
        self._single = _mapped(folder / "single.npy")
        self._lists = {
            f'"{name}": ': (_mapped(folder / f"{name}.offsets.npy"), _mapped(folder / f"{name}.values.npy"))
            for name in facts["lists"]
        }
        self.num_values = {
            name: size - FIELD_RESERVED
            for name, size in [*zip(facts["names"], facts["sizes"], strict=True), *facts["lists"].items()]
        }

    def texts(self, rows: np.ndarray) -> list[str]:
        """The JSON object of each row; missing fields are absent."""
        entries = [
            [name + str(code - 1) for name, code in zip(self._single_names, codes, strict=True) if code]
            for codes in self._single[rows].tolist()
        ]
        for name, (offsets, values) in self._lists.items():
            spans = zip(entries, offsets[rows].tolist(), offsets[rows + 1].tolist(), strict=True)
            for entry, start, end in spans:
                if end > start:
                    entry.append(name + str((values[start:end] - 1).tolist()))
        self._release()
        return ["{" + ", ".join(entry) + "}" for entry in entries]

    def _release(self) -> None:
        """Hand the pages read back to the page cache, so that memory does not grow with what was looked up."""
        for array in (self._single, *(part for pair in self._lists.values() for part in pair)):
            if isinstance(array.base, mmap.mmap):
                array.base.madvise(mmap.MADV_DONTNEED)


def _mapped(path: Path) -> np.ndarray:
    try:
        array: Any = np.load(path, mmap_mode="r", allow_pickle=False)
    except ValueError:  # an empty array cannot be mapped
        array = np.load(path, allow_pickle=False)
    mapped: np.ndarray = array
    return mapped
