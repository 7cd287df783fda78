"""Lowering: the network in the operations that the array has, in the order in which it runs them.

Every pass gives a network whose outputs are the same for every input.
"""

import math
from collections import Counter
from dataclasses import replace

import numpy as np

from .network import (
    Add,
    AveragePool2D,
    Conv2D,
    Dense,
    DepthwiseConv2D,
    Mean,
    Network,
    Operation,
    Relu,
    Reshape,
)

__all__ = ["lower"]

ADDABLE = (Conv2D, DepthwiseConv2D, Dense, AveragePool2D, Mean, Relu)
"""Operations that the residual adder may follow: they write each output once."""


def lower(network: Network) -> Network:
    """``network`` as the schedule takes it."""
    for step in (_sink_reshapes, _expand_multipliers, _order_additions):
        network = step(network)
        network.check()
    return network


def _sink_reshapes(network: Network) -> Network:
    """Reshapes move behind operations that work value by value, so that those see images."""
    tensors, operations = dict(network.tensors), list(network.operations)
    moved = True
    while moved:
        moved = False
        makers = {operation.output: operation for operation in operations}
        readers = Counter(name for operation in operations for name in operation.inputs)
        for index, operation in enumerate(operations):
            sources = [makers.get(name) for name in operation.inputs]
            if not isinstance(operation, Relu | Add) or not all(
                isinstance(source, Reshape)
                and readers[source.output] == operation.inputs.count(source.output)
                for source in sources
            ):
                continue
            before = [source.inputs[0] for source in sources if source is not None]
            shapes = {tensors[name].shape for name in before}
            if len(shapes) != 1:
                continue
            # The operation takes the name of the first reshape's output, whose shape it no longer has.
            inner = operation.inputs[0]
            output = tensors[operation.output]
            tensors[inner] = replace(output, name=inner, shape=shapes.pop())
            last = Reshape(f"{operation.name}_reshaped", (inner,), operation.output)
            gone = {id(source) for source in sources}
            operations[index : index + 1] = [replace(operation, inputs=tuple(before), output=inner), last]
            operations = [one for one in operations if id(one) not in gone]
            used = {network.input, *(one.output for one in operations)}
            tensors = {name: tensor for name, tensor in tensors.items() if name in used}
            moved = True
            break
    return replace(network, tensors=tensors, operations=tuple(operations))


def _expand_multipliers(network: Network) -> Network:
    """Depthwise convolutions with several outputs a channel become convolutions, zeros between channels."""

    def expand(operation: Operation) -> Operation:
        if not isinstance(operation, DepthwiseConv2D):
            return operation
        channels = network.tensors[operation.inputs[0]].shape[2]
        height, width, outputs = operation.weights.shape
        if channels in (1, outputs):
            return operation
        weights = np.zeros((outputs, height, width, channels), np.int8)
        each = np.arange(outputs)
        weights[each, :, :, each // (outputs // channels)] = operation.weights.transpose(2, 0, 1)
        return Conv2D(
            operation.name,
            operation.inputs,
            operation.output,
            weights,
            operation.bias,
            operation.window,
            operation.requantisation,
            operation.clamp,
        )

    return replace(network, operations=tuple(expand(operation) for operation in network.operations))


def _order_additions(network: Network) -> Network:
    """Before each addition stands the operation that makes one of its operands, if nothing else reads it.

    Of two such it is the one with more taps: adding costs time at each output.
    """
    readers = Counter(name for operation in network.operations for name in operation.inputs)
    makers = {operation.output: operation for operation in network.operations}
    last: dict[str, Operation] = {}
    for operation in network.operations:
        if not isinstance(operation, Add):
            continue
        candidates = [
            maker
            for name in operation.inputs
            if isinstance(maker := makers.get(name), ADDABLE)
            and readers[name] == 1
            and name != network.output
            and not (isinstance(maker, AveragePool2D) and any(maker.window.padding))
        ]
        if candidates:
            last[operation.output] = max(candidates, key=_taps)
    moved = {id(operation) for operation in last.values()}
    ordered: list[Operation] = []
    for operation in network.operations:
        if operation.output in last:
            ordered.append(last[operation.output])
        if id(operation) not in moved:
            ordered.append(operation)
    return replace(network, operations=tuple(ordered))


def _taps(operation: Operation) -> int:
    match operation:
        case Conv2D() | Dense():
            return operation.weights[0].size
        case DepthwiseConv2D():
            return operation.weights[..., 0].size
        case AveragePool2D():
            return math.prod(operation.window.size)
        case _:
            return 1
