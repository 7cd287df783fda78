"""``python -m kolmogate.train RECIPE -o FOLDER``: train the network of a recipe, write it as int8 TFLite."""

import argparse
import json
import sys
from pathlib import Path

import numpy as np
from tqdm import tqdm

from .. import golden
from ..compiler import compile
from ..config import configuration
from ..errors import KolmogateError, ToolMissingError
from ..network import Network
from ..tflite_export import save_tflite
from ..tflite_import import load_tflite
from .recipe import load_recipe


def main(arguments: list[str] | None = None) -> int:
    """Train, export and measure; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m kolmogate.train", description=__doc__)
    parser.add_argument("recipe", type=Path, help="a recipe.toml, such as models/lenet5/recipe.toml")
    parser.add_argument(
        "-o",
        "--output",
        type=Path,
        required=True,
        metavar="FOLDER",
        help="where NAME.tflite, NAME.json and the checkpoint go; training goes on from a checkpoint there",
    )
    parser.add_argument("--seed", type=int, help="another seed than the recipe's")
    options = parser.parse_args(arguments)
    try:
        _train(options.recipe, options.output, options.seed)
    except KolmogateError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("interrupted; the same command goes on from the last epoch", file=sys.stderr)
        return 130
    return 0


def _train(path: Path, folder: Path, seed: int | None) -> None:
    recipe = load_recipe(path, seed=seed)
    # Said now, before the long part.
    try:
        import torch
    except ModuleNotFoundError:
        raise ToolMissingError("PyTorch is not installed: run `pip install 'kolmogate[train]'`") from None

    from .data import load_images
    from .export import TARGET, input_bytes, to_network
    from .trainer import Trainer

    # One thread: the same machine repeats the same weights.
    torch.set_num_threads(1)
    images = load_images(recipe.dataset, recipe.images)
    folder.mkdir(parents=True, exist_ok=True)
    model = Trainer(recipe, images, folder / f"{recipe.name}.checkpoint", tqdm.write).run()
    target = folder / f"{recipe.name}.tflite"
    save_tflite(to_network(model, recipe, images.validation), target)

    # What counts is what the file says, so it is read back.
    network = load_tflite(target)
    image = compile(network, configuration(TARGET), objective="smallest")
    report = image.report()
    result = {
        "recipe": path.name,
        "seed": recipe.seed,
        "weights": report["weights"],
        "bytes": report["sections"]["programs"] + report["sections"]["constants"],
        "device_bytes": image.device_bytes,
        "validation_errors": _errors(
            network, input_bytes(images.validation), images.validation.labels.numpy()
        ),
        "test_errors": _errors(network, input_bytes(images.test), images.test.labels.numpy()),
        "test_images": len(images.test),
    }
    (folder / f"{recipe.name}.json").write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result, indent=2))


def _errors(network: Network, x: np.ndarray, labels: np.ndarray) -> int:
    """Images that the golden model classifies wrongly."""
    batches = tqdm(range(0, len(x), 500), desc="golden model", leave=False)
    y = np.concatenate([golden.run(network, x[start : start + 500]) for start in batches])
    return int((y.reshape(len(x), -1).argmax(axis=1) != labels).sum())


if __name__ == "__main__":
    sys.exit(main())
