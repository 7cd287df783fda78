"""An image gives its network back: the programs make the weights, the host part has the rest."""

import dataclasses
import json

import numpy as np
import pytest
from kolmogate import golden
from kolmogate.compiler import compile
from kolmogate.config import CONFIGURATIONS, configuration
from kolmogate.container import from_bytes, to_bytes
from kolmogate.errors import InputError
from kolmogate.image import Section
from kolmogate.isa import INSTRUCTION, P0
from kolmogate.lower import lower
from kolmogate.network import AveragePool2D, Conv2D, Dense, DepthwiseConv2D, Pad, Reshape, Softmax
from kolmogate.programs import p0
from kolmogate.random_network import KINDS, random_network
from kolmogate.simplify import simplify
from kolmogate.skeleton import MAXIMUM_VALUES, from_record, skeleton, to_record
from kolmogate.tflite_import import load_tflite

DEVICE_KINDS = (Conv2D, DepthwiseConv2D, Dense, AveragePool2D, Pad, Reshape, Softmax)


def through_json(network):
    return from_record(json.loads(json.dumps(to_record(network), default=lambda value: value.tolist())))


def assert_same(one, other):
    assert (one.name, one.input, one.output, one.tensors) == (
        other.name,
        other.input,
        other.output,
        other.tensors,
    )
    for a, b in zip(one.operations, other.operations, strict=True):
        assert type(a) is type(b)
        np.testing.assert_equal(dataclasses.asdict(a), dataclasses.asdict(b))


@pytest.fixture
def network(chain):
    """Every operator with weights, channel counts on both sides of a column group."""
    builder = (
        chain(7, 6, 2).conv(10, padding=(1, 1, 1, 1)).depthwise(padding=(1, 0, 0, 1)).conv(17, size=(1, 2))
    )
    return builder.pool((2, 2)).dense(5).softmax().network("sample")


@pytest.mark.parametrize("target", list(CONFIGURATIONS))
def test_image_gives_its_network_back(target, network):
    image = from_bytes(to_bytes(compile(network, configuration(target))))
    assert_same(image.network(), network)
    assert not any(operation.weights.any() for operation in image.skeleton.operations[:3])


def test_depthwise_of_one_channel(chain):
    network = chain(6, 6, 1).depthwise(multiplier=9).network()
    assert_same(compile(network, configuration("up5k")).network(), network)


def test_random_networks_come_back_as_they_were_simplified(inputs):
    compared = dropped = 0
    for seed in range(60):
        network = random_network(seed, DEVICE_KINDS, 4)
        try:
            image = compile(network, configuration("ecp5-25f"))
        except InputError:
            continue
        back = image.network()
        assert_same(back, lower(simplify(network).network))
        x = inputs(network, 5)
        assert (golden.run(back, x) == golden.run(network, x)).all(), f"seed {seed}"
        dropped += bool(image.dropped)
        compared += 1
    assert compared > 20
    assert dropped > 0


def test_every_kind_of_operation_goes_through_json():
    seen = set()
    for seed in range(40):
        network = skeleton(random_network(seed))
        assert_same(through_json(network), network)
        seen |= {type(operation) for operation in network.operations}
    assert seen == set(KINDS)


def test_record_is_small(network):
    """The weights' values are nowhere in it."""
    record = to_record(network)
    assert record["operations"][0]["weights"] == (10, 3, 3, 2)


def replaced(image, **changes):
    sections = {
        name: Section(section.address, changes.get(name, section.data))
        for name, section in image.sections.items()
    }
    return dataclasses.replace(image, sections=sections)


def test_programs_of_other_networks_are_refused(network):
    image = compile(network, configuration("up5k"))
    code, literals = image.program().code, image.program().literals
    end = INSTRUCTION.pack(op=P0.END).to_bytes(2, "little")
    zero = p0.zero(1024).encode().to_bytes(2, "little")
    single, hashed = (one.encode().to_bytes(2, "little") for one in (p0.zero(1), p0.generate(0, 1)))
    for damaged, sentence in (
        # many gigabytes of zeros if they were made
        (replaced(image, code=zero * (len(code) // 2 - 1) + end), "rows, the network's layers take"),
        (replaced(image, code=bytes(len(code))), "the weight program has no END"),
        (replaced(image, code=code.replace(single, hashed)), "does not make the zeros that 'average_pool"),
        (replaced(image, literals=literals[:-8]), "bits a lane of"),
    ):
        with pytest.raises(
            InputError, match=r"does not give its network back: .*; compile it again"
        ) as caught:
            damaged.network()
        assert sentence in str(caught.value)


def test_weights_that_break_the_network_are_refused(chain):
    """A program may make sound rows that overflow an accumulator of 32 bits with the skeleton's biases."""
    network = chain(1, 1, 8).conv(8, size=(1, 1)).network()
    image = compile(network, configuration("up5k"))
    bias = np.full(8, (1 << 31) - 1, np.int32)
    operation = dataclasses.replace(image.skeleton.operations[0], bias=bias)
    broken = dataclasses.replace(image, skeleton=dataclasses.replace(image.skeleton, operations=(operation,)))
    with pytest.raises(InputError, match="can overflow 32 bits"):
        broken.network()


def test_padding_without_end_is_refused(chain):
    record = to_record(chain(4, 4, 3).pool((2, 2), stride=(1 << 30, 1)).network())
    window = record["operations"][0]["window"]
    window["size"], window["padding"] = (1 << 30, 2), ((1 << 30) - 4, 0, 0, 0)
    with pytest.raises(InputError, match=f"more than the {MAXIMUM_VALUES} of any image"):
        from_record(json.loads(json.dumps(record)))


@pytest.mark.parametrize(
    "model",
    [
        "kws_ref_model",
        *(
            pytest.param(name, marks=pytest.mark.slow)
            for name in ("ad01_int8", "str_ww_ref_model", "vww_96_int8")
        ),
    ],
)
def test_public_networks_come_back_with_their_outputs(model, models_folder, inputs):
    network = load_tflite(models_folder / f"{model}.tflite")
    image = from_bytes(to_bytes(compile(network, configuration("ecp5-85f"))))
    x = inputs(network, 3)
    assert (golden.run(image.network(), x) == golden.run(network, x)).all()
