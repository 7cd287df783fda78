"""Weight programs as text: back to identical bytes, and errors that name the line."""

import random

import numpy as np
import pytest
from kolmogate.cli import main
from kolmogate.compiler import compile
from kolmogate.config import configuration
from kolmogate.container import load_image, save_image
from kolmogate.errors import InputError
from kolmogate.isa import NEW_BITS, P0
from kolmogate.programs.assembly import disassembly, parse
from kolmogate.programs.p0 import Instruction, Program
from kolmogate.programs.reader import decode

UP5K = configuration("up5k")


@pytest.mark.parametrize("objective", ["fastest", "smallest"])
@pytest.mark.parametrize("target", ["up5k", "ecp5-45f"])
def test_programs_come_back_byte_for_byte(target, objective, chain):
    network = chain(9, 9, 8).conv(16, padding=(1, 1, 1, 1)).depthwise().dense(10).network()
    image = compile(network, configuration(target), objective=objective)
    program, columns = image.program(), image.config.columns
    assert parse(disassembly(program, columns)) == (program, columns)


def test_any_words_come_back():
    """Bits without a meaning too, and what lies behind END."""
    source = random.Random(3)
    for _ in range(300):
        length = source.randrange(1, 12)
        code = b"".join(source.randrange(1 << 16).to_bytes(2, "little") for _ in range(4 * length))
        program = Program(code, source.randbytes(8 * source.randrange(4)), source.randbytes(8))
        assert parse(disassembly(program, 8)) == (program, 8)


def test_every_instruction_has_its_form():
    words = []
    for op in P0:
        for argument in range(9):
            for count in (0, 1, 2, 8, 1024):
                try:
                    words.append(Instruction(op, count, argument).encode())
                except InputError:
                    continue
    text = disassembly(Program(np.array(words, "<u2").tobytes(), b"", b""), 8)
    assert {line.split()[0] for line in text.splitlines()[2:-2]} >= set(P0.__members__)
    forms = [line for line in text.splitlines() if "WORD" in line]
    # Distances and shifts that mean nothing.
    assert len(forms) <= 8
    assert text.count("GENERATE") >= 4 * len(NEW_BITS)


BY_HAND = """
columns 8
code
    LITERAL 3 bits x 2 rows  ; a comment
    ZERO 1 rows
    LOOP 2 instructions x 1 more
    END
rows
    1 2 3 -4 0 0 0 0
    0 0 0 0 0 0 0 3
    0 0 0 0 0 0 0 0
    -1 -1 -1 -1 -1 -1 -1 -1
    0 1 0 1 0 1 0 1
    0 0 0 0 0 0 0 0
"""


def test_a_program_written_by_hand():
    program, columns = parse(BY_HAND)
    weights, _ = decode(program, columns)
    assert weights[:2].tolist() == [[1, 2, 3, -4, 0, 0, 0, 0], [0, 0, 0, 0, 0, 0, 0, 3]]
    assert (weights[3] == -1).all()
    assert len(program.literals) == 2 * 8


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("columns 8", "columns 7", "line 2: columns must be one of 8, 16, 32, 64, not 7"),
        ("columns 8", "", "line 3: say the machine's columns first"),
        (
            "ZERO 1 rows",
            "ZERO one rows",
            "line 5: 'ZERO one rows' is no instruction: write it like 'ZERO 4 rows'",
        ),
        ("ZERO 1 rows", "NOP", "line 5: there is no instruction 'NOP': choose one of GENERATE, LITERAL"),
        ("3 bits", "9 bits", "line 4: LITERAL with count 2 and argument 9 is no instruction: .* 1 to 8"),
        ("ZERO 1 rows", "SEEK literal word 3", "line 5: SEEK goes to every 2nd word of literals"),
        ("    END\n", "", "does not end: write END"),
        ("3 -4 0", "3 -4 300", "line 9: a row is 8 numbers from -128 to 127"),
        ("1 2 3 -4 0", "1 2 3 -4", "line 9: a row is 8 numbers from -128 to 127, not 7"),
        ("1 2 3", "a b c", "line 9: .* is no row: write 8 numbers"),
        ("1 2 3 -4", "1 2 3 -5", "cannot make rows 0 to 1: a weight there takes 4 bits"),
        ("rows\n    1", "code\n    1", "line 8: there is a section code already"),
        ("code\n", "", "line 3: .* is in no section"),
        ("\nrows\n", "\nliterals\n", "line 9: .* is no word: write 8 bytes, 16 hexadecimal digits"),
        ("code\n", "literals\ncode\n", "leave out literals and coded"),
        ("    0 1 0 1 0 1 0 1\n    0 0 0 0 0 0 0 0\n", "", "the instructions make 6 rows, but there are 4"),
    ],
)
def test_errors_name_the_line(old, new, message):
    with pytest.raises(InputError, match=message):
        parse(BY_HAND.replace(old, new))


def test_command_line(tmp_path, chain, capsys):
    network = chain(5, 5, 8).conv(8).network()
    image, text, again = tmp_path / "a.kg", tmp_path / "a.kasm", tmp_path / "b.kg"
    save_image(compile(network, UP5K), image)
    assert main(["disassemble", str(image), "-o", str(text)]) == 0
    assert main(["assemble", str(text), "--into", str(image), "-o", str(again)]) == 0
    assert load_image(again) == load_image(image)
    content = text.read_text()
    text.write_text(content.replace("columns 8", "columns 16"))
    assert main(["assemble", str(text), "--into", str(image), "-o", str(again)]) == 1
    assert "a.kasm: line" in capsys.readouterr().err
    text.write_text(content.replace("literals\n", "literals\n    0011223344556677\n"))
    assert main(["assemble", str(text), "--into", str(image), "-o", str(again)]) == 1
    assert "the weight program takes 8 bytes more than the image has for it" in capsys.readouterr().err
