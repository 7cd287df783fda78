"""Gateware of the Kolmogate accelerator, in Amaranth."""
