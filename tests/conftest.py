"""Fixtures that several folders of tests use."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

Int8Array = npt.NDArray[np.int8]


@pytest.fixture(scope="session")
def models_folder() -> Path:
    """The folder of the MLPerf Tiny networks, named by the variable KOLMOGATE_MODELS."""
    folder = os.environ.get("KOLMOGATE_MODELS")
    if not folder:
        pytest.skip("KOLMOGATE_MODELS is not set: it names the folder of the MLPerf Tiny networks")
    if not Path(folder).is_dir():
        pytest.fail(f"KOLMOGATE_MODELS names {folder}, which is not a folder")
    return Path(folder)


def _reference_interpreter(path: Path, keep_all: bool) -> Any:
    from ai_edge_litert.interpreter import Interpreter, OpResolverType

    # Other resolvers differ from the reference kernels in the last bit.
    interpreter = Interpreter(
        model_path=str(path),
        experimental_op_resolver_type=OpResolverType.BUILTIN_REF,
        experimental_preserve_all_tensors=keep_all,
    )
    interpreter.allocate_tensors()
    return interpreter


@pytest.fixture(scope="session")
def referee() -> Callable[[Path, Int8Array], Int8Array]:
    """``referee(path, x)``: outputs of a .tflite file under LiteRT's reference kernels, batch first."""

    def run(path: Path, x: Int8Array) -> Int8Array:
        interpreter = _reference_interpreter(path, keep_all=False)
        source, output = interpreter.get_input_details()[0], interpreter.get_output_details()[0]
        results = []
        for value in x:
            interpreter.set_tensor(source["index"], value[None])
            interpreter.invoke()
            results.append(interpreter.get_tensor(output["index"])[0])
        return np.stack(results)

    return run


@pytest.fixture(scope="session")
def referee_tensors() -> Callable[[Path, Int8Array, list[str]], dict[str, Int8Array]]:
    """``referee_tensors(path, x, names)``: like ``referee``, but the named tensors, intermediate or not."""

    def run(path: Path, x: Int8Array, names: list[str]) -> dict[str, Int8Array]:
        interpreter = _reference_interpreter(path, keep_all=True)
        source = interpreter.get_input_details()[0]["index"]
        indices = {tensor["name"]: tensor["index"] for tensor in interpreter.get_tensor_details()}
        results: dict[str, list[Int8Array]] = {name: [] for name in names}
        for value in x:
            interpreter.set_tensor(source, value[None])
            interpreter.invoke()
            for name in names:
                results[name].append(interpreter.get_tensor(indices[name])[0])
        return {name: np.stack(values) for name, values in results.items()}

    return run
