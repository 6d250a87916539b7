"""The things that the demo model learns, as well as coloured shapes: drawings, and how captions call them."""

from dataclasses import dataclass
from functools import cache
from pathlib import Path

from PIL import Image

_DRAWINGS = Path(__file__).parent / "drawings"


@dataclass(frozen=True, slots=True)
class Thing:
    """A thing with one drawing.

    Attributes:
        captions: how prompts call it, the usual one first.
        worn: where it sits on a face, a key of :data:`tools.train_demo.things.faces.PLACES`, or "".
        drawing: its name in Noto Emoji, or "" for a drawing of our own.
    """

    captions: tuple[str, ...]
    drawing: str
    worn: str = ""


THINGS: dict[str, Thing] = {
    "sunglasses": Thing(
        ("black sunglasses", "sunglasses", "black sun glasses", "a man with black sun glasses"),
        "sunglasses",
        "eyes",
    ),
    "hat": Thing(("a hat", "a black hat", "a top hat"), "top-hat", "head"),
    "crown": Thing(("a crown", "a golden crown"), "crown", "head"),
    "moustache": Thing(("a moustache", "a black moustache"), "", "lip"),
    "sun": Thing(("a sun", "the sun", "a yellow sun"), "sun"),
    "moon": Thing(("a moon", "the moon", "a yellow moon"), "crescent-moon"),
    "rainbow": Thing(("a rainbow",), "rainbow"),
    "flower": Thing(("a flower", "a yellow flower"), "blossom"),
    "sunflower": Thing(("a sunflower",), "sunflower"),
    "tulip": Thing(("a tulip", "a pink tulip"), "tulip"),
    "rose": Thing(("a rose", "a red rose"), "rose"),
    "tree": Thing(("a tree", "a green tree"), "deciduous-tree"),
    "cactus": Thing(("a cactus", "a green cactus"), "cactus"),
    "mushroom": Thing(("a mushroom", "a red mushroom"), "mushroom"),
    "apple": Thing(("an apple", "a red apple"), "red-apple"),
    "strawberry": Thing(("a strawberry", "a red strawberry"), "strawberry"),
    "watermelon": Thing(("a watermelon", "a slice of watermelon"), "watermelon"),
    "pizza": Thing(("a pizza", "a slice of pizza"), "pizza"),
    "ice cream": Thing(("an ice cream", "an ice cream cone"), "soft-ice-cream"),
    "balloon": Thing(("a balloon", "a red balloon"), "balloon"),
    "umbrella": Thing(("an umbrella", "a purple umbrella"), "umbrella"),
    "ladybug": Thing(("a ladybug", "a red ladybug"), "lady-beetle"),
    "penguin": Thing(("a penguin",), "penguin"),
    "cat": Thing(("a cat", "a cat face", "an orange cat"), "cat-face"),
    "fish": Thing(("a fish", "a blue fish"), "fish"),
    "ghost": Thing(("a ghost", "a white ghost"), "ghost"),
    "pumpkin": Thing(("a pumpkin", "a halloween pumpkin"), "jack-o-lantern"),
    "house": Thing(("a house", "a little house"), ""),
}


@cache
def drawing(name: str) -> Image.Image:
    """Return a thing's drawing, RGBA, cut to what is drawn, about 192 pixels long."""
    return Image.open(_DRAWINGS / f"{name.replace(' ', '-')}.png").convert("RGBA")
