"""WordNet: definitions of nouns from Princeton's files (format: its manual page wndb(5))."""

from pathlib import Path

# Lexicographer files of what an image shows, the likelier ones first; measured on LVIS, whose categories name their sense:
# of 1,183 names in WordNet 3.0 the most frequent sense is right for 79 %, the most frequent one of these files for 87 %.
# Tops ("person"), animals, artifacts, parts of bodies, food, natural objects.
_THINGS = {"03", "05", "06", "08", "13", "17"}
_PERSONS_AND_PLANTS = {"18", "20"}


class WordNet:
    """Nouns of a WordNet 3 database and their definitions.

    Args:
        folder: holds ``index.noun``, ``data.noun`` and ``noun.exc``.

    Raises:
        ValueError: it does not.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        try:
            index = (folder / "index.noun").read_text(encoding="utf-8")
            self._data = (folder / "data.noun").read_bytes()
            exceptions = (folder / "noun.exc").read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ValueError(
                f"no WordNet database in {folder}: {error}; it needs index.noun, data.noun and noun.exc, which Debian's"
                " package wordnet-base has in /usr/share/wordnet and Princeton's archive in its folder dict"
            ) from error
        # Lines that begin with a blank are the licence. The senses end a line, the most frequent first, each as the place
        # of its line in data.noun.
        self._senses = {line.partition(" ")[0]: line for line in index.splitlines() if not line.startswith(" ")}
        self._exceptions = dict(line.split()[:2] for line in exceptions.splitlines() if " " in line)

    def definition(self, name: str) -> str | None:
        """What a name most often stands for in an image: the first clause of its gloss, or None for no noun of WordNet.

        Args:
            name: normalised; irregular plurals are known, regular ones are the caller's (`spellings`).

        Raises:
            ValueError: the database is damaged.
        """
        for variant in (name, name.replace("-", " ")):
            rest, _, last = variant.strip().rpartition(" ")
            for word in (last, self._exceptions.get(last, last)):
                lemma = "_".join([*rest.split(), word])
                if lemma in self._senses:
                    return self._gloss(lemma)
        return None

    def _gloss(self, lemma: str) -> str:
        fields = self._senses[lemma].split()
        try:
            synsets = [self._synset(int(place)) for place in fields[-int(fields[2]) :]]
        except (ValueError, IndexError) as error:
            raise ValueError(f"{self.folder}: the senses of {lemma!r} cannot be read: {error}") from error
        # "@i" marks instances: the writer Stephen Crane is no crane.
        kinds = [(head.split()[1], gloss) for head, gloss in synsets if " @i " not in head]
        for files in (_THINGS, _PERSONS_AND_PLANTS):
            for file, gloss in kinds:
                if file in files:
                    return _first_clause(gloss)
        return _first_clause(synsets[0][1])

    def _synset(self, place: int) -> tuple[str, str]:
        """The line at a place of data.noun, in front of and behind the bar."""
        line = self._data[place : self._data.index(b"\n", place)].decode()
        if not line.startswith(f"{place:08d} "):
            raise ValueError(f"no synset at {place} of data.noun")
        head, _, gloss = line.partition(" | ")
        return head, gloss.strip()


def _first_clause(gloss: str) -> str:
    """A gloss up to its first semicolon outside parentheses: without examples and further explanations."""
    depth = 0
    for position, character in enumerate(gloss):
        depth += (character == "(") - (character == ")")
        if character == ";" and depth <= 0:
            return gloss[:position].strip()
    return gloss
