"""The control of the core, cycle by cycle: what the gateware does, without the data it does it to.

Each function is of a unit of `kolmogate_hw`, with its registers under its names. In a cycle all signals
between the units are worked out first, from the registers alone (`inference`); then each unit's ``clock_*``
function gives its registers their next values. Addresses count where alignment does: they need not wrap, as
only their lowest bits are looked at. Pointers that the gateware counts modulo something count on.
"""

from .decoder import LOOP, PREDICT, ROWS, SEEK, SKIP, STOP
from .inference import DONE, RUNNING, STUCK, run
from .sequencer import ARRAY, END, FILL, RESIDUAL

__all__ = [
    "ARRAY",
    "DONE",
    "END",
    "FILL",
    "LOOP",
    "PREDICT",
    "RESIDUAL",
    "ROWS",
    "RUNNING",
    "SEEK",
    "SKIP",
    "STOP",
    "STUCK",
    "run",
]
