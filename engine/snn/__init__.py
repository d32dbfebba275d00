"""The network alone: configuration, encoding, neuron, norm. Needs torch and nothing else."""

from .config import ENCODINGS, KINDS, LAYOUTS, NORMS, LayerSpec, ModelConfig, sequence_steps
from .network import PRECISIONS, SpikingNetwork, build_model, spike_counts
from .neuron import SHAPES, TRAINED, Surrogate

__all__ = [
    "ENCODINGS",
    "KINDS",
    "LAYOUTS",
    "NORMS",
    "PRECISIONS",
    "SHAPES",
    "TRAINED",
    "LayerSpec",
    "ModelConfig",
    "SpikingNetwork",
    "Surrogate",
    "build_model",
    "sequence_steps",
    "spike_counts",
]
