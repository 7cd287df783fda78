"""The cycle model by itself; `tests/sim` compares it with the RTL."""

import dataclasses
import time

import numpy as np
import pytest
from kolmogate.compiler import compile
from kolmogate.config import CONFIGURATIONS, MachineConfig, configuration
from kolmogate.cycles import cycles
from kolmogate.errors import InputError
from kolmogate.image import Image, Section
from kolmogate.isa import DESCRIPTOR, INSTRUCTION, P0, Opcode, store_descriptor, window_taps
from kolmogate.network import Add, AveragePool2D, Conv2D, Dense, DepthwiseConv2D, MaxPool2D
from kolmogate.random_network import random_network
from kolmogate.tflite_import import load_tflite

# One batch a position, rows no power of two, a tiny column buffer.
CORNER = MachineConfig("corner", 3, 8, 8, 32, 64 << 10, 1, 256, 1_000_000)
KINDS = (Conv2D, DepthwiseConv2D, Dense, Add, AveragePool2D, MaxPool2D)


@pytest.mark.parametrize("config", [*CONFIGURATIONS.values(), CORNER], ids=lambda config: config.name)
def test_the_split_is_whole(config):
    """Its parts are never negative, and a tap a cycle is what the descriptors ask for."""
    kinds = KINDS if config.residual_adder else [kind for kind in KINDS if kind not in (Add, MaxPool2D)]
    for seed in range(20):
        image = compile(random_network(seed, kinds), config)
        arrays = [fields for fields in image.descriptors() if fields["opcode"] == Opcode.ARRAY]
        for layer, fields, report in zip(cycles(image), arrays, image.layers, strict=True):
            tiles = -(-fields["x_count"] * fields["y_count"] // config.rows)
            groups = -(-fields["channels"] // config.columns)
            assert layer.compute == groups * tiles * window_taps(fields)
            parts = layer.compute, layer.drain, layer.decode, layer.memory, layer.other
            assert min(parts) >= 0
            assert sum(parts) == layer.total
            assert layer.utilisation == pytest.approx(
                report.live_macs / (layer.total * config.macs), abs=1e-4
            )


def test_a_long_inference_is_played_in_parts(image, monkeypatch):
    whole = cycles(image)
    monkeypatch.setattr("kolmogate.cycles._CYCLES_A_CALL", 7)
    assert cycles(image) == whole


def replaced(image: Image, name: str, data: bytes) -> Image:
    section = Section(image.sections[name].address, data.ljust(len(image.sections[name].data), b"\0"))
    return dataclasses.replace(image, sections={**image.sections, name: section})


@pytest.fixture(scope="module")
def image() -> Image:
    return compile(random_network(1, kinds=[Conv2D], length=2), configuration("up5k"))


def test_weights_that_never_come(image):
    end = INSTRUCTION.pack(op=P0.END).to_bytes(2, "little")
    with pytest.raises(InputError, match=r"never end .* fewer rows"):
        cycles(replaced(image, "code", end))


def test_a_filter_deeper_than_the_buffer(image):
    shallow = dataclasses.replace(image.config, column_buffer_depth=1)
    with pytest.raises(InputError, match="deeper than the column buffer"):
        cycles(dataclasses.replace(image, config=shallow))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"opcode": 6}, "no descriptor opcode 6"),
        ({"opcode": Opcode.ARRAY}, "counts nothing"),
        (
            {"opcode": Opcode.ARRAY}
            | dict.fromkeys(("x_count", "y_count", "outer_count", "inner_count", "run", "channels"), 999),
            "no sensible image",
        ),
    ],
)
def test_descriptors_without_sense(image, fields, message):
    size = DESCRIPTOR.size(image.config.columns)
    with pytest.raises(InputError, match=message):
        cycles(replaced(image, "descriptors", DESCRIPTOR.pack(**fields).to_bytes(size, "little")))


def test_layers_without_descriptors(image):
    with pytest.raises(InputError, match="2 layers have descriptors, 1 are described"):
        cycles(dataclasses.replace(image, layers=image.layers[:1]))


def test_a_residual_addition_without_an_adder(image):
    bare = dataclasses.replace(image, config=dataclasses.replace(image.config, residual_adder=False))
    record = store_descriptor({"opcode": Opcode.RESIDUAL}, image.config.columns)
    with pytest.raises(InputError, match="no residual adder"):
        cycles(replaced(bare, "descriptors", record))


def test_descriptors_without_end(image):
    data = image.sections["descriptors"].data
    section = Section(image.sections["descriptors"].address, data[: -image.config.columns])
    with pytest.raises(InputError, match="no END"):
        cycles(dataclasses.replace(image, sections={**image.sections, "descriptors": section}))


def test_the_model_is_compiled(models_folder):
    """A cycle takes it as long as some 15 steps of a loop in Python, in the same run; as Python it would take
    hundreds."""
    network = load_tflite(models_folder / "pretrainedResnet_quant.tflite")
    image = compile(network, configuration("up5k"), objective="fastest")
    ratios = []
    for _ in range(4):
        start = time.process_time()
        for _ in range(5_000_000):
            pass
        middle = time.process_time()
        total = sum(layer.total for layer in cycles(image))
        ratios.append((time.process_time() - middle) / total / ((middle - start) / 5_000_000))
    assert min(ratios) < 40


def test_a_second_scratchpad_port_saves_cycles():
    one = dataclasses.replace(configuration("ecp5-25f"), scratchpad_ports=1)
    totals = np.zeros(2)
    for seed in range(10):
        for index, config in enumerate((one, configuration("ecp5-25f"))):
            totals[index] += sum(
                layer.total for layer in cycles(compile(random_network(seed, KINDS), config))
            )
    assert totals[1] < totals[0]
