"""The kinds of tokenizers: `EncoderConfig.granularity` names one."""

from __future__ import annotations

from semantoks.model.tokenizers.base import Tokenizer
from semantoks.model.tokenizers.connectome import ConnectomeTokenizer
from semantoks.model.tokenizers.networks import SemanticTokenizer, WholeBrainTokenizer
from semantoks.model.tokenizers.rois import RoiTokenizer
from semantoks.model.tokenizers.vq import VQTokenizer

TOKENIZERS: dict[str, type[Tokenizer]] = {
    "networks": SemanticTokenizer,
    "one": WholeBrainTokenizer,
    "rois": RoiTokenizer,
    "connectome": ConnectomeTokenizer,
    "vq": VQTokenizer,
}
