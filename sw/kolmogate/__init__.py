"""Kolmogate: neural networks whose weights are regenerated on chip from compact programs.

The host's side: import a trained int8 `.tflite`, compile it to an image, run the image.

    network = kolmogate.load_tflite("model.tflite")
    image = kolmogate.compile(network, kolmogate.configuration("up5k"))
    with kolmogate.open("rtl", image.config) as device:
        y = device.load(image)(x)
"""

from .compiler import compile
from .config import configuration
from .container import load_image, save_image
from .errors import KolmogateError
from .runtime import open
from .tflite_import import load_tflite

__all__ = ["KolmogateError", "compile", "configuration", "load_image", "load_tflite", "open", "save_image"]
