"""Files ⇄ networks. Every file is taken for hostile: nothing in it is executed, and no size it claims is believed."""

from .checkpoint import Checkpoint, load_checkpoint
from .errors import CheckpointError
from .guess import Note
from .layout import Stack
from .writer import save_checkpoint

__all__ = ["Checkpoint", "CheckpointError", "Note", "Stack", "load_checkpoint", "save_checkpoint"]
