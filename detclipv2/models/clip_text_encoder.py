"""CLIP's text encoder: a causal transformer over byte pairs, pooled at [EOS].

Shapes: M texts, L tokens, W width, D embedding width.
"""

import hashlib
import json
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from open_clip.tokenizer import SimpleTokenizer, default_bpe
from open_clip.transformer import QuickGELU, TextTransformer
from pydantic import ConfigDict, TypeAdapter
from torch import Tensor, nn

from detclipv2.foreign_files import read_bounded
from detclipv2.models.text_encoder import TextEncoder
from detclipv2.ranges import check_ranges, whole

_FILE = "text_encoder.json"
_NUM_BYTE_PAIRS = 49_408


@dataclass(frozen=True, kw_only=True)
class ClipTextArchitecture:
    """Shape of the transformer; the defaults are those of FILIP-base and of CLIP's ViT-B models."""

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid", strict=True)

    width: int = 512  # W
    num_layers: int = 12
    num_heads: int = 8
    # Not to be seen in a state dict: OpenAI's and FILIP's weights were trained with "quick_gelu".
    activation: Literal["gelu", "quick_gelu"] = "gelu"

    def __post_init__(self) -> None:
        """Raise ValueError for sizes that no such encoder has."""
        check_ranges(self, width=whole(1, 4096), num_layers=whole(1, 64), num_heads=whole(1, 256))
        if self.width % self.num_heads:
            raise ValueError(f"width {self.width}: a multiple of num_heads, {self.num_heads}")

    @property
    def num_weights(self) -> int:
        """About how many numbers the transformer takes: 12 matrices of the width a layer, and the table of byte pairs."""
        return (12 * self.width * self.num_layers + _NUM_BYTE_PAIRS) * self.width


@dataclass(frozen=True, kw_only=True)
class _Saved:
    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid", strict=True)

    architecture: ClipTextArchitecture
    byte_pairs_sha256: str


@cache
def _byte_pairs_sha256() -> str:
    return hashlib.sha256(Path(default_bpe()).read_bytes()).hexdigest()


class ClipTextEncoder(TextEncoder):
    """The text encoder of DetCLIPv2 (section 3.2 of arXiv:2304.04514), with fresh weights.

    ``text.clip_weights`` loads pre-trained ones. The projection has no bias, as in CLIP, so ``centre`` does nothing. Texts longer
    than ``max_tokens`` are cut; [BOS] and [EOS] are counted and always kept. Gradient checkpointing recomputes a trained
    transformer's activations in the backward pass.

    Raises:
        ValueError: ``max_tokens`` leaves no token between [BOS] and [EOS].
    """

    transformer: TextTransformer

    def __init__(
        self,
        architecture: ClipTextArchitecture,
        *,
        embed_dim: int,
        max_tokens: int = 16,
        training_mode: Literal["frozen", "trained"] = "frozen",
        gradient_checkpointing: bool = False,
    ) -> None:
        if max_tokens < 3:
            raise ValueError(f"max_text_tokens {max_tokens}: at least 3, one between [BOS] and [EOS]")
        tokenizer = SimpleTokenizer(context_length=max_tokens)
        transformer = TextTransformer(
            context_length=max_tokens,
            vocab_size=tokenizer.vocab_size,
            width=architecture.width,
            heads=architecture.num_heads,
            layers=architecture.num_layers,
            output_dim=None,
            act_layer=QuickGELU if architecture.activation == "quick_gelu" else nn.GELU,
        )
        transformer.set_grad_checkpointing(gradient_checkpointing and training_mode == "trained")
        super().__init__(
            transformer,
            width=architecture.width,
            embed_dim=embed_dim,
            projection_bias=False,
            max_tokens=max_tokens,
            training_mode=training_mode,
        )
        self.architecture = architecture
        self.tokenizer = tokenizer

    def _num_tokens(self, texts: list[str]) -> list[int]:
        return [last + 1 for last in self.tokenizer(texts).argmax(-1).tolist()]

    def _encode(self, texts: list[str], *, num_tokens: int | None = None) -> Tensor:
        tokens = self.tokenizer(texts)  # [M, max_tokens]
        last = tokens.argmax(-1)  # [EOS] has the highest number
        length = num_tokens or int(last.max()) + 1
        tokens, last = tokens[:, :length].to(self.device), last.to(self.device)
        tower = self.transformer
        # What follows the longest text's [EOS] is padding, which nothing looks at: attention is causal.
        hidden = tower.token_embedding(tokens) + tower.positional_embedding[:length]  # [M, L, W]
        hidden = tower.transformer(hidden, attn_mask=tower.attn_mask[:length, :length])
        return tower.ln_final(hidden[torch.arange(len(texts), device=self.device), last])

    def _saved(self) -> dict[str, Any]:
        return asdict(_Saved(architecture=self.architecture, byte_pairs_sha256=_byte_pairs_sha256()))

    def save(self, folder: Path) -> None:
        """Write text_encoder.json: the architecture, and the digest of the byte pairs, which open_clip ships."""
        folder.mkdir(parents=True, exist_ok=True)
        (folder / _FILE).write_text(json.dumps(self._saved(), indent=2) + "\n")

    def description(self) -> dict[str, Any]:
        """Class, token limit, architecture and the byte pairs' digest."""
        return {"class": "ClipTextEncoder", "max_tokens": self.max_tokens, **self._saved()}


def saved_architecture(folder: Path) -> ClipTextArchitecture:
    """The architecture of the encoder that ``ClipTextEncoder.save`` wrote into ``folder``.

    Raises:
        ValueError: there is none, it is damaged, or the installed open_clip has other byte pairs.
    """
    path = folder / _FILE
    try:
        saved = TypeAdapter(_Saved).validate_json(read_bounded(path, max_bytes=2**16))
    except FileNotFoundError as error:
        raise ValueError(f"no text encoder in {folder}: it needs {_FILE}") from error
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} describes no text encoder: {error}") from error
    if saved.byte_pairs_sha256 != _byte_pairs_sha256():
        raise ValueError(
            f"{path}: made with byte pairs {saved.byte_pairs_sha256[:12]}, open_clip has {_byte_pairs_sha256()[:12]};"
            " install the release of open_clip that it was trained with"
        )
    return saved.architecture
