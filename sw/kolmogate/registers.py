"""The registers of the core, and what else `kolmogate.control` works on, as records of integers."""

from typing import Any

import numpy as np

__all__ = ["DESCRIPTOR", "INSTRUCTION", "LANE", "MACHINE", "ROW", "SPENT", "STATE", "Registers"]

# One of these records, which the functions of `kolmogate.control` change in place.
Registers = Any


def _registers(*names: str) -> np.dtype[np.void]:
    return np.dtype([(name, np.int64) for name in names])


MACHINE = _registers(
    *("rows", "columns", "requantisers", "scratchpad_ports", "column_buffer_depth"),
    *("tile_gap", "capture_latency", "written_bytes", "fast"),
    # cycles from a batch of the requantisers to the next; 1 is the pipelined form
    "interval",
    # cycles from a granted read of the scratchpad to its answer
    "read_latency",
    # scratchpad words of a descriptor
    "descriptor_words",
    # words of activations begin at multiples of so many bytes
    "word_grain",
    # words of literals that are read ahead, and those that the lanes hold before the newest
    *("literal_words", "words_held"),
    # all rows are literals or zeros
    "literals_only",
    # rows of a record as the residual adder takes it
    "residual_rows",
    # `machine_arithmetic.leaving_latency`
    "leaving_latency",
)
"""The parameters of the machine."""

DESCRIPTOR = _registers(
    *("kind", "word_mode", "unit_weights", "stream_weights", "x_count", "y_count"),
    *("input_base", "input_step", "input_wrap", "output_base", "output_step", "output_wrap"),
    *("outer_count", "outer_wrap", "inner_count", "inner_step", "run", "channels", "overlaps"),
)
"""A descriptor: fields of `isa.DESCRIPTOR`, and of `isa.RESIDUAL` for a residual addition."""

INSTRUCTION = _registers("kind", "rows", "records", "reading", "bits", "coded")
"""An instruction of the weight program as it runs: rows that it makes, whether they are constants, whether
they depend on literals and how many bits of them a row passes, whether the entropy engine makes them."""

SPENT = _registers("total", "compute", "drain", "decode", "memory")
"""Cycles of a layer: all of them; those that took a tap; those that waited for the shadow registers, for
weights and for activations."""

_COUNTER = _registers("x", "y", "batch", "live", "group_channels")
STATE = np.dtype(
    [
        ("core", _registers("cycles", "layer", "begun", "idle")),
        (
            "sequencer",
            _registers(
                *("state", "index", "asking", "asked", "loaded", "answers", "row", "starting"),
                # the descriptors of the layers that are fetched and drained
                *("fetched", "drained"),
                # with two scratchpad ports
                *("computing", "draining", "held", "begun"),
            ),
        ),
        ("filler", _registers("busy", "lines", "gap", "run", "address", "left")),
        (
            "fetcher",
            _registers(
                *("walking", "channels_left", "group_base", "x", "y", "position", "final_tile"),
                *("outer", "inner", "run_offset", "word_offset", "bytes_left", "first_word", "again"),
                # with one scratchpad port
                *("step", "live_step", "first_run", "run_end", "regroup"),
                # with two: the tile at hand, and the next one
                *("active", "last_row", "ends", "shared", "visited", "pending", "behind", "first_taken"),
                *("finding", "found", "row", "next_last_row", "next_final", "next_shared"),
                # the last words of a line, which the second port has
                *("four", "next_four", "lagging", "lag", "lag_last", "lag_final"),
            ),
        ),
        ("compute", _registers("undrained", "resting", "captured", "final_tile")),
        ("columns", _registers("reserved", "written", "taken", "first", "room", "available")),
        (
            "decoder",
            _registers(
                # the pipeline's stages, see `control.decoder`; what is known of its last
                *("seen", "shaped", "valid", "of_records", "last"),
                *("running", "left", "records", "reading", "silent", "bits", "coded", "seek"),
            ),
        ),
        (
            "engine",
            _registers(
                *("idle", "cycle", "row"),
                # its reader
                *("asking", "answers", "present", "holding", "byte"),
            ),
        ),
        ("code", _registers("index", "asking", "answers", "valid")),
        (
            "literals",
            _registers("room", "popped", "answers", "written", "taken", "present", "primed", "position"),
        ),
        ("constants", _registers("reserved", "arrived", "readable", "released")),
        ("drain", _registers("draining", "skipping", "row", "column", "follows", "final_tile", "ending")),
        ("draining", _COUNTER),
        (
            "requantiser",
            # batches that wait behind the pipelined form, and those that it can take before one leaves
            _registers("valid", "pipeline", "busy", "room", "step", "batch", "waiting", "left"),
        ),
        (
            "residual",
            _registers(
                *("adding", "asking", "answers", "here", "noticed"),
                *("taken", "rows_left", "summed", "rounded", "full"),
            ),
        ),
        (
            "writer",
            _registers(
                *("position", "group", "address", "flush", "finish", "port_valid", "finished", "done"),
            ),
        ),
        ("writing", _COUNTER),
    ]
)
"""All registers but those that are there once a row or once a scratchpad port."""

ROW = _registers(
    *("base", "next_base", "credits", "popped"),
    # the feeder; the tag of the word at its head is packed, see `control.array`
    *("written", "taken", "valid", "head", "pointer", "pop"),
)
"""Registers of an array row, in fetcher and feeder."""

LANE = _registers(
    *("request", "targets", "tag", "chosen", "delayed", "turned", "answer"),
    *("choosing", "pushed", "turning", "push"),
    # the next visit, with two lanes in registers: rows that it is for, tag
    *("wanted", "rows", "made", "next_wanted", "next_rows", "next_made"),
    # not registers: what is looked at, and what is found out of it
    *("visit", "remaining", "more"),
)
"""Registers of the fetcher for a scratchpad port that reads activations."""
