"""The network alone: configuration, encoding, neuron, norm. Needs torch and nothing else."""

from .config import ENCODINGS, LAYOUTS, NORMS, LayerSpec, ModelConfig
from .network import PRECISIONS, SpikingNetwork, build_model, spike_counts

__all__ = [
    "ENCODINGS",
    "LAYOUTS",
    "NORMS",
    "PRECISIONS",
    "LayerSpec",
    "ModelConfig",
    "SpikingNetwork",
    "build_model",
    "spike_counts",
]
