"""Builders of small checkpoint files for the tests, in the published layout and in others."""

import io

import torch


def norm_stack(prefix, steps, width, gen):
    """A BNTT stack as nn.ModuleList of BatchNorms without β writes it."""
    stack = {}
    for t in range(steps):
        stack[f"{prefix}.{t}.weight"] = 0.5 + torch.rand(width, generator=gen)
        stack[f"{prefix}.{t}.running_mean"] = 0.1 * torch.randn(width, generator=gen)
        stack[f"{prefix}.{t}.running_var"] = 0.1 + torch.rand(width, generator=gen)
        stack[f"{prefix}.{t}.num_batches_tracked"] = torch.tensor(7)
    return stack


def published_state(widths=(2, 2, 3, 3), steps=3, channels=1, classes=10, inputs=3 * 4 * 4, hidden=4, seed=0):
    """state_dict in the published layout; four convolutions are vgg-small, whose `inputs` follow from a side of 16."""
    gen = torch.Generator().manual_seed(seed)
    state = {}
    for i, (c_in, c_out) in enumerate(zip((channels, *widths), widths), start=1):
        state[f"conv{i}.weight"] = torch.randn(c_out, c_in, 3, 3, generator=gen)
        state |= norm_stack(f"bntt{i}", steps, c_out, gen)
    state["fc1.weight"] = torch.randn(hidden, inputs, generator=gen)
    state |= norm_stack("bntt_fc", steps, hidden, gen)
    state["fc2.weight"] = torch.randn(classes, hidden, generator=gen)
    return state


def torch_bytes(content, **options):
    """What torch.save writes."""
    buffer = io.BytesIO()
    torch.save(content, buffer, **options)
    return buffer.getvalue()


def legacy_bytes(content):
    """What torch.save wrote before torch 1.6."""
    return torch_bytes(content, _use_new_zipfile_serialization=False)
