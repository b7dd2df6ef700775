"""Numbers out of Arrow's columns, however a library chose to nest or to code them."""

from __future__ import annotations

import numpy as np
import pyarrow as pa


def is_list(kind: pa.DataType) -> bool:
    """Whether values are lists, of any of the layouts that Arrow has for them."""
    return any(
        test(kind)
        for test in (
            pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list, pa.types.is_list_view,
            pa.types.is_large_list_view,
        )
    )  # fmt: skip


def flat_numbers(column: pa.Array | pa.ChunkedArray) -> np.ndarray:
    """All numbers of a column, one after the other. Raises ValueError when some are missing."""
    whole = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    while True:
        if whole.null_count:
            raise ValueError(f"{whole.null_count} values are missing")
        if pa.types.is_dictionary(whole.type):
            whole = whole.dictionary_decode()
        elif is_list(whole.type):
            whole = whole.flatten()
        elif isinstance(whole.type, pa.BaseExtensionType):
            whole = whole.storage
        else:
            return np.asarray(whole.to_numpy(zero_copy_only=False))
