"""Writing a network as an int8 TFLite file, for trained networks and for comparison with the reference.

A file stores float32 scales where a `Network` has fixed-point ones, so scales are searched for from which
import, and the reference, derive the same arithmetic. A network for which there are none is refused.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import flatbuffers
import numpy as np
import numpy.typing as npt
import tflite

from .errors import InputError
from .files import write_whole
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
    ACTIVATIONS,
    DenseScale,
    activation_range,
    add_requantisation,
    convolution_requantisation,
    mean_requantisation,
    rescaling,
)

__all__ = ["save_tflite"]

BoolArray = npt.NDArray[np.bool_]
Float32Array = npt.NDArray[np.float32]

# Versions of the operators since which they take int8 tensors; 1 where it is not listed.
_VERSIONS = {
    "CONV_2D": 3,
    "DEPTHWISE_CONV_2D": 3,
    "FULLY_CONNECTED": 4,
    "ADD": 2,
    "AVERAGE_POOL_2D": 2,
    "MAX_POOL_2D": 2,
    "MEAN": 2,
    "PAD": 2,
    "SOFTMAX": 2,
    "RELU": 2,
    "RELU6": 2,
}


def save_tflite(network: Network, path: str | Path) -> None:
    """Write ``network`` to ``path``, whole or not at all.

    Raises `InputError` if the network breaks a rule of `Network.check`, if TFLite cannot express it (a
    padding, clamp or scale), or if the file cannot be written.
    """
    network.check()
    write_whole(path, _Writer(network).file())


@dataclass
class _Operator:
    """An operator of the file: code, tensors by index, and its options table if it has one."""

    name: str
    inputs: list[int]
    output: int
    options: str = ""
    fields: dict[str, Any] = field(default_factory=dict)


class _Writer:
    """Collects tensors and operators, then writes the file from the inside out."""

    def __init__(self, network: Network) -> None:
        self.network = network
        self.builder = flatbuffers.Builder(1024)
        self.tensors: list[int] = []
        # Buffer 0 is the empty one, by convention, for tensors that are computed.
        self.buffers = [self._table("Buffer")]
        self.indices = {
            tensor.name: self._activation(tensor)
            for tensor in network.tensors.values()
            if tensor.name in self._used(network)
        }
        self.operators = [self._operator(operation) for operation in network.operations]

    @staticmethod
    def _used(network: Network) -> set[str]:
        return {network.input, *(operation.output for operation in network.operations)}

    def file(self) -> bytes:
        names = sorted({operator.name for operator in self.operators})
        codes = [
            self._table(
                "OperatorCode",
                DeprecatedBuiltinCode=getattr(tflite.BuiltinOperator, name),
                BuiltinCode=getattr(tflite.BuiltinOperator, name),
                Version=_VERSIONS.get(name, 1),
            )
            for name in names
        ]
        operators = [
            self._write_operator(operator, names.index(operator.name)) for operator in self.operators
        ]
        network = self.network
        graph = self._table(
            "SubGraph",
            Tensors=self._offsets(self.tensors),
            Inputs=self._numbers([self.indices[network.input]]),
            Outputs=self._numbers([self.indices[network.output]]),
            Operators=self._offsets(operators),
            Name=self.builder.CreateString(network.name),
        )
        model = self._table(
            "Model",
            Version=3,
            OperatorCodes=self._offsets(codes),
            Subgraphs=self._offsets([graph]),
            Description=self.builder.CreateString("Kolmogate"),
            Buffers=self._offsets(self.buffers),
        )
        self.builder.Finish(model, file_identifier=b"TFL3")
        return bytes(self.builder.Output())

    def _table(self, kind: str, **values: Any) -> int:
        """Write a table of the schema; offsets among ``values`` must be written already."""
        getattr(tflite, f"{kind}Start")(self.builder)
        for name, value in values.items():
            getattr(tflite, f"{kind}Add{name}")(self.builder, value)
        end: int = getattr(tflite, f"{kind}End")(self.builder)
        return end

    def _numbers(self, values: npt.ArrayLike, dtype: npt.DTypeLike = np.int32) -> int:
        offset: int = self.builder.CreateNumpyVector(np.asarray(values, dtype).reshape(-1))
        return offset

    def _offsets(self, offsets: list[int]) -> int:
        self.builder.StartVector(4, len(offsets), 4)
        for offset in reversed(offsets):
            self.builder.PrependUOffsetTRelative(offset)
        end: int = self.builder.EndVector()
        return end

    def _buffer(self, values: npt.NDArray[Any]) -> int:
        """Index of a new buffer; its bytes lie on a multiple of 16, as the schema demands."""
        data = values.astype(values.dtype.newbyteorder("<")).tobytes()
        builder = self.builder
        builder.StartVector(1, len(data), 16)
        builder.head = builder.Head() - len(data)
        builder.Bytes[builder.Head() : builder.Head() + len(data)] = data
        self.buffers.append(self._table("Buffer", Data=builder.EndVector()))
        return len(self.buffers) - 1

    def _tensor(
        self,
        name: str,
        shape: tuple[int, ...],
        kind: int,
        buffer: int,
        scales: npt.ArrayLike = (),
        zero_points: npt.ArrayLike = (),
        axis: int = 0,
    ) -> int:
        values = {
            "Shape": self._numbers(shape),
            "Type": kind,
            "Buffer": buffer,
            "Name": self.builder.CreateString(name),
        }
        if np.size(scales):
            values["Quantization"] = self._table(
                "QuantizationParameters",
                Scale=self._numbers(scales, np.float32),
                ZeroPoint=self._numbers(zero_points, np.int64),
                QuantizedDimension=axis,
            )
        self.tensors.append(self._table("Tensor", **values))
        return len(self.tensors) - 1

    def _activation(self, tensor: Tensor) -> int:
        return self._tensor(
            tensor.name, (1, *tensor.shape), tflite.TensorType.INT8, 0, [tensor.scale], [tensor.zero_point]
        )

    def _constant(self, name: str, values: npt.ArrayLike) -> int:
        """Shapes, axes and paddings: int32 without a scale."""
        array = np.asarray(values, np.int32)
        return self._tensor(name, array.shape, tflite.TensorType.INT32, self._buffer(array))

    def _write_operator(self, operator: _Operator, code: int) -> int:
        values: dict[str, Any] = {
            "OpcodeIndex": code,
            "Inputs": self._numbers(operator.inputs),
            "Outputs": self._numbers([operator.output]),
        }
        if operator.options:
            values["BuiltinOptionsType"] = getattr(tflite.BuiltinOptions, operator.options)
            values["BuiltinOptions"] = self._table(operator.options, **operator.fields)
        return self._table("Operator", **values)

    def _operator(self, operation: Operation) -> _Operator:
        try:
            return self._translate(operation)
        except InputError as error:
            raise InputError(f"{operation.kind} {operation.name!r} cannot be written: {error}") from None

    def _translate(self, operation: Operation) -> _Operator:
        inputs = [self.network.tensors[name] for name in operation.inputs]
        source, output = inputs[0], self.network.tensors[operation.output]
        result = _Operator(
            operation.kind, [self.indices[name] for name in operation.inputs], self.indices[operation.output]
        )
        match operation:
            case Conv2D() | DepthwiseConv2D() | Dense():
                result.inputs += self._weights(operation, source, output)
                result.fields = {"FusedActivationFunction": _activation(operation.clamp, output)}
                if isinstance(operation, Dense):
                    result.options = "FullyConnectedOptions"
                    result.fields["KeepNumDims"] = len(output.shape) > 1
                else:
                    result.fields |= _window(operation.window, source)
                    result.options = "Conv2DOptions"
                    if isinstance(operation, DepthwiseConv2D):
                        result.options = "DepthwiseConv2DOptions"
                        result.fields["DepthMultiplier"] = output.shape[-1] // source.shape[-1]
            case AveragePool2D() | MaxPool2D():
                height, width = operation.window.size
                result.options = "Pool2DOptions"
                result.fields = _window(operation.window, source) | {
                    "FilterHeight": height,
                    "FilterWidth": width,
                    "FusedActivationFunction": _activation(operation.clamp, output),
                }
            case Add():
                expected = add_requantisation(inputs[0], inputs[1], output, operation.left_shift)
                _same_scales(operation.requantisation, expected)
                result.options = "AddOptions"
                result.fields = {"FusedActivationFunction": _activation(operation.clamp, output)}
            case Mean():
                expected = mean_requantisation(source, output, source.shape[0] * source.shape[1])
                _same_scales(operation.requantisation, expected)
                axes = [axis + 1 for axis in operation.axes]
                result.inputs.append(self._constant(f"{operation.name}/axes", axes))
                result.options, result.fields = "ReducerOptions", {"KeepDims": len(output.shape) > 1}
            case Pad():
                top, bottom, left, right = operation.padding
                widths = [[0, 0], [top, bottom], [left, right], [0, 0]]
                result.inputs.append(self._constant(f"{operation.name}/paddings", widths))
                result.options = "PadOptions"
            case Reshape():
                result.inputs.append(self._constant(f"{operation.name}/shape", [1, *output.shape]))
            case Softmax():
                result.options, result.fields = "SoftmaxOptions", {"Beta": operation.beta}
            case Relu():
                _same_scales(operation.requantisation, rescaling(source, output))
                names = [name for name in ACTIVATIONS if activation_range(name, output) == operation.clamp]
                names = [name for name in names if name != "NONE"]
                if not names:
                    raise InputError(f"no activation function has the range {operation.clamp}")
                result.name = names[0]
            case _:
                raise InputError("TFLite files of this version do not hold it")
        return result

    def _weights(
        self, operation: Conv2D | DepthwiseConv2D | Dense, source: Tensor, output: Tensor
    ) -> list[int]:
        """Weights and bias of an operation, with the scales that give its requantisation."""
        scales = _weight_scales(operation, source, output)
        weights, axis = operation.weights, 0
        if isinstance(operation, DepthwiseConv2D):
            weights, axis = weights[None], 3
        bias_scales = np.float32(source.scale) * scales
        zeros = np.zeros(scales.size, np.int64)
        kinds = tflite.TensorType
        return [
            self._tensor(
                f"{operation.name}/weights",
                weights.shape,
                kinds.INT8,
                self._buffer(weights),
                scales,
                zeros,
                axis,
            ),
            self._tensor(
                f"{operation.name}/bias",
                operation.bias.shape,
                kinds.INT32,
                self._buffer(operation.bias),
                bias_scales,
                zeros,
            ),
        ]


def _activation(clamp: tuple[int, int], output: Tensor) -> int:
    for name in ACTIVATIONS:
        if activation_range(name, output) == clamp:
            code: int = getattr(tflite.ActivationFunctionType, name)
            return code
    raise InputError(f"no fused activation has the range {clamp} in the output's scale")


def _window(window: Window, source: Tensor) -> dict[str, int]:
    """Fields that convolutions and pools share."""
    height, width, _ = source.shape
    if window == Window.valid(window.size, window.stride):
        padding = tflite.Padding.VALID
    elif window == Window.same(window.size, window.stride, height, width):
        padding = tflite.Padding.SAME
    else:
        raise InputError(f"padding {window.padding} is neither SAME nor VALID: put a PAD before it")
    return {"Padding": padding, "StrideH": window.stride[0], "StrideW": window.stride[1]}


def _same_scales(given: Requantisation, expected: Requantisation) -> None:
    if not (_equal_channels(given, expected)).all():
        raise InputError("its multipliers are not those of its tensors' scales")


def _equal_channels(a: Requantisation, b: Requantisation) -> BoolArray:
    result: BoolArray = (a.multiplier == b.multiplier) & (a.shift == b.shift)
    return result


def _weight_scales(
    operation: Conv2D | DepthwiseConv2D | Dense, source: Tensor, output: Tensor
) -> Float32Array:
    """float32 weight scales, one or one a channel, that give the operation's requantisation."""
    given = operation.requantisation
    channels = given.multiplier.size
    gives: Callable[[Float32Array], BoolArray]
    if isinstance(operation, Dense):
        bounds, clamp = accumulator_bounds(operation, source.zero_point), operation.clamp

        def gives(scales: Float32Array) -> BoolArray:
            return DenseScale.of(source, scales, output, bounds, clamp).equals(given)
    else:

        def gives(scales: Float32Array) -> BoolArray:
            return _equal_channels(convolution_requantisation(source, scales, output, channels), given)

    # float32 values are much further apart than multipliers: a scale that was rounded to its multiplier is
    # the nearest float32 to that multiplier's real value. A dense multiplier that was moved to be exact may
    # be some float32 values away.
    real = np.ldexp(given.multiplier.astype(np.float64), given.shift - 31)
    nearest = (real * output.scale / source.scale).astype(np.float32)
    scales, found = nearest.copy(), np.zeros(channels, bool)
    for step in sorted(range(-8, 9), key=abs):
        candidate = np.maximum(nearest.view(np.int32) + step, 0).astype(np.int32).view(np.float32)
        match = ~found & gives(candidate)
        scales[match], found = candidate[match], found | match
        if found.all():
            return scales[:1] if (scales == scales[0]).all() else scales
    channel = int(np.flatnonzero(~found)[0])
    raise InputError(
        f"no float32 weight scale gives multiplier {given.multiplier[channel]} and shift "
        f"{given.shift[channel]} of channel {channel}"
    )
