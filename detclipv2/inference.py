"""Inference: detect whatever you can name, in three lines.

Example::

    predictor = Predictor.from_pretrained("outputs/model")
    detections = predictor("photo.jpg", names=["red apple", "guitar"])
    print(detections.boxes_xyxy, detections.scores, detections.labels)

Shapes: M names, D embedding width.
"""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Unpack, overload

import torch
from torch import Tensor
from torchvision.ops import clip_boxes_to_image
from torchvision.transforms.v2 import functional as F

from detclipv2 import hub
from detclipv2.data.image_input import ImageInput, image_pixels, is_image, pixels_of_each
from detclipv2.data.transforms import canvas_size, fitted_size, pad_to_canvas
from detclipv2.models.detector import DetCLIPv2
from detclipv2.models.postprocess import DetectionOptions, postprocess
from detclipv2.structures import Detections
from detclipv2.text.dictionary import ConceptDictionary
from detclipv2.text.embedding_cache import TextEmbeddingCache
from detclipv2.text.enrichment import Enricher
from detclipv2.vocabulary import Names, Vocabulary, checked_names

TEXTS_AT_ONCE = 256  # that pass through the text encoder


class Predictor:
    """A trained detector, ready for images and names.

    Args:
        detector: trained weights; it is put in evaluation mode.
        image_size: images are resized, keeping their aspect ratio, until their longer side is this many pixels,
        shorter_size: or their shorter side this many, whichever comes first.
        device: where to compute.
        prompt: names are set into it before they are encoded, as in training.
        dictionary: the concept dictionary whose definitions follow the names, if they did so in training.
        vocabulary: what is detected when a call gives no names.
        cache: of text embeddings on disk, which ``set_vocabulary`` uses.

    Raises:
        ValueError: the prompt has no "{}".
    """

    def __init__(
        self,
        detector: DetCLIPv2,
        *,
        image_size: int,
        shorter_size: int | None = None,
        device: str | torch.device = "cpu",
        prompt: str = "{}",
        dictionary: ConceptDictionary | None = None,
        vocabulary: Vocabulary | None = None,
        cache: TextEmbeddingCache | None = None,
    ) -> None:
        self.detector = detector.to(device).eval()
        self.image_size = image_size
        self.shorter_size = shorter_size
        self.device = torch.device(device)
        self._cache = cache
        self.dictionary = dictionary
        self._enricher = Enricher(
            dictionary,
            prompt=prompt,
            definitions=dictionary is not None,
            encode=self.detector.text_encoder.features,
        )
        self.vocabulary = vocabulary and replace(vocabulary, embeddings=vocabulary.embeddings.to(device))

    @classmethod
    def from_pretrained(
        cls, source: str | Path, *, device: str | torch.device = "cpu", cache: TextEmbeddingCache | None = None
    ) -> "Predictor":
        """A predictor from what ``save_pretrained`` wrote, with the vocabulary that came with it.

        ``source`` is a model folder, or the id of a model on the Hugging Face Hub.

        Raises:
            ValueError: there is no such model, it is damaged, or of another layout.
        """
        found = hub.from_pretrained(source)
        return cls(
            found.detector,
            image_size=found.image_size,
            shorter_size=found.shorter_size,
            device=device,
            prompt=found.config.prompt,
            dictionary=found.dictionary,
            vocabulary=found.vocabulary,
            cache=cache,
        )

    @torch.inference_mode()
    def encode_names(self, names: Names, *, own_definitions: Mapping[str, str] | None = None) -> Tensor:
        """Text embeddings [M, D] of names, to be used for many images; `detclipv2.vocabulary.checked_names` says which there are.

        Where the model was trained with definitions behind the names, they are put there; ``own_definitions``, by name, come
        before those of the model's dictionary. A name that occurs twice has the same embedding twice. The numbers that a name
        gets among others differ from those that it gets alone in the last bits (1e-6), since the encoder pads texts to a common
        length.

        Raises:
            ValueError: there are no names, or one is empty or not a text.
        """
        texts = self._enricher.texts(checked_names(names), own_definitions=own_definitions)
        # Neighbours of similar length: less padding, and a batch that does not depend on the order of the names.
        distinct = sorted(set(texts), key=lambda text: (len(text), text))
        starts = range(0, len(distinct), TEXTS_AT_ONCE)
        encoded = torch.cat([self.detector.text_encoder(distinct[start : start + TEXTS_AT_ONCE]) for start in starts])
        row = {text: index for index, text in enumerate(distinct)}
        return encoded[[row[text] for text in texts]]

    def set_vocabulary(self, names: Names) -> None:
        """Embed ``names`` once; calls without names look for these.

        Raises:
            ValueError: there are no names, or one is empty or not a text.
        """
        listed = checked_names(names)
        if self._cache is None:
            embeddings = self.encode_names(listed)
        else:
            embeddings = self._cache.embeddings(self.detector.text_encoder, self._enricher.texts(listed))
        self.vocabulary = Vocabulary(names=listed, embeddings=embeddings)

    @overload
    def __call__(  # type: ignore[overload-overlap]  # a path is an iterable of texts, too
        self, image: ImageInput, *, names: Names | Tensor | None = ..., **options: Unpack[DetectionOptions]
    ) -> Detections: ...

    @overload
    def __call__(
        self, image: Iterable[ImageInput], *, names: Names | Tensor | None = ..., **options: Unpack[DetectionOptions]
    ) -> list[Detections]: ...

    @torch.inference_mode()
    def __call__(
        self,
        image: ImageInput | Iterable[ImageInput],
        *,
        names: Names | Tensor | None = None,
        **options: Unpack[DetectionOptions],
    ) -> Detections | list[Detections]:
        """Detections in pixels of ``image``, best first; a list of them for several images.

        A score depends on the image and on its name alone, not on the other names or images. A label is the position of a name
        in the order in which ``names`` (a dict of ids, too) gives them; a set has none, so it is taken as ``sorted(names)``.

        Args:
            image: a path, the bytes of an image file, a PIL image, or a NumPy array (H, W), (H, W, 3) in RGB or (H, W, 4);
                any mode and size; turned upright first where its EXIF data say so, and put on white where it is transparent.
                Or a list or another iterable of them, of which one at a time is in memory.
            names: what to look for, or the embeddings [M, D] of it from ``encode_names``; the vocabulary unless given.
            **options: ``score_threshold`` (0), ``nms_iou`` (0.6), ``max_detections`` (300) and ``pre_nms_topk`` (1000), as
                ``DetectionOptions`` explains them.

        Raises:
            ValueError: there is nothing to look for, or an image has no pixels or cannot be read.
        """
        texts = self._embeddings_of(names)
        if is_image(image):
            return self._detect(image_pixels(image), texts, options)
        return [self._detect(pixels, texts, options) for pixels in pixels_of_each(image)]

    def _embeddings_of(self, names: Names | Tensor | None) -> Tensor:
        if isinstance(names, Tensor):
            return self._checked_embeddings(names)
        if names is not None:
            return self.encode_names(names)
        if self.vocabulary is None:
            raise ValueError("nothing to look for: give names=[...], or call set_vocabulary([...]) first")
        return self.vocabulary.embeddings

    def _checked_embeddings(self, texts: Tensor) -> Tensor:
        width = self.detector.head.output.embed.out_channels
        if texts.ndim != 2 or texts.shape[1] != width or not len(texts) or not texts.is_floating_point():
            raise ValueError(
                f"names is a tensor {tuple(texts.shape)} of {texts.dtype}: this model's text embeddings are floats"
                f" [number of names, {width}], as its encode_names gives them"
            )
        return texts.to(self.device)

    def _detect(self, pixels: Tensor, texts: Tensor, options: DetectionOptions) -> Detections:
        """Detections of one image [3, H, W]; it has a canvas to itself, so that no neighbour can change its result."""
        height, width = pixels.shape[-2:]
        longer, shorter = self.image_size, self.shorter_size or self.image_size
        size_hw = fitted_size((height, width), longer=longer, shorter=shorter)
        resized = F.resize(pixels, list(size_hw), antialias=True)
        # The canvas of training: group normalisation sees the padding too.
        canvas = pad_to_canvas([resized], canvas_size(size_hw, longer=longer, shorter=shorter))
        found = postprocess(
            self.detector(canvas.to(self.device), [size_hw]),
            texts,
            logit_bias=self.detector.head.logit_bias,
            image_sizes_hw=[size_hw],
            **options,
        )[0]
        scale = torch.tensor([width / size_hw[1], height / size_hw[0]], device=self.device).repeat(2)
        return replace(found, boxes_xyxy=clip_boxes_to_image(found.boxes_xyxy * scale, (height, width)))
