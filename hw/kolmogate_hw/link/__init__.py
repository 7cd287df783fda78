"""The device's end of the link: bytes in, memory accesses and runs out, bytes back."""

from .cobs import Decoder, Encoder
from .link import Link
from .turn import Turn

__all__ = ["Decoder", "Encoder", "Link", "Turn"]
