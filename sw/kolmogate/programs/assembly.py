"""Weight programs as text: what `disassembly` writes, `parse` reads back to the same bytes.

    columns 8
    code
        RECORDS  literal x 8 rows       ; an instruction a line, as `Instruction` prints it
        LITERAL  5 bits x 40 rows
        END
    literals
        0011223344556677                ; a word a line, the byte of lane 0 first
    coded
        ff00...                         ; as it lies in memory

In place of the sections ``literals`` and ``coded``, a section ``rows`` may hold the numbers of all rows that
the instructions make in turn, a row a line: the streams are made of them then. ``WORD 0x1c00`` is a stored
instruction of any bits. Behind a semicolon everything is a comment.
"""

import re
from collections.abc import Callable

import numpy as np

from ..config import COLUMNS
from ..errors import InputError
from ..isa import P0, SEEK_WORDS
from .entropy import Reference
from .p0 import (
    RECORD_KINDS,
    Instruction,
    Program,
    assemble,
    code_words,
    coded,
    generate,
    literal,
    loop,
    predict,
    records,
    seek,
    skip,
    zero,
)

__all__ = ["disassembly", "parse"]

_FORMS: dict[str, Callable[..., Instruction]] = {
    r"GENERATE (\d+) new bits x (\d+) rows": lambda k, rows: generate(int(k), int(rows)),
    r"LITERAL (\d+) bits x (\d+) rows": lambda bits, rows: literal(int(bits), int(rows)),
    r"ZERO (\d+) rows": lambda rows: zero(int(rows)),
    r"SKIP (\d+) bits": lambda bits: skip(int(bits)),
    r"SEEK literal word (\d+)": lambda word: _seek(int(word)),
    r"CODED (\d+)/8 columns x (\d+) rows": lambda eighths, rows: coded(int(rows), int(eighths)),
    rf"RECORDS ({'|'.join(RECORD_KINDS)}) x (\d+) rows": lambda kind, rows: records(
        int(rows), RECORD_KINDS.index(kind)
    ),
    r"PREDICT term ([01]) nothing": lambda term: predict(int(term), Reference()),
    r"PREDICT term ([01]) 1/([124]) of left": lambda term, part: predict(
        int(term), Reference(0, int(part).bit_length() - 1)
    ),
    r"PREDICT term ([01]) 1/([124]) of (\d+) rows back": lambda term, part, back: predict(
        int(term), Reference(int(back), int(part).bit_length() - 1)
    ),
    r"LOOP (\d+) instructions x (\d+) more": lambda body, times: loop(int(body), int(times)),
    r"END": lambda: Instruction(P0.END),
}
_EXAMPLES = {
    P0.GENERATE: "GENERATE 3 new bits x 64 rows",
    P0.LITERAL: "LITERAL 5 bits x 40 rows",
    P0.ZERO: "ZERO 4 rows",
    P0.SKIP: "SKIP 9 bits",
    P0.SEEK: "SEEK literal word 12",
    P0.CODED: "CODED 8/8 columns x 40 rows",
    P0.RECORDS: "RECORDS coded x 8 rows",
    P0.PREDICT: "PREDICT term 0 1/2 of 9 rows back",
    P0.LOOP: "LOOP 2 instructions x 7 more",
    P0.END: "END",
}
_SECTIONS = ("code", "rows", "literals", "coded")


def disassembly(program: Program, columns: int) -> str:
    """The program as text."""
    words = code_words(program).tolist()
    lines = [f"columns {columns}", "code"]
    ended = False
    for place, word in enumerate(words):
        if ended and 2 * (len(words) - place) < columns and not any(words[place:]):
            break
        one = Instruction.of(word)
        # PREDICT keeps a distance that does not count where there is no term: only the bits tell.
        known = any(re.fullmatch(form, " ".join(str(one).split())) for form in _FORMS)
        same = known and _instruction(" ".join(str(one).split())).encode() == word
        lines.append(f"    {str(one) if same else f'WORD     0x{word:04x}':44} ; {place}")
        ended = ended or one.op == P0.END
    for name, stream in (("literals", program.literals), ("coded", program.coded)):
        lines.append(name)
        lines += [f"    {stream[at : at + columns].hex()}" for at in range(0, len(stream), columns)]
    return "\n".join(lines) + "\n"


def parse(text: str) -> tuple[Program, int]:
    """The program and the columns of its machine; raises `InputError` that names the line and what to try."""
    columns, section = 0, ""
    lines: dict[str, list[tuple[int, str]]] = {}
    for number, whole in enumerate(text.splitlines(), start=1):
        line = " ".join(whole.partition(";")[0].split())
        if not line:
            continue
        if found := re.fullmatch(r"columns (\d+)", line):
            columns = int(found[1])
            if columns not in COLUMNS:
                raise _error(number, f"columns must be one of {', '.join(map(str, COLUMNS))}, not {columns}")
        elif line in _SECTIONS:
            if not columns:
                raise _error(number, "say the machine's columns first, for example: columns 8")
            if line in lines:
                raise _error(number, f"there is a section {line} already: put its lines there")
            section = line
            lines[section] = []
        elif not section:
            raise _error(number, f"{line!r} is in no section: begin one of {', '.join(_SECTIONS)}")
        else:
            lines[section].append((number, line))
    if "code" not in lines:
        raise InputError("the program has no instructions: begin a section code")
    words = [_word(number, line) for number, line in lines["code"]]
    if "rows" in lines:
        if lines.keys() & {"literals", "coded"}:
            raise InputError(
                "the program has rows, of which its streams are made: leave out literals and coded"
            )
        return _of_rows(words, lines["rows"], columns), columns
    code = np.array(words, "<u2").tobytes()
    streams = {name: _bytes(lines.get(name, []), columns) for name in ("literals", "coded")}
    return Program(code + bytes(-len(code) % columns), streams["coded"], streams["literals"]), columns


def _error(number: int, message: str) -> InputError:
    return InputError(f"line {number}: {message}")


def _word(number: int, line: str) -> int:
    if found := re.fullmatch(r"WORD 0x([0-9a-fA-F]{1,4})", line):
        return int(found[1], 16)
    try:
        return _instruction(line).encode()
    except InputError as error:
        raise _error(number, str(error)) from None


def _instruction(line: str) -> Instruction:
    for form, make in _FORMS.items():
        if found := re.fullmatch(form, line):
            return make(*found.groups())
    name = line.split()[0]
    if name in P0.__members__:
        raise InputError(f"{line!r} is no instruction: write it like {_EXAMPLES[P0[name]]!r}")
    raise InputError(f"there is no instruction {name!r}: choose one of {', '.join(P0.__members__)}")


def _seek(word: int) -> Instruction:
    if word % SEEK_WORDS:
        raise InputError(f"SEEK goes to every {SEEK_WORDS}nd word of literals, not to word {word}")
    return seek(8 * word)


def _of_rows(words: list[int], lines: list[tuple[int, str]], columns: int) -> Program:
    instructions = [Instruction.of(word) for word in words]
    if not instructions or instructions[-1].op != P0.END:
        raise InputError("the program does not end: write END as its last instruction")
    rows = np.zeros((len(lines), columns), np.int8)
    for row, (number, line) in zip(rows, lines, strict=True):
        if not re.fullmatch(r"-?\d+( -?\d+)*", line):
            raise _error(number, f"{line!r} is no row: write {columns} numbers from -128 to 127")
        numbers = [int(word) for word in line.split()]
        if len(numbers) != columns or not all(-128 <= value < 128 for value in numbers):
            raise _error(number, f"a row is {columns} numbers from -128 to 127, not {len(numbers)}: {line}")
        row[:] = numbers
    return assemble(instructions[:-1], rows, columns)


def _bytes(lines: list[tuple[int, str]], columns: int) -> bytes:
    stream = b""
    for number, line in lines:
        if not re.fullmatch(rf"[0-9a-fA-F]{{{2 * columns}}}", line):
            raise _error(
                number, f"{line!r} is no word: write {columns} bytes, {2 * columns} hexadecimal digits"
            )
        stream += bytes.fromhex(line)
    return stream
