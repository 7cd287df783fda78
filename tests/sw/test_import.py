"""What `load_tflite` reads, and how it refuses everything else."""

import dataclasses
import itertools

import numpy as np
import pytest
import tflite
from kolmogate import tflite_export
from kolmogate.errors import InputError
from kolmogate.network import (
    Add,
    Conv2D,
    Dense,
    DepthwiseConv2D,
    Mean,
    Network,
    Pad,
    Reshape,
    Softmax,
    Tensor,
    Window,
)
from kolmogate.quantisation import add_requantisation, convolution_requantisation, mean_requantisation
from kolmogate.random_network import random_network
from kolmogate.tflite_export import save_tflite
from kolmogate.tflite_import import load_tflite


def small_network():
    """One of each operator that carries constants: PAD, CONV_2D, DEPTHWISE_CONV_2D, ADD, MEAN, dense."""
    rng = np.random.default_rng(0)
    image, deep = Tensor("x", (5, 4, 1), 0.05, 3), Tensor("deep", (5, 4, 2), 0.05, 3)
    tensors = [image, Tensor("padded", (6, 4, 1), 0.05, 3), deep]
    tensors += [Tensor(name, (5, 4, 2), 0.1, -2) for name in ("depth", "sum")]
    tensors += [Tensor("mean", (2,), 0.1, 0), Tensor("y", (3,), 0.2, 1), Tensor("p", (3,), 1 / 256, -128)]
    named = {tensor.name: tensor for tensor in tensors}
    full = (-128, 127)

    w_conv, b_conv = rng.integers(-127, 128, (2, 2, 1, 1), np.int8), np.array([5, -5], np.int32)
    w_depth, b_depth = rng.integers(-127, 128, (3, 3, 2), np.int8), np.array([1, -1], np.int32)
    w_dense, b_dense = rng.integers(-127, 128, (3, 2), np.int8), np.array([7, 8, 9], np.int32)
    scales = np.array([0.01, 0.02], np.float32)
    depth_scale = convolution_requantisation(deep, scales, named["depth"], 2)
    dense_scale = convolution_requantisation(named["mean"], [0.0123], named["y"], 3)
    operations = (
        Pad("padded", ("x",), "padded", (1, 0, 0, 0)),
        Conv2D(
            "deep",
            ("padded",),
            "deep",
            w_conv,
            b_conv,
            Window.valid((2, 1), (1, 1)),
            convolution_requantisation(named["padded"], scales, deep, 2),
            full,
        ),
        DepthwiseConv2D(
            "depth",
            ("deep",),
            "depth",
            w_depth,
            b_depth,
            Window.same((3, 3), (1, 1), 5, 4),
            depth_scale,
            full,
        ),
        Add(
            "sum", ("deep", "depth"), "sum", add_requantisation(deep, named["depth"], named["sum"], 20), full
        ),
        Mean("mean", ("sum",), "mean", (0, 1), mean_requantisation(named["sum"], named["mean"], 20)),
        Dense("y", ("mean",), "y", w_dense, b_dense, dense_scale, full),
        Softmax("p", ("y",), "p", 1.0),
    )
    network = Network(named, operations, "x", "p")
    network.check()
    return network


@pytest.fixture
def saved(tmp_path):
    path = tmp_path / "small.tflite"
    save_tflite(small_network(), path)
    return path


@pytest.fixture
def spoiled(tmp_path, monkeypatch):
    """``spoiled(kind, at, **fields)``: the small network's file with fields of one table replaced.

    ``at`` counts the tables of that kind in the order they are written: tensors are x, padded, deep, depth,
    sum, mean, y, p, then constants operator by operator. A field that is callable is written by it.
    """

    def build(kind, at, **fields):
        write, seen = tflite_export._Writer._table, itertools.count()

        def table(self, name, **values):
            if name == kind and next(seen) == at:
                values |= {key: value(self) if callable(value) else value for key, value in fields.items()}
            return write(self, name, **values)

        with monkeypatch.context() as patch:
            patch.setattr(tflite_export._Writer, "_table", table)
            save_tflite(small_network(), tmp_path / "spoiled.tflite")
        return tmp_path / "spoiled.tflite"

    return build


def vector(*values, dtype=np.int32):
    return lambda writer: writer._numbers(values, dtype)


def floats(*values):
    return vector(*values, dtype=np.float32)


def text(value):
    return lambda writer: writer.builder.CreateString(value)


def test_keyword_network(models_folder):
    network = load_tflite(models_folder / "kws_ref_model.tflite")
    assert network.name == "kws_ref_model"
    assert [operation.kind for operation in network.operations] == [
        *["CONV_2D", "DEPTHWISE_CONV_2D"] * 4,
        *["CONV_2D", "AVERAGE_POOL_2D", "RESHAPE", "FULLY_CONNECTED", "SOFTMAX"],
    ]
    first, *_, dense, softmax = network.operations
    assert first.weights.shape == (64, 10, 4, 1)
    assert first.window == Window((10, 4), (2, 2), (4, 5, 1, 1))
    assert dense.weights.shape == (12, 64)
    assert softmax.beta == 1.0
    assert network.tensors[network.input].shape == (49, 10, 1)
    assert network.tensors[network.output] == Tensor(network.output, (12,), 1 / 256, -128)
    weights = sum(getattr(operation, "weights", np.zeros(0)).size for operation in network.operations)
    assert weights == 22_016


def test_missing_bias_is_zeros(spoiled):
    network = load_tflite(spoiled("Operator", 1, Inputs=vector(1, 9)))
    assert network.operations[1].bias.tolist() == [0, 0]
    network = load_tflite(spoiled("Operator", 1, Inputs=vector(1, 9, -1)))
    assert network.operations[1].bias.tolist() == [0, 0]


def test_batch_size_in_the_signature_may_vary(spoiled):
    load_tflite(spoiled("Tensor", 0, ShapeSignature=vector(-1, 5, 4, 1)))


def test_repeated_and_missing_tensor_names_are_told_apart(spoiled):
    network = load_tflite(spoiled("Tensor", 3, Name=text("deep")))
    assert list(network.tensors) == ["x", "p", "padded", "deep", "deep #3", "sum", "mean", "y"]
    assert load_tflite(spoiled("Tensor", 0, Name=0)).input == "tensor 0"


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "is empty: give a .tflite file"),
        (b"\x00" * 7, "is not a TFLite file"),
        (b"\x89PNG" * 9, "is not a TFLite file"),
        (b"\x14\x00\x00\x00TFL3", "is damaged or cut short"),
    ],
)
def test_files_that_are_no_model(tmp_path, content, reason):
    path = tmp_path / "x.tflite"
    path.write_bytes(content)
    with pytest.raises(InputError, match=reason) as caught:
        load_tflite(path)
    assert str(caught.value).startswith(str(path))


def test_files_that_cannot_be_read(tmp_path):
    with pytest.raises(InputError, match=r"none\.tflite cannot be read \(No such file or directory\)"):
        load_tflite(tmp_path / "none.tflite")
    with pytest.raises(InputError, match=r"cannot be read \(Is a directory\)"):
        load_tflite(tmp_path)


TYPES = tflite.TensorType


@pytest.mark.parametrize(
    ("kind", "at", "fields", "reason"),
    [
        ("Tensor", 0, {"Type": TYPES.FLOAT32}, "tensor 'x' is float32, not int8: quantise the model fully"),
        ("Tensor", 0, {"Type": TYPES.UINT8}, "tensor 'x' is uint8, not int8"),
        ("Tensor", 3, {"Type": TYPES.INT16}, "tensor 'depth' is int16, not int8"),
        ("Tensor", 9, {"Type": TYPES.INT4}, "tensor 'deep/weights' is int4, not int8"),
        ("Tensor", 10, {"Type": TYPES.INT64}, "tensor 'deep/bias' is int64, not int32"),
        ("Tensor", 0, {"Type": 99}, "tensor 'x' is of unknown type 99, not int8"),
        ("Tensor", 0, {"Shape": vector(2, 5, 4, 1)}, r"'x' has shape \(2, 5, 4, 1\): .* batch of 1"),
        ("Tensor", 0, {"Shape": vector(1)}, r"'x' has shape \(1,\): the first axis must be a batch of 1"),
        ("Tensor", 3, {"Shape": vector(1, 5, 9, 2)}, r"'depth' must have shape \(5, 4, 2\), not \(5, 9, 2\)"),
        ("Tensor", 9, {"Shape": vector(2, 1, 2, 1)}, r"'deep' must have shape \(6, 3, 2\), not \(5, 4, 2\)"),
        ("Tensor", 9, {"Shape": vector(4, 1)}, r"weights 'deep/weights' of shape \(4, 1\): .* 4 axes"),
        ("Tensor", 14, {"Shape": vector(2, 3)}, r"'y' has a bias of shape \(3,\): it must be \(2,\)"),
        ("Tensor", 15, {"Shape": vector(1, 3)}, r"'y' has a bias of shape \(1, 3\): it must be \(3,\)"),
        (
            "Tensor",
            10,
            {"Shape": vector(1, 2)},
            r"'deep': bias must be int32 of shape \(2,\), not .*\(1, 2\)",
        ),
        ("Tensor", 9, {"Shape": vector(2, 2, 1, 9)}, "is damaged or cut short"),
        ("Tensor", 0, {"ShapeSignature": vector(1, -1, 4, 1)}, "tensor 'x' has a variable shape"),
        ("Tensor", 0, {"IsVariable": True}, "tensor 'x' is a variable"),
        (
            "Tensor",
            2,
            {"Buffer": 2, "Shape": vector(1, 4)},
            "'deep' is a constant where an activation is needed",
        ),
        ("Tensor", 9, {"Buffer": 0}, "tensor 'deep/weights' must be a constant"),
        ("Tensor", 9, {"Buffer": 999}, "is damaged or cut short"),
        ("Tensor", 9, {"Sparsity": lambda writer: writer._table("SparsityParameters")}, "weights' is sparse"),
        (
            "QuantizationParameters",
            8,
            {"ZeroPoint": vector(0, 1, dtype=np.int64)},
            "zero point that is not 0",
        ),
        ("QuantizationParameters", 0, {"ZeroPoint": vector(128, dtype=np.int64)}, "int8 zero point, not 128"),
        ("QuantizationParameters", 0, {"Scale": floats(0)}, "positive finite scale, not 0.0"),
        ("QuantizationParameters", 0, {"Scale": floats(np.nan)}, "positive finite scale, not nan"),
        ("QuantizationParameters", 4, {"Scale": floats(0)}, "tensor 'sum' must have a positive finite scale"),
        ("QuantizationParameters", 8, {"Scale": floats(np.nan, 1)}, "a scale that is not finite or negative"),
        ("QuantizationParameters", 0, {"Scale": floats(0.1, 0.2)}, "must have one scale and zero point"),
        ("QuantizationParameters", 8, {"Scale": floats(-1, 1)}, "a scale that is not finite or negative"),
        ("QuantizationParameters", 8, {"Scale": floats(1, 1, 1)}, "with 3 scales along axis 0"),
        ("QuantizationParameters", 8, {"Scale": floats(1e30, 1)}, "scale shifts must be -31 to 30"),
        ("QuantizationParameters", 8, {"Scale": floats(1e7, 1)}, "channel 0 can overflow 32 bits"),
        ("QuantizationParameters", 10, {"QuantizedDimension": 0}, "2 scales along axis 0: quantise them per"),
        ("QuantizationParameters", 0, {"DetailsType": 1}, "tensor 'x' has a custom quantisation"),
        ("QuantizationParameters", 2, {"Scale": floats(1e-9)}, "too far apart|overflow 32 bits"),
        (
            "OperatorCode",
            0,
            {"BuiltinCode": 28, "DeprecatedBuiltinCode": 28},
            "operator TANH is not supported",
        ),
        (
            "OperatorCode",
            0,
            {"BuiltinCode": 60, "DeprecatedBuiltinCode": 60},
            "operator PADV2 is not supported",
        ),
        ("OperatorCode", 0, {"BuiltinCode": 150, "DeprecatedBuiltinCode": 127}, "operator GELU is not"),
        ("OperatorCode", 0, {"BuiltinCode": 9999}, "operator with code 9999 is not supported"),
        ("OperatorCode", 0, {"BuiltinCode": 32, "CustomCode": text("Mine")}, "operator CUSTOM 'Mine' is not"),
        (
            "Conv2DOptions",
            0,
            {"DilationHFactor": 2},
            r"CONV_2D 'deep' has dilation \(2, 1\): only dilation 1",
        ),
        (
            "DepthwiseConv2DOptions",
            0,
            {"DilationWFactor": 3},
            r"DEPTHWISE_CONV_2D 'depth' has dilation \(1, 3\)",
        ),
        ("Conv2DOptions", 0, {"FusedActivationFunction": 4}, "CONV_2D 'deep' has the fused activation TANH"),
        ("Conv2DOptions", 0, {"Padding": 2}, "CONV_2D 'deep' has padding mode 2: use SAME or VALID"),
        ("Conv2DOptions", 0, {"StrideH": 0}, r"CONV_2D 'deep' has window \(2, 1\), stride \(0, 1\)"),
        ("FullyConnectedOptions", 0, {"WeightsFormat": 1}, "FULLY_CONNECTED 'y' has shuffled weights"),
        ("SoftmaxOptions", 0, {"Beta": -1.0}, "SOFTMAX 'p' has beta -1.0: it must be positive"),
        ("Operator", 1, {"BuiltinOptionsType": 0}, "CONV_2D 'deep' has no options"),
        ("Operator", 4, {"Inputs": vector(4)}, "operator MEAN has 1 input and 1 output"),
        (
            "Operator",
            5,
            {"Inputs": vector(3, 14, 15)},
            r"FULLY_CONNECTED 'y': weights must be int8 of shape \(3, 40\)",
        ),
        ("Operator", 0, {"Inputs": vector(77, 8)}, "is damaged or cut short"),
        ("Operator", 0, {"Outputs": vector(1, 2)}, "operator PAD has 2 inputs and 2 outputs"),
        ("Operator", 6, {"Outputs": vector(6)}, "SOFTMAX 'y' writes tensor 'y' again"),
        ("Operator", 2, {"Inputs": vector(4, 11, 12)}, "DEPTHWISE_CONV_2D 'depth' reads tensor 'sum' before"),
        ("Operator", 0, {"OpcodeIndex": 99}, "is damaged or cut short"),
        ("SubGraph", 0, {"Inputs": vector(0, 1)}, "has 2 inputs, not 1: export one input only"),
        ("SubGraph", 0, {"Outputs": vector()}, "has 0 outputs, not 1: export one output only"),
        ("SubGraph", 0, {"Inputs": vector(6)}, "PAD 'padded' reads tensor 'x' before it is written"),
        ("SubGraph", 0, {"Outputs": vector(8)}, "tensor 'padded/paddings' is int32, not int8"),
        ("Model", 0, {"Version": 2}, "has schema version 2, not 3"),
        ("Model", 0, {"Subgraphs": lambda writer: writer._offsets([])}, "has 0 subgraphs, not 1"),
        ("Buffer", 2, {"Offset": 64}, "tensor 'deep/weights' is stored outside the model"),
    ],
)
def test_refusals_name_what_is_wrong(spoiled, kind, at, fields, reason):
    with pytest.raises(InputError, match=reason):
        load_tflite(spoiled(kind, at, **fields))


def test_broadcasting_add_is_refused(tmp_path, monkeypatch):
    narrow = Tensor("x", (5, 4, 2), 0.05, 3), Tensor("row", (40,), 0.05, 3)
    output = Tensor("sum", (5, 4, 2), 0.1, -2)
    scale = add_requantisation(*narrow, output, 20)
    operations = (Reshape("row", ("x",), "row"), Add("sum", ("x", "row"), "sum", scale, (-128, 127)))
    network = Network({tensor.name: tensor for tensor in (*narrow, output)}, operations, "x", "sum")
    with monkeypatch.context() as patch:
        patch.setattr(Network, "check", lambda self: None)
        save_tflite(network, tmp_path / "add.tflite")
    with pytest.raises(
        InputError, match=r"ADD 'sum': inputs must have one shape, .*broadcasting is not supported"
    ):
        load_tflite(tmp_path / "add.tflite")


@pytest.mark.parametrize(
    ("constant", "values", "reason"),
    [
        ("axes", [3], r"MEAN 'mean' is over axes \[3\] of 4: only the mean over height and width"),
        ("axes", [-2], r"MEAN 'mean' is over axes \[2\] of 4"),
        ("axes", [0, 1, 2], r"MEAN 'mean' is over axes \[0, 1, 2\] of 4"),
        ("paddings", [[0, 0], [1, 0], [0, 0], [0, 1]], "PAD 'padded' pads other axes than height and width"),
        ("paddings", [[1, 0]], "PAD 'padded' pads other axes than height and width"),
        ("paddings", [[0, 0], [-1, 2], [0, 0], [0, 0]], "PAD 'padded': padding must not be negative"),
    ],
)
def test_axes_that_cannot_be_run_are_refused(tmp_path, monkeypatch, constant, values, reason):
    write = tflite_export._Writer._constant
    monkeypatch.setattr(
        tflite_export._Writer,
        "_constant",
        lambda self, name, given: write(self, name, values if name.endswith(constant) else given),
    )
    save_tflite(small_network(), tmp_path / "axes.tflite")
    with pytest.raises(InputError, match=reason):
        load_tflite(tmp_path / "axes.tflite")


def test_every_truncation_is_refused(saved):
    data = saved.read_bytes()
    for length in range(0, len(data), 7):
        saved.write_bytes(data[:length])
        with pytest.raises(InputError):
            load_tflite(saved)


def test_mutated_files_load_or_are_refused(saved):
    rng = np.random.default_rng(5)
    data = saved.read_bytes()
    outcomes = {"loaded": 0, "refused": 0}
    for _ in range(300):
        damaged = bytearray(data)
        for position in rng.integers(0, len(data), rng.integers(1, 5)):
            damaged[position] = rng.choice([0, 1, 0x7F, 0x80, 0xFF, int(rng.integers(256))])
        if rng.random() < 0.2:
            damaged = damaged[: rng.integers(len(damaged))]
        saved.write_bytes(damaged)
        try:
            load_tflite(saved).check()
            outcomes["loaded"] += 1
        except InputError:
            outcomes["refused"] += 1
    assert min(outcomes.values()) > 10, outcomes


def test_random_networks_are_read_as_they_were(tmp_path):
    for seed in range(1000, 1040):
        network = random_network(seed)
        save_tflite(network, tmp_path / "random.tflite")
        again = load_tflite(tmp_path / "random.tflite")
        assert again.tensors == network.tensors
        assert (again.input, again.output, again.name) == (network.input, network.output, "random")
        for old, new in zip(network.operations, again.operations, strict=True):
            assert type(old) is type(new)
            for field in dataclasses.fields(old):
                a, b = getattr(old, field.name), getattr(new, field.name)
                if field.name == "requantisation":
                    assert a.multiplier.tolist() == b.multiplier.tolist()
                    assert a.shift.tolist() == b.shift.tolist()
                elif isinstance(a, np.ndarray):
                    np.testing.assert_array_equal(a, b)
                else:
                    assert a == b
