"""Products in logic cells, where a chip has fewer multiplier cells than the machine has products."""

from amaranth.hdl import Mux, Value

__all__ = ["logic_product"]


def logic_product(a: Value, b: Value) -> Value:
    """``a * b`` of signed numbers, as a sum that tools do not take for a multiplication."""
    parts = [Mux(b[k], a, 0) << k for k in range(len(b))]
    # The sign bit counts negative. In pairs, so that the adders are a tree.
    parts[-1] = -parts[-1]
    while len(parts) > 1:
        parts = [sum(parts[k + 1 : k + 2], parts[k]) for k in range(0, len(parts), 2)]
    return parts[0]
