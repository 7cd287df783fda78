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
        # Nothing in the file is run: arrays of Python objects are refused.
        loaded = np.load(path, allow_pickle=False)
    except FileNotFoundError:
        raise InputError(f"there is no input file {path}") from None
    except (OSError, ValueError, EOFError) as error:
        raise InputError(f"cannot read {path} as a .npy or .npz array file: {error}") from None
    if isinstance(loaded, np.lib.npyio.NpzFile):
        with loaded:
            if "x" not in loaded:
                raise InputError(
                    f"{path} has no array named x; it holds {', '.join(loaded.files) or 'nothing'}"
                )
            try:
                loaded = loaded["x"]
            except (OSError, ValueError, EOFError) as error:
                raise InputError(f"cannot read the array x of {path}: {error}") from None
    return quantise(loaded, tensor, str(path))


def quantise(x: npt.NDArray[np.generic], tensor: Tensor, name: str = "the input") -> Int8Array:
    """``x`` as int8 of the tensor's shape behind a batch axis."""
    if x.shape[1:] != tensor.shape or x.ndim == 0:
        expected = ", ".join(map(str, ("batch", *tensor.shape)))
        raise InputError(f"{name} must have the shape ({expected}), not {x.shape}")
    if len(x) == 0:
        raise InputError(f"{name} holds no inputs")
    if x.dtype == np.int8:
        return x.astype(np.int8)
    if x.dtype != np.float32:
        raise InputError(f"{name} must be int8 or float32, not {x.dtype}")
    if not np.isfinite(x).all():
        raise InputError(f"{name} holds values that are not finite numbers")
    steps = np.round(x.astype(np.float64) / tensor.scale) + tensor.zero_point
    return np.clip(steps, -128, 127).astype(np.int8)


def save_outputs(path: Path, y: Int8Array) -> None:
    """Write ``y`` to a `.npy` file, whole or not at all."""
    buffer = io.BytesIO()
    np.save(buffer, y)
    write_whole(path, buffer.getvalue())
