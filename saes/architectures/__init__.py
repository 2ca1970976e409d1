"""Dictionary architectures by the name that files and the command line use."""

from saes.architectures.affine import AffineDictionary, Shape, stack, unstack
from saes.architectures.batch_topk import BatchTopKConfig, BatchTopKDictionary
from saes.architectures.crosscoder import CrosscoderConfig, CrosscoderDictionary
from saes.architectures.gated import GatedConfig, GatedDictionary
from saes.architectures.jumprelu import JumpReLUConfig, JumpReLUDictionary
from saes.architectures.matryoshka import MatryoshkaConfig, MatryoshkaDictionary
from saes.architectures.relu import ReLUConfig, ReLUDictionary
from saes.architectures.topk import TopKConfig, TopKDictionary
from saes.architectures.transcoder import transcoder

ARCHITECTURES: dict[str, type[AffineDictionary]] = {
    kind.architecture: kind
    for kind in (
        ReLUDictionary,
        GatedDictionary,
        TopKDictionary,
        BatchTopKDictionary,
        JumpReLUDictionary,
        MatryoshkaDictionary,
        CrosscoderDictionary,
    )
}

__all__ = [
    "ARCHITECTURES",
    "AffineDictionary",
    "BatchTopKConfig",
    "BatchTopKDictionary",
    "CrosscoderConfig",
    "CrosscoderDictionary",
    "GatedConfig",
    "GatedDictionary",
    "JumpReLUConfig",
    "JumpReLUDictionary",
    "MatryoshkaConfig",
    "MatryoshkaDictionary",
    "ReLUConfig",
    "ReLUDictionary",
    "Shape",
    "TopKConfig",
    "TopKDictionary",
    "stack",
    "transcoder",
    "unstack",
]
