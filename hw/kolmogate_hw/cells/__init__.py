"""Vendor cells behind the portable components.

A component whose portable form does not map well asks `family` which chip it is elaborated for, and becomes
the cells of that chip. Simulators elaborate for no platform and see the portable form; cocotb benches run
the other one against the same model.
"""

from .families import ICE40_ULTRAPLUS, Family, family

__all__ = ["ICE40_ULTRAPLUS", "Family", "family"]
