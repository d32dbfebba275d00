"""What is said about a file that cannot be opened."""

from __future__ import annotations


class CheckpointError(Exception):
    """A file that cannot be read or written; one sentence that names the file, what is wrong and what to do."""


class Refusal(Exception):
    """What is wrong, without the file's name, which only load_checkpoint knows and puts in front."""


def shown(text: object, limit: int = 80) -> str:
    """Text from a file made fit for a message: one line, printable, not too long."""
    line = "".join(letter if letter.isprintable() else "?" for letter in str(text)[: limit + 1])
    return line if len(line) <= limit else line[:limit] + "…"


def shape_text(shape) -> str:
    """(64, 3, 3, 3) → 64×3×3×3; () → a single number."""
    return "×".join(map(str, shape)) or "a single number"
