"""Reading int8 TFLite files.

What a file holds and Kolmogate cannot run exactly is refused by name. Every way in which a damaged file
can mislead the parser ends in `InputError` too.
"""

import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import flatbuffers
import numpy as np
import numpy.typing as npt
import tflite

from .errors import InputError
from .network import (
    Add,
    AveragePool2D,
    Conv2D,
    Dense,
    DepthwiseConv2D,
    MaxPool2D,
    Mean,
    Network,
    Operation,
    Pad,
    Relu,
    Requantisation,
    Reshape,
    Softmax,
    Tensor,
    Window,
    accumulator_bounds,
)
from .quantisation import (
    DenseScale,
    activation_range,
    add_requantisation,
    convolution_requantisation,
    mean_requantisation,
    rescaling,
)

__all__ = ["load_tflite"]

_DTYPES: dict[int, np.dtype[Any]] = {
    tflite.TensorType.INT8: np.dtype(np.int8),
    tflite.TensorType.INT32: np.dtype("<i4"),
}

# What the schema's accessors raise when offsets, lengths or types in a damaged file lead them astray.
_DAMAGE = (struct.error, ArithmeticError, AttributeError, LookupError, MemoryError, TypeError, ValueError)


def _names(enumeration: type) -> dict[int, str]:
    return {value: name for name, value in vars(enumeration).items() if isinstance(value, int)}


_TYPE_NAMES = _names(tflite.TensorType)
_OPERATOR_NAMES = _names(tflite.BuiltinOperator)
_ACTIVATION_NAMES = _names(tflite.ActivationFunctionType)


def load_tflite(path: str | Path) -> Network:
    """Read a fully int8-quantised TFLite file into a checked `Network`.

    Raises `InputError`, in a sentence that starts with the path, if the file cannot be read, is damaged,
    or holds anything that Kolmogate does not run.
    """
    path = Path(path)
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InputError(
            f"{path} cannot be read ({error.strerror}): give the path of a .tflite file"
        ) from None
    if not data:
        raise InputError(f"{path} is empty: give a .tflite file")
    if data[4:8] != b"TFL3":
        raise InputError(f"{path} is not a TFLite file: export the model to int8 .tflite first")
    try:
        network = _Reader(data).network(path.stem)
        network.check()
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    except _DAMAGE:
        raise InputError(f"{path} is damaged or cut short: copy or export it again") from None
    return network


@dataclass(frozen=True)
class _Stored:
    """A tensor as the file has it: batch axis included, constants with their values."""

    name: str
    shape: tuple[int, ...]
    type: int
    scales: npt.NDArray[np.float32]
    zero_points: npt.NDArray[np.int64]
    axis: int
    values: npt.NDArray[Any] | None


def _vector(table: Any, field: str) -> npt.NDArray[Any]:
    """A vector of numbers as an array; empty where the file has none."""
    if getattr(table, f"{field}IsNone")():
        return np.zeros(0, np.int32)
    values: npt.NDArray[Any] = getattr(table, f"{field}AsNumpy")()
    return values


def _text(value: bytes | None) -> str:
    return value.decode() if value else ""


def _plural(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def _builtin_code(code: Any) -> int:
    """The greater of the two fields that hold it: the older has one byte.

    The schema package's accessor prefers the older field below 127, where the reference takes the greater.
    """
    slot = code._tab.Offset(10)
    newer = code._tab.Get(flatbuffers.number_types.Int32Flags, slot + code._tab.Pos) if slot else 0
    return max(int(newer), int(code.DeprecatedBuiltinCode()))


class _Reader:
    """One subgraph of a file."""

    def __init__(self, data: bytes) -> None:
        self.model = tflite.Model.GetRootAs(data, 0)
        if self.model.Version() != 3:
            raise InputError(
                f"has schema version {self.model.Version()}, not 3: export it with a newer converter"
            )
        if self.model.SubgraphsLength() != 1:
            raise InputError(
                f"has {_plural(self.model.SubgraphsLength(), 'subgraph')}, not 1: export a model without "
                "control flow"
            )
        self.graph = self.model.Subgraphs(0)
        self.stored: dict[int, _Stored] = {}
        self.tensors: dict[str, Tensor] = {}

    def network(self, name: str) -> Network:
        ends = []
        for field in ("Inputs", "Outputs"):
            indices = _vector(self.graph, field)
            if len(indices) != 1:
                noun = field.lower().removesuffix("s")
                raise InputError(f"has {_plural(len(indices), noun)}, not 1: export one {noun} only")
            ends.append(self.activation(int(indices[0])).name)
        operations = tuple(self.operation(index) for index in range(self.graph.OperatorsLength()))
        return Network(self.tensors, operations, ends[0], ends[1], name)

    def tensor(self, index: int) -> _Stored:
        if index not in self.stored:
            if not 0 <= index < self.graph.TensorsLength():
                raise ValueError(f"tensor {index} does not exist")
            self.stored[index] = self._read_tensor(index)
        return self.stored[index]

    def _read_tensor(self, index: int) -> _Stored:
        table = self.graph.Tensors(index)
        # Names may be missing or repeated in a file; here they identify the tensor.
        name = _text(table.Name()) or f"tensor {index}"
        if any(other.name == name for other in self.stored.values()):
            name = f"{name} #{index}"
        shape = tuple(int(size) for size in _vector(table, "Shape"))
        if table.Sparsity() is not None:
            raise InputError(f"tensor {name!r} is sparse: export it dense")
        if table.IsVariable():
            raise InputError(f"tensor {name!r} is a variable: export a model without state")
        if any(size < 0 for size in _vector(table, "ShapeSignature")[1:]):
            raise InputError(f"tensor {name!r} has a variable shape: export the model with fixed sizes")
        scales, zero_points, axis = np.zeros(0, np.float32), np.zeros(0, np.int64), 0
        quantisation = table.Quantization()
        if quantisation is not None:
            scales = _vector(quantisation, "Scale").astype(np.float32)
            zero_points = _vector(quantisation, "ZeroPoint").astype(np.int64)
            axis = quantisation.QuantizedDimension()
            if quantisation.DetailsType():
                raise InputError(
                    f"tensor {name!r} has a custom quantisation: export it with plain int8 scales"
                )
        return _Stored(name, shape, table.Type(), scales, zero_points, axis, self._values(table, name, shape))

    def _values(self, table: Any, name: str, shape: tuple[int, ...]) -> npt.NDArray[Any] | None:
        """The constant a tensor holds, or None if it is computed."""
        if not 0 <= table.Buffer() < self.model.BuffersLength():
            raise ValueError(f"buffer {table.Buffer()} does not exist")
        buffer = self.model.Buffers(table.Buffer())
        if buffer.Offset() > 1:
            raise InputError(f"tensor {name!r} is stored outside the model: export a model below 2 GB")
        data = _vector(buffer, "Data")
        dtype = _DTYPES.get(table.Type())
        if not data.size or dtype is None:
            return None
        return np.frombuffer(data.tobytes(), dtype).reshape(shape)

    def activation(self, index: int) -> Tensor:
        """An int8 tensor that is computed, without its batch axis."""
        stored = self.tensor(index)
        title = f"tensor {stored.name!r}"
        if stored.type != tflite.TensorType.INT8:
            kind = _TYPE_NAMES.get(stored.type, f"of unknown type {stored.type}").lower()
            raise InputError(
                f"{title} is {kind}, not int8: quantise the model fully, input and output included"
            )
        if stored.values is not None:
            raise InputError(f"{title} is a constant where an activation is needed: fold it before export")
        if len(stored.shape) < 2 or stored.shape[0] != 1:
            raise InputError(f"{title} has shape {stored.shape}: the first axis must be a batch of 1")
        if stored.scales.size != 1 or stored.zero_points.size > 1:
            raise InputError(f"{title} must have one scale and zero point: quantise activations per tensor")
        zero_point = int(stored.zero_points[0]) if stored.zero_points.size else 0
        tensor = Tensor(stored.name, stored.shape[1:], float(stored.scales[0]), zero_point)
        tensor.check()
        self.tensors[tensor.name] = tensor
        return tensor

    def constant(self, index: int, dtype: type) -> _Stored:
        stored = self.tensor(index)
        if stored.type not in _DTYPES or _DTYPES[stored.type] != np.dtype(dtype):
            kind = _TYPE_NAMES.get(stored.type, f"of unknown type {stored.type}").lower()
            raise InputError(
                f"tensor {stored.name!r} is {kind}, not {np.dtype(dtype).name}: quantise the model to int8"
            )
        if stored.values is None:
            raise InputError(f"tensor {stored.name!r} must be a constant: export the model frozen")
        return stored

    def operation(self, index: int) -> Operation:
        table = self.graph.Operators(index)
        if not 0 <= table.OpcodeIndex() < self.model.OperatorCodesLength():
            raise ValueError(f"operator code {table.OpcodeIndex()} does not exist")
        code = self.model.OperatorCodes(table.OpcodeIndex())
        builtin = _builtin_code(code)
        name = _OPERATOR_NAMES.get(builtin, f"with code {builtin}")
        if builtin == tflite.BuiltinOperator.CUSTOM:
            name = f"CUSTOM {_text(code.CustomCode())!r}"
        if builtin not in _READERS:
            raise InputError(
                f"operator {name} is not supported: replace it by "
                f"{', '.join(_OPERATOR_NAMES[known] for known in _READERS)}"
            )
        inputs = [int(tensor) for tensor in _vector(table, "Inputs")]
        outputs = _vector(table, "Outputs")
        read, options_type, arity = _READERS[builtin]
        if len(outputs) != 1 or not arity[0] <= len(inputs) <= arity[1]:
            raise InputError(
                f"operator {name} has {_plural(len(inputs), 'input')} and "
                f"{_plural(len(outputs), 'output')}: export the model again"
            )
        output = self.activation(int(outputs[0]))
        options = options_type() if options_type else None
        if options is not None:
            if table.BuiltinOptionsType() != getattr(tflite.BuiltinOptions, options_type.__name__):
                raise InputError(f"operator {name} {output.name!r} has no options: export the model again")
            options.Init(table.BuiltinOptions().Bytes, table.BuiltinOptions().Pos)
        return read(_Operator(self, builtin, inputs, output, options))


@dataclass(frozen=True)
class _Operator:
    """One operator of the file while it is read."""

    reader: _Reader
    code: int
    inputs: list[int]
    output: Tensor
    options: Any

    @property
    def source(self) -> Tensor:
        return self.reader.activation(self.inputs[0])

    @property
    def title(self) -> str:
        return f"{_OPERATOR_NAMES[self.code]} {self.output.name!r}"

    def names(self, *sources: Tensor) -> tuple[str, tuple[str, ...], str]:
        """The three fields that every operation starts with."""
        return self.output.name, tuple(source.name for source in sources), self.output.name

    def clamp(self) -> tuple[int, int]:
        code = self.options.FusedActivationFunction()
        name = _ACTIVATION_NAMES.get(code, f"code {code}")
        if name not in ("NONE", "RELU", "RELU6", "RELU_N1_TO_1"):
            raise InputError(f"{self.title} has the fused activation {name}: use RELU or RELU6")
        return activation_range(name, self.output)

    def window(self, size: tuple[int, int]) -> Window:
        """The operator's window, its implicit padding made explicit."""
        options, source = self.options, self.source
        stride = (options.StrideH(), options.StrideW())
        if len(source.shape) != 3 or min(size) < 1 or min(stride) < 1:
            raise InputError(
                f"{self.title} has window {size}, stride {stride} and input shape {source.shape}: it needs "
                "positive sizes and an image"
            )
        if options.Padding() not in (tflite.Padding.SAME, tflite.Padding.VALID):
            raise InputError(f"{self.title} has padding mode {options.Padding()}: use SAME or VALID")
        if options.Padding() == tflite.Padding.VALID:
            return Window.valid(size, stride)
        return Window.same(size, stride, *source.shape[:2])

    def weights(self, rank: int, axis: int) -> _Stored:
        """Constant int8 weights with zero points 0; per-channel scales only along ``axis``."""
        stored = self.reader.constant(self.inputs[1], np.int8)
        title = f"{self.title} has weights {stored.name!r}"
        if len(stored.shape) != rank or 0 in stored.shape:
            raise InputError(f"{title} of shape {stored.shape}: they must have {rank} axes")
        if stored.zero_points.any():
            raise InputError(f"{title} with a zero point that is not 0: quantise weights symmetrically")
        if not (np.isfinite(stored.scales).all() and (stored.scales >= 0).all()):
            raise InputError(f"{title} with a scale that is not finite or negative: quantise the model again")
        if stored.scales.size != 1 and (stored.scales.size, stored.axis) != (stored.shape[axis], axis):
            raise InputError(
                f"{title} with {_plural(stored.scales.size, 'scale')} along axis {stored.axis}: "
                "quantise them per tensor or per output channel"
            )
        return stored

    def bias(self, channels: int) -> npt.NDArray[np.int32]:
        if len(self.inputs) < 3 or self.inputs[2] == -1:
            return np.zeros(channels, np.int32)
        values = self.reader.constant(self.inputs[2], np.int32).values
        assert values is not None
        return values.astype(np.int32)


def _refuse_dilation(operator: _Operator) -> None:
    options = operator.options
    dilation = (options.DilationHFactor(), options.DilationWFactor())
    if dilation != (1, 1):
        raise InputError(f"{operator.title} has dilation {dilation}: only dilation 1 is supported")


def _read_convolution(operator: _Operator) -> Operation:
    _refuse_dilation(operator)
    stored, source = operator.weights(4, 0), operator.source
    assert stored.values is not None
    channels = stored.shape[0]
    return Conv2D(
        *operator.names(source),
        stored.values,
        operator.bias(channels),
        operator.window((stored.shape[1], stored.shape[2])),
        convolution_requantisation(source, stored.scales, operator.output, channels),
        operator.clamp(),
    )


def _read_depthwise(operator: _Operator) -> Operation:
    _refuse_dilation(operator)
    stored, source = operator.weights(4, 3), operator.source
    assert stored.values is not None
    channels = stored.shape[3]
    return DepthwiseConv2D(
        *operator.names(source),
        stored.values.reshape(stored.shape[1:]),
        operator.bias(channels),
        operator.window((stored.shape[1], stored.shape[2])),
        convolution_requantisation(source, stored.scales, operator.output, channels),
        operator.clamp(),
    )


def _read_dense(operator: _Operator) -> Operation:
    if operator.options.WeightsFormat() != tflite.FullyConnectedOptionsWeightsFormat.DEFAULT:
        raise InputError(f"{operator.title} has shuffled weights: export it with the default weights format")
    stored, source = operator.weights(2, 0), operator.source
    assert stored.values is not None
    channels = stored.shape[0]
    bias, clamp = operator.bias(channels), operator.clamp()
    if bias.shape != (channels,):
        raise InputError(f"{operator.title} has a bias of shape {bias.shape}: it must be ({channels},)")
    nothing = Requantisation(np.zeros(channels, np.int32), np.zeros(channels, np.int32))
    dense = Dense(*operator.names(source), stored.values, bias, nothing, clamp)
    bounds = accumulator_bounds(dense, source.zero_point)
    try:
        scale = DenseScale.of(source, stored.scales, operator.output, bounds, clamp).requantisation()
    except InputError as error:
        raise InputError(f"{operator.title}: {error}") from None
    return Dense(*operator.names(source), stored.values, bias, scale, clamp)


def _read_add(operator: _Operator) -> Operation:
    a, b = (operator.reader.activation(index) for index in operator.inputs)
    scale = add_requantisation(a, b, operator.output, Add.left_shift)
    return Add(*operator.names(a, b), scale, operator.clamp())


def _read_pool(operator: _Operator) -> Operation:
    kinds: dict[int, type[AveragePool2D] | type[MaxPool2D]] = {
        tflite.BuiltinOperator.AVERAGE_POOL_2D: AveragePool2D,
        tflite.BuiltinOperator.MAX_POOL_2D: MaxPool2D,
    }
    window = operator.window((operator.options.FilterHeight(), operator.options.FilterWidth()))
    return kinds[operator.code](*operator.names(operator.source), window, operator.clamp())


def _read_mean(operator: _Operator) -> Operation:
    source = operator.source
    stored = operator.reader.constant(operator.inputs[1], np.int32)
    assert stored.values is not None
    rank = len(source.shape) + 1
    axes = {int(axis) + (rank if axis < 0 else 0) for axis in stored.values.reshape(-1)}
    if rank != 4 or axes != {1, 2}:
        raise InputError(
            f"{operator.title} is over axes {sorted(axes)} of {rank}: only the mean over height and "
            "width of an image is supported"
        )
    scale = mean_requantisation(source, operator.output, source.shape[0] * source.shape[1])
    return Mean(*operator.names(source), (0, 1), scale)


def _read_pad(operator: _Operator) -> Operation:
    stored = operator.reader.constant(operator.inputs[1], np.int32)
    assert stored.values is not None
    widths = stored.values
    if widths.shape != (4, 2) or widths[[0, 3]].any():
        raise InputError(f"{operator.title} pads other axes than height and width: pad these only")
    (top, bottom), (left, right) = widths[1:3].tolist()
    return Pad(*operator.names(operator.source), (top, bottom, left, right))


def _read_reshape(operator: _Operator) -> Operation:
    if len(operator.inputs) > 1:
        operator.reader.constant(operator.inputs[1], np.int32)
    return Reshape(*operator.names(operator.source))


def _read_softmax(operator: _Operator) -> Operation:
    beta = float(operator.options.Beta())
    if not 0 < beta < float("inf"):
        raise InputError(f"{operator.title} has beta {beta}: it must be positive")
    return Softmax(*operator.names(operator.source), beta)


def _read_relu(operator: _Operator) -> Operation:
    source, name = operator.source, _OPERATOR_NAMES[operator.code]
    return Relu(
        *operator.names(source), rescaling(source, operator.output), activation_range(name, operator.output)
    )


_Code = tflite.BuiltinOperator
# For each operator: its reader, the type of its options if it needs any, and how many inputs it may have.
_READERS: dict[int, tuple[Callable[[_Operator], Operation], Any, tuple[int, int]]] = {
    _Code.CONV_2D: (_read_convolution, tflite.Conv2DOptions, (2, 3)),
    _Code.DEPTHWISE_CONV_2D: (_read_depthwise, tflite.DepthwiseConv2DOptions, (2, 3)),
    _Code.FULLY_CONNECTED: (_read_dense, tflite.FullyConnectedOptions, (2, 3)),
    _Code.ADD: (_read_add, tflite.AddOptions, (2, 2)),
    _Code.AVERAGE_POOL_2D: (_read_pool, tflite.Pool2DOptions, (1, 1)),
    _Code.MAX_POOL_2D: (_read_pool, tflite.Pool2DOptions, (1, 1)),
    _Code.MEAN: (_read_mean, None, (2, 2)),
    _Code.PAD: (_read_pad, None, (2, 2)),
    _Code.RESHAPE: (_read_reshape, None, (1, 2)),
    _Code.SOFTMAX: (_read_softmax, tflite.SoftmaxOptions, (1, 1)),
    _Code.RELU: (_read_relu, None, (1, 1)),
    _Code.RELU6: (_read_relu, None, (1, 1)),
    _Code.RELU_N1_TO_1: (_read_relu, None, (1, 1)),
}
