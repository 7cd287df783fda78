"""Lossy compression after training: a network rewritten so that its weights have short programs."""

from .compress import Compressed, compress

__all__ = ["Compressed", "compress"]
