"""An encoder with meaning, in numpy: the token of a patch is its mean colour, so rankings and boxes are known exactly.

A text is a colour: "red", or any sentence with one colour word in it. Attention falls evenly on the patches of that
colour and nowhere else; the score grows with their number (`expected_score`) and is the same at any place.
"""

from pathlib import Path

import numpy as np
from PIL import Image

from flairsearch.core.limits import INGEST_LIMITS, STORE_LIMITS, WriteLimits
from flairsearch.core.settings import IndexSettings
from flairsearch.core.types import EncodedText, EncodedViews, PoolWeights
from flairsearch.engine import Engine
from flairsearch.indexing.lifecycle import create_index
from flairsearch.search.policy import DEFAULT_POLICY

SIZE, GRID, DIM = 64, 8, 4  # Pixels and patches along a side; the embedding has red, green, blue and the pool's bias.
PATCHES = GRID * GRID
SHARP = 20.0  # The logit falls by this much from one colour to the next.
COLOURS = {
    "black": (0, 0, 0),
    "red": (255, 0, 0),
    "green": (0, 255, 0),
    "blue": (0, 0, 255),
    "yellow": (255, 255, 0),
    "magenta": (255, 0, 255),
    "cyan": (0, 255, 255),
    "white": (255, 255, 255),
}


class FakeEncoder:
    """The interface of flairsearch.model.encoder.Encoder."""

    device, name, weights_hash = "cpu", "fake", "fake-weights"

    def encode_images(self, pictures):
        """Views u8[S, S, 3] -> Encoded; a token is (r, g, b, 0), each colour rounded to -1, 0 or 1."""
        pixels = np.stack([picture.pixels for picture in pictures]).astype(np.float32)
        count, side = len(pixels), pixels.shape[1] // GRID
        mean = pixels.reshape(count, GRID, side, GRID, side, 3).mean((2, 4)).reshape(count, PATCHES, 3)
        tokens = np.zeros((count, PATCHES, DIM), np.float16)
        tokens[..., :3] = np.rint(mean / 127.5 - 1)
        pooled = np.ones((count, DIM), np.float32)
        pooled[:, :3] = mean.mean(1) / 127.5 - 1
        pooled /= np.linalg.norm(pooled, axis=1, keepdims=True)
        flat = np.zeros((count, PATCHES), np.float16)
        return EncodedViews(pooled.astype(np.float16), tokens, flat, flat + np.float16(1))

    def encode_texts(self, texts):
        """One head: a patch of the colour has the logit -ln P, any other one far less."""
        queries = []
        for text in texts:
            (colour,) = (COLOURS[word] for word in text.lower().split() if word in COLOURS)
            queries.append(_ask(text, np.asarray(colour, np.float32) / 127.5 - 1))
        return queries

    def encode_image_queries(self, pictures, names):
        """As the text of the colour that most patches of the picture have."""
        queries = []
        for name, patches in zip(names, self.encode_images(pictures).tokens[..., :3], strict=True):
            colours, counts = np.unique(patches, axis=0, return_counts=True)
            queries.append(_ask(name, colours[counts.argmax()].astype(np.float32)))
        return queries

    def encode_prompts(self):
        """Its colours."""
        return self.encode_texts(list(COLOURS))

    def fold(self, vectors):
        """Vectors of texts -> queries."""
        return [_ask("", vector[:3]) for vector in vectors]

    def unseen_words(self, text):
        """It knows its colours, and says so of no word."""
        return []

    @property
    def token_metric(self):
        """Every error matters alike."""
        return np.eye(DIM, dtype=np.float32)

    @property
    def pool_weights(self):
        """Identities, and a bias orthogonal to every text: what makes the score grow with the area."""
        eye = np.eye(DIM, dtype=np.float32)
        return PoolWeights(eye[None], np.zeros((1, DIM), np.float32), eye, eye[3], logit_scale=10.0, logit_bias=-10.0)


def _ask(text, colour):
    """A colour f32[3], -1 to 1 -> Query."""
    vector = np.append(colour, np.float32(0)).astype(np.float32)
    return EncodedText(text, vector, SHARP * vector[None], np.asarray([-3 * SHARP - np.log(PATCHES)], np.float32))


def expected_score(patches):
    """The exact score of a view with so many patches of the colour asked for (some, not none)."""
    share = patches / PATCHES  # For a patch e^logit is 1 / P, for the zero key 1.
    attended = share / (share + 1)
    return 3**0.5 * attended / (3 * attended**2 + 1) ** 0.5


def paint(path, squares=(), background="black", size=(SIZE, SIZE), **options):
    """Save a picture (lossless by its name's ending) of coloured boxes (colour, (left, top, right, bottom))."""
    picture = Image.new("RGB", size, COLOURS[background])
    for colour, box in squares:
        picture.paste(COLOURS[colour], box)
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    picture.save(path, **options)
    return Path(path)


def paint_red(path, patches, mark=0):
    """`patches` red ones on black, row by row; `mark` makes another file of the same picture."""
    rows, rest = divmod(patches, GRID)
    side = SIZE // GRID
    squares = [("red", (0, 0, SIZE, rows * side)), ("red", (0, rows * side, rest * side, (rows + 1) * side))]
    return paint(path, [(c, b) for c, b in squares if b[2] > b[0] and b[3] > b[1]], dpi=(72 + mark, 72))


def mosaic(path, seed):
    """Patches of a few colours, each photo with its own shares of them."""
    rng = np.random.default_rng(seed)
    side, names = SIZE // GRID, sorted(COLOURS)
    drawn = rng.choice(names, PATCHES, p=rng.dirichlet(np.full(len(names), 0.5)))
    boxes = [(side * (i % GRID), side * (i // GRID)) for i in range(PATCHES)]
    paint(path, [(c, (x, y, x + side, y + side)) for c, (x, y) in zip(drawn.tolist(), boxes, strict=True)])


def exif_of(more=(), **first):
    """EXIF of tags -> values: those of its part for cameras, and named ones of its first part (tag_0x0132=...)."""
    exif = Image.Exif()
    for name, value in first.items():
        exif[int(name.removeprefix("tag_"), 16)] = value
    if more:
        exif.get_ifd(0x8769).update(more)
        exif[0x8769] = 0  # Pillow only asks whether it is there, and finds the place itself.
    return exif


def fake_settings(views="squash", codec="fp16"):
    return IndexSettings("fake", FakeEncoder.weights_hash, SIZE, PATCHES, DIM, views, codec)


def fake_engine(
    folder,
    views="squash",
    encoder=None,
    codec="fp16",
    *,
    store_limits=STORE_LIMITS,
    ingest_limits=INGEST_LIMITS,
    policy=DEFAULT_POLICY,
):
    """An Engine on an index for the fake encoder; the index is made when it is not there."""
    folder = Path(folder)
    if not (folder / "index.json").exists():
        create_index(folder, fake_settings(views, codec))
    limits = WriteLimits(store_limits, ingest_limits)
    return Engine(folder, IndexSettings.load(folder), encoder or FakeEncoder(), limits=limits, policy=policy)
