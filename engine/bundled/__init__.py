"""Networks that come with the project; what each is and how it was made stands beside it."""

from pathlib import Path

FOLDER = Path(__file__).parent


def names() -> list[str]:
    """Every bundled network."""
    return sorted(path.stem for path in FOLDER.glob("*.safetensors"))


def path(name: str) -> Path:
    """The file of a bundled network."""
    return FOLDER / f"{name}.safetensors"
