"""Loading a checkpoint of this program or of the published code."""

from ..errors import CheckpointError
from ..system import storage
from .files import load_tensors, resolve
from .format import FORMAT, PARTS, TO_SAMPLE, VERSION, is_weights
from .published import read_published


def load_checkpoint(path):
    """The checkpoint at `path` (a file or a blob), on the CPU, as a dict of the keys that `format` describes.

    A bare state dict of published code comes as {"step", "samples", "flags": None, "weights", "ema", "optimizer"},
    with the average and the optimizer that lie beside it. CheckpointError: missing, truncated, unsafe or foreign.
    """
    if reason := storage.unknown_store(path):
        raise CheckpointError(f"{path}: {reason}")
    path = resolve(path)
    content = load_tensors(path)
    if isinstance(content, dict) and content.get("format") == FORMAT:
        version = content.get("version")
        if not isinstance(version, int) or version != VERSION:
            raise CheckpointError(f"{path}: written by another version of this program (format {version})")
        damaged = [name for name, is_sound in PARTS.items() if name in content and not is_sound(content[name])]
        if damaged := damaged + [name for name in TO_SAMPLE if name not in content]:
            raise CheckpointError(f"{path}: parts of it are missing or damaged ({', '.join(damaged)}); use another one")
        return content
    if is_weights(content) and any(key.endswith("time_embed.0.weight") for key in content):
        return read_published(path, content)
    raise CheckpointError(f"{path}: not a checkpoint of this program or of the published code")
