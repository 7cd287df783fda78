"""Training networks whose programs are short: ``python -m kolmogate.train RECIPE -o FOLDER``.

Quantisation-aware training in the terms of weight programs. Weights are small integers, pressed towards few
bytes of the entropy coder while they learn; channels that do nothing are dropped; weights that wander between
two integers are frozen; scales and biases are the coarse numbers that the machine stores in few bytes. What
comes out is an int8 .tflite that the exact compiler takes like any other.

Needs PyTorch (the extra ``train``) and the images of a data set, as packages bring them.
"""
