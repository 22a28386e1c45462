"""Object categories of the scenes: a fixed, curated list of things that Twemoji draws and that English names in one or two words.

Base concepts have boxes in the detection and grounding scenes; novel ones occur in the captions of the image-text pairs
only, so that whatever a detector knows of them it learnt from image-text pairs. No word of a novel name is a word of a base
name (a box of "hot dog" would otherwise tell where a "dog" is), no two images are near twins, and both splits cover every
theme.
"""

from dataclasses import dataclass
from typing import Literal

Split = Literal["base", "novel"]


@dataclass(frozen=True, kw_only=True)
class Concept:
    """A thing with a name, an image and a definition."""

    name: str  # singular, lower case
    character: str  # the emoji whose Twemoji image shows it
    definition: str  # for LVIS's `def` and for concept enrichment
    split: Split


# fmt: off
_BASE = (
    # animals
    ("elephant", "🐘", "a very large grey animal with a trunk and tusks"),
    ("tiger", "🐅", "a large orange cat with black stripes"),
    ("camel", "🐫", "a desert animal with humps on its back"),
    ("panda", "🐼", "a bear with a white face and black ears"),
    ("rabbit", "🐇", "a small furry animal with long ears"),
    ("pig", "🐖", "a pink farm animal with a snout and a curly tail"),
    ("cow", "🐄", "a farm animal with black and white patches that gives milk"),
    ("frog", "🐸", "a green animal with bulging eyes that leaps"),
    ("snail", "🐌", "a slow animal that carries a coiled shell"),
    ("turtle", "🐢", "a green reptile with a hard shell"),
    ("butterfly", "🦋", "an insect with broad blue wings"),
    ("ladybug", "🐞", "a round red beetle with black spots"),
    ("penguin", "🐧", "a black and white bird of the cold south that swims"),
    ("duck", "🦆", "a water bird with a flat bill and a green head"),
    ("parrot", "🦜", "a colourful bird with a hooked beak"),
    ("crab", "🦀", "a red sea animal with two claws"),
    ("octopus", "🐙", "a sea animal with eight arms"),
    ("shark", "🦈", "a large fish with a fin on its back and sharp teeth"),
    # food
    ("red apple", "🍎", "a round red fruit with a stem and a leaf"),
    ("green apple", "🍏", "a round green fruit with a stem and a leaf"),
    ("banana", "🍌", "a long curved yellow fruit"),
    ("strawberry", "🍓", "a red fruit dotted with small seeds"),
    ("watermelon", "🍉", "a slice of a green fruit with red flesh"),
    ("lemon", "🍋", "a sour yellow fruit"),
    ("tomato", "🍅", "a round red vegetable with a green top"),
    ("carrot", "🥕", "a long orange root with green leaves"),
    ("broccoli", "🥦", "a green vegetable like a little tree"),
    ("pizza", "🍕", "a slice of flat bread with cheese and sausage"),
    ("hamburger", "🍔", "a bun with a meat patty and lettuce"),
    ("hot dog", "🌭", "a sausage in a long bun with mustard"),
    ("doughnut", "🍩", "a ring of fried dough with pink icing"),
    ("cookie", "🍪", "a round brown biscuit with chocolate chips"),
    ("cupcake", "🧁", "a small cake with icing in a paper cup"),
    ("lollipop", "🍭", "a swirl of hard candy on a stick"),
    ("wine glass", "🍷", "a glass with a stem that holds red wine"),
    # vehicles
    ("bicycle", "🚲", "a vehicle with two wheels and pedals"),
    ("airplane", "✈️", "a flying vehicle with two wings"),
    ("sailboat", "⛵", "a small boat that the wind drives"),
    ("tractor", "🚜", "a farm vehicle with large rear wheels"),
    ("ambulance", "🚑", "a white car that takes the sick to hospital"),
    ("taxi", "🚕", "a yellow car that carries passengers for money"),
    ("rocket", "🚀", "a vehicle that flies into space"),
    ("skateboard", "🛹", "a short board on four small wheels"),
    # tools
    ("hammer", "🔨", "a tool with a heavy head for driving nails"),
    ("screwdriver", "🪛", "a tool with a long blade for turning screws"),
    ("ladder", "🪜", "two rails with rungs to climb"),
    ("magnet", "🧲", "a red horseshoe that attracts iron"),
    ("bucket", "🪣", "an open pail with a handle"),
    ("microscope", "🔬", "an instrument that makes tiny things visible"),
    # instruments
    ("guitar", "🎸", "an instrument with six strings that is plucked"),
    ("trumpet", "🎺", "a brass horn with three valves"),
    ("drum", "🥁", "a round instrument that is beaten with sticks"),
    # clothing
    ("backpack", "🎒", "a bag with two straps that is carried on the back"),
    ("top hat", "🎩", "a tall black hat with a flat crown and a brim"),
    ("high heel", "👠", "a red shoe that lifts the heel"),
    ("scarf", "🧣", "a long strip of wool worn round the neck"),
    ("umbrella", "☂️", "a cloth canopy on a stick against the rain"),
    # household
    ("chair", "🪑", "a seat with a back and four legs"),
    ("toilet", "🚽", "a white bowl that is flushed with water"),
    ("alarm clock", "⏰", "a clock with bells that wakes a sleeper"),
    ("television", "📺", "a set that shows moving pictures"),
    ("laptop", "💻", "a portable computer that folds"),
    ("light bulb", "💡", "a glass globe that shines"),
    ("teddy bear", "🧸", "a stuffed brown toy"),
    ("red book", "📕", "a closed book with a red cover"),
    ("green book", "📗", "a closed book with a green cover"),
    # sports and outdoors
    ("soccer ball", "⚽", "a white ball with black patches that is kicked"),
    ("basketball", "🏀", "an orange ball that is thrown through a hoop"),
    ("trophy", "🏆", "a golden cup for the winner"),
    ("cactus", "🌵", "a green desert plant with spines"),
    ("sunflower", "🌻", "a tall yellow flower with a dark disc"),
    ("palm tree", "🌴", "a tropical tree with long fronds"),
    ("snowman", "⛄", "a figure of packed snow"),
    ("tent", "⛺", "a cloth shelter for camping"),
    ("robot", "🤖", "a machine with a metal head"),
)
_NOVEL = (
    # animals
    ("giraffe", "🦒", "a yellow animal with a very long neck and brown spots"),
    ("zebra", "🦓", "a wild horse with black and white stripes"),
    ("kangaroo", "🦘", "a brown animal of Australia that hops"),
    ("hedgehog", "🦔", "a small brown animal covered with spines"),
    ("fox", "🦊", "an orange animal with a pointed muzzle"),
    ("koala", "🐨", "a grey animal with round furry ears"),
    ("owl", "🦉", "a brown bird of the night with large eyes"),
    ("flamingo", "🦩", "a pink bird with long thin legs"),
    ("peacock", "🦚", "a blue bird with a fan of bright feathers"),
    ("dolphin", "🐬", "a blue sea animal with a beak that leaps"),
    ("lobster", "🦞", "a red sea animal with a long tail and large claws"),
    ("spider", "🕷️", "a black animal with eight legs"),
    ("snake", "🐍", "a long green reptile without legs"),
    ("scorpion", "🦂", "an animal with pincers and a sting in its tail"),
    # food
    ("pineapple", "🍍", "a large yellow fruit with a rough skin and spiky leaves"),
    ("pear", "🍐", "a green fruit that is narrow at the top"),
    ("avocado", "🥑", "a green fruit with a large brown stone"),
    ("eggplant", "🍆", "a long purple vegetable"),
    ("mushroom", "🍄", "a fungus with a red cap and white spots"),
    ("taco", "🌮", "a folded corn shell filled with meat and salad"),
    ("birthday cake", "🎂", "a frosted cake with burning wax sticks"),
    ("beer mug", "🍺", "a tankard of golden ale with foam"),
    ("teapot", "🫖", "a pot with a spout for brewing tea"),
    # vehicles
    ("motorcycle", "🏍️", "a heavy two-wheeler with an engine"),
    ("helicopter", "🚁", "an aircraft with a rotor on top"),
    ("canoe", "🛶", "a narrow boat that is paddled"),
    ("police car", "🚓", "a patrol vehicle with blue lights on the roof"),
    # tools
    ("wrench", "🔧", "a tool for turning nuts and bolts"),
    ("axe", "🪓", "a tool with a blade for chopping wood"),
    ("broom", "🧹", "a brush on a long handle for sweeping"),
    ("toolbox", "🧰", "a red case for hand tools"),
    ("telescope", "🔭", "a tube with lenses for looking at the stars"),
    # instruments
    ("violin", "🎻", "a wooden instrument that is played with a bow"),
    ("saxophone", "🎷", "a curved brass wind instrument with a reed"),
    ("accordion", "🪗", "an instrument with bellows and keys"),
    ("banjo", "🪕", "an instrument with a round body and a long neck"),
    # clothing
    ("crown", "👑", "a golden circlet that a king wears"),
    ("kimono", "👘", "a long robe of Japan with wide sleeves"),
    ("handbag", "👜", "a small bag that is carried in the hand"),
    ("sneaker", "👟", "a shoe for running"),
    # household
    ("bathtub", "🛁", "a tub for washing oneself"),
    ("camera", "📷", "a device that takes photographs"),
    ("hourglass", "⏳", "two bulbs through which sand runs"),
    ("toothbrush", "🪥", "a small brush for cleaning teeth"),
    ("padlock", "🔒", "a golden lock with a shackle"),
    # sports and outdoors
    ("kite", "🪁", "a toy that flies in the wind on a string"),
    ("volcano", "🌋", "a mountain that erupts"),
    ("castle", "🏰", "a stone building with towers"),
    ("unicorn", "🦄", "a white horse with a horn on its forehead"),
    ("dinosaur", "🦕", "an extinct giant reptile with a long neck"),
)
# fmt: on

_SPLITS: dict[Split, tuple[tuple[str, str, str], ...]] = {"base": _BASE, "novel": _NOVEL}
CONCEPTS: tuple[Concept, ...] = tuple(
    Concept(name=name, character=character, definition=definition, split=split)
    for split, rows in _SPLITS.items()
    for name, character, definition in rows
)
BASE_NAMES: tuple[str, ...] = tuple(concept.name for concept in CONCEPTS if concept.split == "base")
NOVEL_NAMES: tuple[str, ...] = tuple(concept.name for concept in CONCEPTS if concept.split == "novel")
