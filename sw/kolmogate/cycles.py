"""The cycle model: how long the gateware takes for an image, layer by layer, and what for.

`kolmogate.control` plays the core's control cycle by cycle; here the image becomes what that works on. It
plays about ten million cycles a second; the first use after a change compiles it, in some seconds.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from tqdm import tqdm

from . import control, registers
from .config import MachineConfig
from .errors import InputError
from .image import Image
from .isa import DESCRIPTOR, P0, WORD_GRAIN, Opcode, counts_nothing, window_taps, wrap_of
from .machine_arithmetic import leaving_latency, requantiser_interval
from .programs.p0 import ProgramEnd, code_words, walk
from .programs.reader import Reader

__all__ = ["LayerCycles", "cycles", "split"]

LONGEST = 1_000_000_000
"""Cycles of an inference that is not worth predicting."""

LONGEST_PROGRAM = 1 << 20
"""Instructions run after which a program is taken for one that never ends."""

# Played at a time: an interrupt and the progress bar wait for their end.
_CYCLES_A_CALL = 1_000_000

# What the core has that is no parameter; the comparison with the RTL holds them equal.
_REQUANTISER_ROOM = 16
_RESIDUAL_ROWS = 8


@dataclass(frozen=True)
class LayerCycles:
    """Cycles from the end of the layer before to the end of this one, and what they were spent on.

    With two scratchpad ports layers overlap: there it ends where the next one starts.

    Parameters
    ----------
    total : int
        All of them. Those of the last layer include what ends the inference, so that the sum is its time.
    compute : int
        A tap was taken.
    drain : int
        The last tap of a tile waited for the shadow registers, or the array rested after one
        (`MachineConfig.tile_gap`).
    decode : int
        Every row had an activation, but the columns had no weights.
    memory : int
        A row had no activation, between the layer's first tap and the last word asked for.
    utilisation : float
        The part of all multiplier cycles that multiplied a live weight with an activation.
    """

    total: int
    compute: int
    drain: int
    decode: int
    memory: int
    utilisation: float

    @property
    def hidden(self) -> bool:
        """Whether the array hides the decoding of the layer's weights: no tap waits for one."""
        return self.decode == 0

    @property
    def other(self) -> int:
        """The rest: loading descriptors, filling the pipeline, emptying it."""
        return self.total - self.compute - self.drain - self.decode - self.memory


def cycles(image: Image) -> list[LayerCycles]:
    """The cycles of each layer of an image (each ARRAY descriptor); their sum is that of an inference.

    Raises `InputError` if the image would not end, or not soon.
    """
    config = image.config
    descriptors = _descriptors(image)
    arrays = int((descriptors["kind"] == control.ARRAY).sum())
    if arrays != len(image.layers):
        raise InputError(f"{arrays} layers have descriptors, {len(image.layers)} are described")
    spent = np.zeros(len(image.layers) + 1, registers.SPENT)
    # What an inference begins with waits for a cycle.
    spent["total"][0] = config.fast
    arguments = (
        _machine(config)[0],
        descriptors,
        *_program(image),
        _state(config)[0],
        _rows(config),
        np.zeros((config.rows, config.feeder_depth), np.int64),
        np.zeros(config.scratchpad_ports, registers.LANE),
        spent,
    )
    with tqdm(desc="predict", unit=" cycles", unit_scale=True, delay=2, leave=False, disable=None) as bar:
        while (outcome := control.run(*arguments, _CYCLES_A_CALL)) == control.RUNNING:
            bar.update(_CYCLES_A_CALL)
    if outcome == control.STUCK:
        raise InputError(
            "the image would never end on the device: its weight program makes fewer rows than the layers"
            " take, or a filter is deeper than the column buffer; compile it again"
        )
    return split(spent, image)


def split(spent: npt.NDArray[np.void], image: Image) -> list[LayerCycles]:
    """The cycles of each layer from counts as `registers.SPENT` has them, one more than there are layers.

    What followed the last layer counts as its own.
    """
    counts = spent.view(np.int64).reshape(len(spent), -1).copy()
    counts[-2:-1] += counts[-1:]
    results = []
    for layer, count in zip(image.layers, counts[:-1].tolist(), strict=True):
        total, compute, drain, decode, memory = count
        utilisation = round(layer.live_macs / (total * image.config.macs), 4)
        results.append(LayerCycles(total, compute, drain, decode, memory, utilisation))
    return results


def _machine(config: MachineConfig) -> npt.NDArray[np.void]:
    names = registers.MACHINE.names or ()
    values = {
        **{name: getattr(config, name) for name in names if hasattr(config, name)},
        "interval": requantiser_interval(config),
        "descriptor_words": DESCRIPTOR.size(config.columns) // config.columns,
        "word_grain": WORD_GRAIN,
        "residual_rows": _RESIDUAL_ROWS,
        "leaving_latency": leaving_latency(config),
        "read_latency": config.read_latency,
        "literals_only": not (config.generator or config.entropy_engines),
        "words_held": 2 if config.generator else 1,
    }
    return _records(registers.MACHINE, [values])


def _state(config: MachineConfig) -> npt.NDArray[np.void]:
    """All registers as an inference finds them in its first cycle."""
    state = np.zeros(1, registers.STATE)
    state["code"]["asking"] = 1
    if config.entropy_engines:
        state["engine"]["asking"], state["engine"]["idle"] = 1, 1
    state["literals"]["room"] = config.literal_words
    state["requantiser"]["room"] = 1
    state["requantiser"]["left"] = _REQUANTISER_ROOM
    state["columns"]["room"] = 1
    return state


def _rows(config: MachineConfig) -> npt.NDArray[np.void]:
    rows = np.zeros(config.rows, registers.ROW)
    rows["credits"] = config.feeder_depth
    return rows


_KINDS = {
    Opcode.END: control.END,
    Opcode.ARRAY: control.ARRAY,
    Opcode.FILL: control.FILL,
    Opcode.RESIDUAL: control.RESIDUAL,
}


def _descriptors(image: Image) -> npt.NDArray[np.void]:
    """The descriptors up to END. Raises `InputError` if there is none, or one that makes no sense."""
    descriptors = []
    least = 0
    for fields in image.descriptors():
        if fields["opcode"] not in _KINDS:
            raise InputError(f"there is no descriptor opcode {fields['opcode']}: compile the image again")
        opcode = Opcode(fields["opcode"])
        if counts_nothing(fields):
            raise InputError("a descriptor counts nothing: compile the image again")
        if opcode == Opcode.ARRAY:
            tiles = -(-fields["x_count"] * fields["y_count"] // image.config.rows)
            least += tiles * -(-fields["channels"] // image.config.columns) * window_taps(fields)
        elif opcode == Opcode.RESIDUAL and not image.config.residual_adder:
            raise InputError("the device has no residual adder: compile the image again")
        if opcode == Opcode.ARRAY:
            fields = {**fields, **{f"{name}_wrap": wrap_of(fields, name) for name in ("input", "output")}}
        descriptors.append({**fields, "kind": _KINDS[opcode]})
        if opcode == Opcode.END:
            break
    else:
        raise InputError("the descriptors have no END: compile the image again")
    if least > LONGEST:
        raise InputError(f"an inference of the image takes {least} cycles or more: that is no sensible image")
    return _records(registers.DESCRIPTOR, descriptors)


_INSTRUCTIONS = {
    P0.LOOP: control.LOOP,
    P0.PREDICT: control.PREDICT,
    P0.SEEK: control.SEEK,
    P0.SKIP: control.SKIP,
}
"""Those that make no rows."""


def _program(
    image: Image,
) -> tuple[npt.NDArray[np.void], npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """The instructions of the weight program in the order in which they run, and when the entropy engine
    ends its rows and reads its bytes."""
    program, config = image.program(), image.config
    # One more word, so that there is a memory even if both streams are empty.
    memory = np.frombuffer(program.coded + program.literals + bytes(config.columns), np.uint8)
    words = code_words(program)
    reader = Reader(
        words,
        memory,
        len(program.coded),
        config.columns,
        entropy_engine=bool(config.entropy_engines),
        generator=config.generator,
    )
    instructions: list[dict[str, int]] = []
    try:
        for _, instruction in walk(words):
            if instruction.op == P0.END or len(instructions) > LONGEST_PROGRAM:
                break
            made = {"kind": _INSTRUCTIONS.get(instruction.op, control.ROWS)}
            if made["kind"] == control.ROWS:
                reader.step()
                made |= {
                    "rows": instruction.rows,
                    "records": instruction.op == P0.RECORDS,
                    "reading": instruction.reads_literals,
                    "bits": instruction.literal_bits,
                    "coded": instruction.is_coded,
                }
            elif made["kind"] == control.SKIP:
                made |= {"rows": instruction.count, "reading": 1, "bits": 1}
            instructions.append(made)
    except ProgramEnd:
        pass
    # One more byte, which is never read.
    times = np.concatenate([reader.byte_times, np.full((1, 2), -1)])
    return _records(registers.INSTRUCTION, [*instructions, {}]), reader.row_ends, times


def _records(layout: np.dtype[np.void], records: list[dict[str, int]]) -> npt.NDArray[np.void]:
    """An array of ``records``, of whose fields the layout takes what it knows; others are 0."""
    names = layout.names or ()
    return np.array([tuple(record.get(name, 0) for name in names) for record in records], layout)
