"""Who asks for the scratchpad, and who gets it."""

from numba import njit

from ..registers import Registers

__all__ = [
    "ACTIVATIONS_0",
    "ACTIVATIONS_1",
    "BORDERS",
    "CODE",
    "CODED",
    "DESCRIPTORS",
    "LITERALS",
    "OPERANDS",
    "OUTPUTS",
    "granted_of",
]

# Highest priority first. With two ports those that read have one for themselves, all but the activations of
# the first rows, and instructions come before literals.
OUTPUTS, ACTIVATIONS_0, OPERANDS, ACTIVATIONS_1 = 1, 2, 4, 8
DESCRIPTORS, CODED, BORDERS, LITERALS, CODE = 16, 32, 64, 128, 256
READS = ACTIVATIONS_1 | OPERANDS | CODE | LITERALS | CODED | DESCRIPTORS


@njit
def granted_of(machine: Registers, requests: int) -> int:
    """Those of the requests that are granted, one a port."""
    if machine.scratchpad_ports == 1:
        return requests & -requests
    reads, others = requests & READS, requests & ~READS
    sooner = reads & ~LITERALS
    reads = sooner if sooner else reads
    return (reads & -reads) | (others & -others)
