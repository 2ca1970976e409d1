"""What tells one set of weights from another, wherever it was loaded from."""

import hashlib

from torch import nn


def weights_digest(module: nn.Module) -> str:
    """A hash of names, shapes and a sample of values of all parameters and buffers of a model or a dictionary."""
    digest = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        flat = tensor.detach().flatten()
        sample = flat[:: max(1, flat.numel() // 256)].double().cpu().numpy()
        digest.update(f"{name} {list(tensor.shape)} {tensor.dtype}".encode() + sample.tobytes())
    return digest.hexdigest()
