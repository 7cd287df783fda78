"""Images and the `.kg` file: what is written is read back; anything else is refused in a sentence."""

import contextlib
import dataclasses
import json
import struct
import zlib

import numpy as np
import pytest
from kolmogate import golden
from kolmogate.compiler import compile
from kolmogate.config import configuration
from kolmogate.container import VERSION, from_bytes, load_image, save_image, to_bytes
from kolmogate.errors import DeviceError, InputError
from kolmogate.image import Section
from kolmogate.isa import COUNTS, DESCRIPTOR, Opcode, load_descriptor, store_descriptors
from kolmogate.programs import p0
from kolmogate.report import describe

HEADER = struct.Struct("<8sHII")


@pytest.fixture
def image(chain):
    network = chain(6, 5, 3).conv(10, padding=(1, 1, 1, 1)).depthwise(padding=(1, 0, 0, 1)).dense(7)
    return compile(network.reshape(1, 7).softmax().network("small"), configuration("up5k"))


def rebuilt(data, change):
    """A file whose host part went through ``change``, with sizes and checksum put right."""
    magic, version, host_size, device_size = HEADER.unpack_from(data)
    host = json.loads(data[HEADER.size : HEADER.size + host_size])
    host = json.dumps(change(host)).encode()
    device = data[HEADER.size + host_size : -4]
    body = HEADER.pack(magic, version, len(host), device_size) + host + device
    return body + struct.pack("<I", zlib.crc32(body))


def test_round_trip(image, tmp_path):
    path = tmp_path / "small.kg"
    save_image(image, path)
    loaded = load_image(path)
    assert loaded == image
    assert to_bytes(loaded) == to_bytes(image)
    assert loaded.descriptors() == image.descriptors()
    assert [name.name for name in tmp_path.iterdir()] == ["small.kg"]


def test_device_part_is_what_device_bytes_counts(image):
    data = to_bytes(image)
    _, _, host_size, device_size = HEADER.unpack_from(data)
    assert device_size == image.device_bytes == sum(len(s.data) for s in image.sections.values())
    assert len(data) == HEADER.size + host_size + device_size + 4


def test_failed_save_leaves_the_old_file(image, tmp_path, monkeypatch):
    path = tmp_path / "small.kg"
    path.write_bytes(b"old")

    def fail(source, target):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", fail)
    with pytest.raises(InputError, match=r"cannot write .* \(No space left on device\)"):
        save_image(image, path)
    assert path.read_bytes() == b"old"
    assert len(list(tmp_path.iterdir())) == 1


def test_paths_that_do_not_work(image, tmp_path):
    with pytest.raises(InputError, match=r"cannot write .* \(No such file or directory\): choose another"):
        save_image(image, tmp_path / "none" / "small.kg")
    with pytest.raises(InputError, match=r"cannot read .*: No such file or directory; check the path"):
        load_image(tmp_path / "none.kg")
    with pytest.raises(InputError, match=r"cannot read .*: Is a directory"):
        load_image(tmp_path)


def test_foreign_files_are_refused(image, tmp_path):
    path = tmp_path / "x.kg"
    for foreign in (b"", b"\x89KG", b"TFL3" * 100, b"PK\x03\x04", bytes(1000)):
        path.write_bytes(foreign)
        with pytest.raises(InputError, match=r"x\.kg: this is not a Kolmogate image; make one with"):
            load_image(path)


def test_other_version_is_refused(image):
    data = bytearray(to_bytes(image))
    data[8:10] = (9).to_bytes(2, "little")
    with pytest.raises(InputError, match=f"has format 9, this release reads {VERSION}; compile it again"):
        from_bytes(bytes(data))


def test_every_truncation_is_refused(image):
    data = to_bytes(image)
    for size in [*range(0, 400), *range(400, len(data), 97), len(data) - 1]:
        with pytest.raises(InputError):
            from_bytes(data[:size])
    with pytest.raises(InputError, match=f"should have {len(data)} bytes, not {len(data) + 1}"):
        from_bytes(data + b"\0")


def test_every_damaged_byte_is_refused(image):
    data = to_bytes(image)
    rng = np.random.default_rng(5)
    for _ in range(300):
        damaged = bytearray(data)
        for position in rng.integers(0, len(data), int(rng.integers(1, 4))):
            damaged[position] ^= int(rng.integers(1, 256))
        if bytes(damaged) != data:
            with pytest.raises(InputError):
                from_bytes(bytes(damaged))


VALUES = [
    None,
    True,
    -1,
    0,
    1,
    7,
    4096,
    1 << 19,
    1 << 70,
    0.5,
    float("nan"),
    1e308,
    "",
    "SOFTMAX",
    [],
    [1, 2],
    {},
]


def mutate(value, rng, depth=0):
    """``value`` with one part of it replaced, removed or doubled."""
    if isinstance(value, dict | list) and len(value) and (depth == 0 or rng.random() < 0.9):
        keys = list(value) if isinstance(value, dict) else range(len(value))
        key = keys[int(rng.integers(len(keys)))]
        kind = rng.random()
        if kind < 0.1:
            del value[key]
        elif kind < 0.15 and isinstance(value, list):
            value.append(value[key])
        else:
            value[key] = mutate(value[key], rng, depth + 1)
        return value
    if type(value) is int and rng.random() < 0.5:
        return value + int(rng.choice([-8, -1, 1, 8, 64]))
    return VALUES[int(rng.integers(len(VALUES)))]


def test_unsound_host_parts_are_refused_or_harmless(image, infer):
    """A file that was made to mislead, checksum and all: refused, or it runs to an end."""
    data = to_bytes(image)
    x = np.zeros((1, *image.input.tensor.shape), np.int8)
    refused = ran = 0
    for seed in range(400):
        rng = np.random.default_rng(seed)
        try:
            loaded = from_bytes(rebuilt(data, lambda host, rng=rng: mutate(host, rng)))
        except InputError:
            refused += 1
            continue
        with contextlib.suppress(InputError, DeviceError):
            infer(loaded, x, limit=100_000)
        with contextlib.suppress(InputError):
            golden.run(loaded.network(), np.zeros((1, *loaded.input.tensor.shape), np.int8))
        describe(loaded)
        ran += 1
    assert refused > 100
    assert ran > 10


@pytest.mark.parametrize(
    ("part", "value", "sentence"),
    [
        (("sections", 0, "address"), 4, "section descriptors is not whole scratchpad words"),
        (("sections", 2, "address"), 1 << 20, "literals lies outside the scratchpad"),
        (("sections", 3, "address"), 0, "code and output overlap"),
        (("sections", 0, "name"), "weights", "its sections do not make up the device part"),
        (("input", "address"), 131072, "input lies outside the scratchpad of 131072 bytes"),
        (("input", "layout", "channels"), 4, "'pixel_pitch' is not in 4 to"),
        (("input", "layout", "height"), 5, "the layout of the input does not hold shape"),
        (("network", "tensors", 0, "scale"), "1", "'scale' is missing or not of type float"),
        (("config", "columns"), 7, "columns must be a power of two"),
        (("config", "rows"), 2.0, "'rows' is missing or not of type int"),
        (("layers", 1), None, "an item of 'layers' is not of type dict"),
        (("layers",), [], "3 layers have descriptors, 0 are described"),
        (("network", "operations", 4, "kind"), "SIN", "there is no operation 'SIN'"),
        (("network", "operations", 4, "kind"), "ADD", "'requantisation' is missing"),
        (("network", "operations", 4, "beta"), float("inf"), "'beta' is not a finite number"),
        (("network", "operations", 3, "inputs"), ["softmax_4"], "before it is written"),
        (("network", "operations", 3, "inputs"), [1], "an item of 'inputs' is not of type str"),
        (("network", "operations", 0, "window", "stride"), [0, 1], "must be positive"),
        (("network", "operations", 0, "window", "padding"), [0, 0, 0], "'padding' has 3 items, not 4"),
        (("network", "operations", 0, "weights"), [10, 3, 3, 2], "weights must be int8 of shape"),
        (
            ("network", "operations", 0, "weights"),
            [1 << 20, 9, 3, 2],
            "its weights would take 56624594 bytes",
        ),
        (("network", "operations", 0, "weights"), [1] * 100, "'weights' has 100 axes, more than 8"),
        (("network", "operations", 0, "bias"), [1], "bias must be int32 of shape (10,)"),
        (("network", "operations", 0, "bias", 0), 1 << 31, "an item of 'bias' is not in"),
        (("network", "operations", 0, "clamp"), [-129, 0], "an item of 'clamp' is not in -128 to 127"),
        (("network", "tensors", 4, "shape"), [8], "cannot become"),
        (("network", "tensors", 1, "shape"), [1 << 20, 1 << 20], "tensor 'conv_2d_0' would take"),
        (("network", "output"), "other", "the network's output 'other' is not among its tensors"),
        (("network", "output"), "conv_2d_0", "the layout of the output does not hold shape"),
        (("network", "name"), None, "'name' is missing or not of type str"),
    ],
)
def test_unsound_values_are_named(image, part, value, sentence):
    def change(host):
        place = host
        for key in part[:-1]:
            place = place[key]
        place[part[-1]] = value
        return host

    with pytest.raises(InputError, match=r"the image is not sound: .*; compile it again") as caught:
        from_bytes(rebuilt(to_bytes(image), change))
    assert sentence in str(caught.value)


@pytest.mark.parametrize("host", [b"", b"[", b"\xff\xfe", b"[" * 100_000, b"7" * 10_000])
def test_host_part_that_is_no_json(image, host):
    data = to_bytes(image)
    device = b"".join(section.data for section in image.sections.values())
    body = HEADER.pack(data[:8], VERSION, len(host), len(device)) + host + device
    with pytest.raises(InputError, match="the host part of the image is not JSON"):
        from_bytes(body + struct.pack("<I", zlib.crc32(body)))
    with pytest.raises(InputError, match="the host part is not a record"):
        from_bytes(rebuilt(data, lambda host: [host]))


def test_inputs_of_other_shapes_and_types_are_refused(image):
    with pytest.raises(InputError, match=r"takes inputs of shape \(6, 5, 3\), not \(5, 6, 3\)"):
        image.pack_input(np.zeros((5, 6, 3), np.int8))
    with pytest.raises(InputError, match="of type uint8"):
        image.pack_input(np.zeros((6, 5, 3), np.uint8))


def replaced(image, name, data):
    """The image with other bytes in a section."""
    return dataclasses.replace(
        image, sections={**image.sections, name: Section(image.sections[name].address, data)}
    )


@pytest.mark.parametrize("columns", [8, 16, 32])
def test_descriptors_keep_what_they_share_with_the_one_before(columns):
    rng = np.random.default_rng(columns)
    fields = DESCRIPTOR.unpack(0) | {"opcode": Opcode.ARRAY}
    window, image = ("outer_count", "outer_wrap", "inner_count", "inner_step"), ("x_count", "y_count")
    single = {"outer_count": 1, "outer_wrap": 0, "inner_count": 1, "inner_step": 0}
    descriptors, sizes, held = [], [], {}
    for index in range(40):
        fields = {**fields, "input_base": int(rng.integers(1 << 20))}
        for names in (window, image):
            if index == 0 or rng.integers(2):
                fields |= {name: int(rng.integers(2, 100)) for name in names}
        alone = index > 0 and bool(rng.integers(2))
        size = 32
        for names in (window, image):
            values = [fields[name] for name in names]
            free = alone and names == window
            size -= 8 if columns == 8 and (free or held.get(names) == values) else 0
            if not free:
                held[names] = values
        sizes.append(size)
        descriptors += [
            {**fields, **(single if alone else {})},
            {"opcode": Opcode.FILL, "run": 1, "y_count": 1},
        ]
    ignored = ("keeps_window", "keeps_image", "single_run")
    stored, before = store_descriptors(descriptors, columns), 0
    for index, wanted in enumerate(descriptors):
        found, size, before = load_descriptor(stored, columns, before)
        stored = stored[size:]
        assert all(found[name] == value for name, value in wanted.items() if name not in ignored)
        assert index % 2 or size == sizes[index // 2]
    assert not stored


@pytest.mark.parametrize("field", COUNTS[Opcode.ARRAY])
def test_descriptors_that_count_nothing_are_refused(field, image):
    descriptors = image.descriptors()
    next(fields for fields in descriptors if fields["opcode"] == Opcode.ARRAY)[field] = 0
    packed = store_descriptors(descriptors, image.config.columns)
    damaged = replaced(image, "descriptors", packed)
    with pytest.raises(InputError, match=f"the descriptor of layer 'conv_2d_0' has a {field} of 0"):
        from_bytes(to_bytes(damaged))


def test_programs_of_other_rows_are_refused(image):
    code = image.sections["code"].data
    zero = p0.zero(1).encode().to_bytes(2, "little")
    with pytest.raises(InputError, match=r"the weight program makes \d+ rows, the layers take"):
        from_bytes(to_bytes(replaced(image, "code", zero + code[2:])))
    with pytest.raises(InputError, match="the weight program has no END"):
        from_bytes(to_bytes(replaced(image, "code", zero * (len(code) // 2))))


def test_overlapping_sections_are_refused(image):
    sections = dict(image.sections)
    sections["code"] = Section(sections["literals"].address, sections["code"].data)
    with pytest.raises(InputError, match="literals and code overlap"):
        dataclasses.replace(image, sections=sections)
