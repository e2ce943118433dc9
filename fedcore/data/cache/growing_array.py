"""An .npy file to which arrays are appended."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.lib import format as npy


class GrowingArray:
    """Writes (n, *shape) without knowing n in advance; a context manager that closes the file.

    Plain writes, no memory map: on a full disk they raise OSError, while a write to mapped memory kills the process.
    The final header replaces a first one of equal length (numpy leaves room for a growing first axis).
    """

    def __init__(self, path: Path, shape: tuple[int, ...], dtype: type[np.generic]):
        self.shape, self.dtype, self.count = shape, np.dtype(dtype), 0
        self.file = path.open("wb")
        self._write_header()

    def extend(self, arrays: np.ndarray) -> None:
        """Appends (k, *shape): k arrays."""
        if arrays.shape[1:] != self.shape:
            raise ValueError(f"arrays of this file have shape {self.shape}, got {arrays.shape[1:]}")
        self.file.write(np.ascontiguousarray(arrays, dtype=self.dtype).tobytes())
        self.count += len(arrays)

    def __enter__(self) -> GrowingArray:
        return self

    def __exit__(self, *error: object) -> None:
        with self.file:
            self.file.seek(0)
            self._write_header()

    def _write_header(self) -> None:
        shape = (self.count, *self.shape)
        header = {"descr": npy.dtype_to_descr(self.dtype), "fortran_order": False, "shape": shape}
        npy.write_array_header_1_0(self.file, header)
