"""Input and output arrays of the command line."""

import io
from pathlib import Path

import numpy as np
import numpy.typing as npt

from .errors import InputError
from .files import write_whole
from .network import Int8Array, Tensor

__all__ = ["load_inputs", "quantise", "save_outputs"]


def load_inputs(path: Path, tensor: Tensor) -> Int8Array:
    """The batch in a `.npy` file, or in ``x`` of a `.npz`, as int8 (batch, *shape of ``tensor``).

    int8 is taken as it is, float32 is quantised with the tensor's scale. Raises `InputError`.
    """
    try:
        content = io.BytesIO(path.read_bytes())
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}; check the path") from None
    try:
        # Nothing in the file is run: arrays of Python objects are refused.
        loaded = np.load(content, allow_pickle=False)
        if isinstance(loaded, np.lib.npyio.NpzFile):
            held = ", ".join(map(repr, loaded.files)) or "nothing"
            loaded = loaded.get("x")
    except Exception:
        # A damaged file makes numpy, zipfile and the parser of headers raise a dozen kinds of exceptions.
        raise InputError(f"{path} is not a sound .npy or .npz file of numbers: write it again") from None
    if loaded is None:
        raise InputError(f"{path} has no array named x, it holds {held}: save the inputs as x")
    return quantise(loaded, tensor, str(path))


def quantise(x: npt.NDArray[np.generic], tensor: Tensor, name: str = "the input") -> Int8Array:
    """``x`` as int8 of the tensor's shape behind a batch axis."""
    if x.shape[1:] != tensor.shape or x.ndim == 0:
        expected = ", ".join(map(str, ("batch", *tensor.shape)))
        raise InputError(f"{name} must have the shape ({expected}), batch first, not {x.shape}")
    if len(x) == 0:
        raise InputError(f"{name} holds no inputs: its batch is empty, give one or more")
    if x.dtype == np.int8:
        return x.astype(np.int8)
    if x.dtype != np.float32:
        raise InputError(f"{name} must be int8 or float32, not {x.dtype}: convert it with astype")
    if not np.isfinite(x).all():
        raise InputError(f"{name} holds NaN or infinity: every value must be a finite number")
    steps = np.round(x.astype(np.float64) / tensor.scale) + tensor.zero_point
    return np.clip(steps, -128, 127).astype(np.int8)


def save_outputs(path: Path, y: Int8Array) -> None:
    """Write ``y`` to a `.npy` file, whole or not at all."""
    buffer = io.BytesIO()
    np.save(buffer, y)
    write_whole(path, buffer.getvalue())
