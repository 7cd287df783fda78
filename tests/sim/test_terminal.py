"""A simulated board in another process, behind a pseudo-terminal, driven through the serial end."""

import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator

import kolmogate
import numpy as np
import pytest
import serial
from kolmogate import golden, protocol
from kolmogate.config import configuration
from kolmogate.container import save_image
from kolmogate.errors import DeviceError, InputError
from kolmogate.network import Conv2D, Dense
from kolmogate.protocol import Command, Entry
from kolmogate.random_network import random_network

CONFIG = configuration("up5k")


def command(*arguments):
    return [sys.executable, "-m", "kolmogate", *map(str, arguments)]


@pytest.fixture(scope="module")
def board() -> Iterator[str]:
    """The port of a simulated board, which serves one client after the other."""
    process = subprocess.Popen(
        command("simulate", "--pty"), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    name = process.stdout.readline().strip()
    assert name, process.stderr.read()
    yield name
    process.send_signal(signal.SIGINT)
    assert process.communicate(timeout=30) == ("", "kolmogate: interrupted\n")
    assert process.returncode == 130


@pytest.fixture(scope="module")
def small():
    """Two small networks, their images and inputs."""
    networks = [random_network(seed, (Conv2D, Dense), 3) for seed in (3, 4)]
    images = [kolmogate.compile(network, CONFIG) for network in networks]
    rng = np.random.default_rng(1)
    inputs = [rng.integers(-128, 128, (3, *image.input.tensor.shape)).astype(np.int8) for image in images]
    return list(zip(networks, images, inputs, strict=True))


def test_networks_through_the_port(board, small, tmp_path):
    (first, image, x), (second, other, z) = small
    save_image(image, tmp_path / "m.kg")
    with kolmogate.open(board) as device:
        one, two = device.load(tmp_path / "m.kg"), device.load(other)
        # One beside the other.
        for _ in range(2):
            assert (one(x) == golden.run(first, x)).all()
            assert (two(z) == golden.run(second, z)).all()
        assert (one.moved, two.moved) == (0, image.device_bytes)
        assert len(one.cycles) == len(one.link_seconds) == len(one.compute_seconds) == len(x)
        assert all(seconds > 0 for seconds in one.link_seconds)
        assert one.compute_seconds[0] == pytest.approx(one.cycles[0] / CONFIG.clock_hz)
        with pytest.raises(DeviceError, match="compiled for ecp5-25f"):
            device.load(kolmogate.compile(first, configuration("ecp5-25f")))
        (tmp_path / "foreign.kg").write_text("nothing")
        with pytest.raises(InputError, match="is not a Kolmogate image"):
            device.load(tmp_path / "foreign.kg")
        assert (one(x) == golden.run(first, x)).all()


def test_command_line_through_the_port(board, small, tmp_path):
    network, image, x = small[0]
    save_image(image, tmp_path / "m.kg")
    np.save(tmp_path / "x.npy", x)
    arguments = ("run", tmp_path / "m.kg", "--input", tmp_path / "x.npy", "--on", board)
    result = subprocess.run(
        command(*arguments, "--output", tmp_path / "y.npy", "--json"),
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (result.returncode, result.stderr) == (0, "")
    assert json.loads(result.stdout)["on"] == board
    assert (np.load(tmp_path / "y.npy") == golden.run(network, x)).all()
    text = subprocess.run(command(*arguments), capture_output=True, text=True, timeout=60).stdout
    assert "cycles an inference (" in text
    assert "ms of link)" in text


def test_memory_at_every_baud_rate(board):
    content = np.random.default_rng(2).bytes(3000)
    for baud in (115_200, 921_600, 3_000_000):
        with kolmogate.open(board, baud=baud) as device:
            device._target.write(77, content)
            assert device._target.read(77, len(content)) == content


@pytest.mark.parametrize("cut", [1, 3, 7, 20])
def test_a_client_that_vanishes(board, small, cut):
    """In the middle of a frame, and in the middle of an inference that never ends."""
    network, image, x = small[0]
    with serial.Serial(board, 1_000_000) as port:
        port.write(b"\0" + protocol.pack_frame(bytes((1, Command.WRITE, 9)) + bytes(13))[:cut])
    with kolmogate.open(board) as device:
        device._target.start(Entry(descriptors=0, code=0, literals=0), limit=(1 << 32) - 1)
    with kolmogate.open(board) as device:
        assert (device.load(image)(x) == golden.run(network, x)).all()


def test_interrupts_at_any_moment(board, small, tmp_path):
    network, image, x = small[0]
    x = np.concatenate([x] * 200)
    save_image(image, tmp_path / "m.kg")
    np.save(tmp_path / "x.npy", x)
    interrupted = 0
    for delay in (0.35, 0.5, 0.7, 1.0):
        process = subprocess.Popen(
            command("run", tmp_path / "m.kg", "--input", tmp_path / "x.npy", "--on", board),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        time.sleep(delay)
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=30)
        interrupted += process.returncode != 0
        with kolmogate.open(board) as device:
            assert (device.load(image)(x[:3]) == golden.run(network, x[:3])).all()
    assert interrupted


@pytest.mark.slow
def test_selftest(board):
    for where in (board, "rtl"):
        result = subprocess.run(
            command("selftest", where, "--json"), capture_output=True, text=True, timeout=300
        )
        assert (result.returncode, result.stderr) == (0, "")
        outcomes = json.loads(result.stdout)
        assert [one["test"] for one in outcomes if one["passed"]] == [
            *("identify", "memory", "network", "refusals", "errors", "link")
        ]


def test_a_board_that_goes_away(small):
    process = subprocess.Popen(command("simulate", "--pty"), stdout=subprocess.PIPE, text=True)
    name = process.stdout.readline().strip()
    _, image, x = small[0]
    with kolmogate.open(name) as device:
        loaded = device.load(image)
        process.kill()
        process.wait()
        with pytest.raises(DeviceError, match=r"was lost, as when a board is unplugged|did not answer"):
            loaded(x)
    process.stdout.close()
