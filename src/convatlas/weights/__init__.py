"""Weights that somebody else has trained: other libraries' files and our own runs, into a network of ours.

    report = load_weights(model, "vgg19_weights_tf_dim_ordering_tf_kernels_notop.h5")

``source`` finds and opens, ``torch_file`` and ``keras_file`` read, ``matching`` decides which layer of the file is
which of the network, ``report`` says what became of each, ``imagenet`` knows where ImageNet's are.
"""

from convatlas.weights.load import load_weights
from convatlas.weights.pretrained import PretrainedClassifier
from convatlas.weights.report import LoadReport
from convatlas.weights.source import Weights, open_weights

__all__ = ["LoadReport", "PretrainedClassifier", "Weights", "load_weights", "open_weights"]
