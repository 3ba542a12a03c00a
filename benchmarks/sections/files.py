"""Files of synthetic vectors, made once and kept for the next section."""

from pathlib import Path

from measuring import tell
from synthetic_vectors import MixtureConfig, write_mixture


def mixture_file(vectors: int, width: int, scratch: Path) -> Path:
    """A float16 ``.npy`` file in the scratch folder."""
    path = scratch / f"mixture-{vectors}x{width}.npy"
    if not path.exists():
        tell(f"  writing {path.name}")
        write_mixture(MixtureConfig(vectors=vectors, width=width), path)
    return path
