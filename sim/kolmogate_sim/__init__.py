"""Simulation of the gateware: the device in process, stream test support, cocotb benches."""
