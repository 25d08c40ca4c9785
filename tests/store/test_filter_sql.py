"""Filters in the catalogue and in searches, against a loop over all photos."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from flairsearch.core.dates import clock_seconds
from flairsearch.core.errors import UsageError
from flairsearch.core.filters import Filter
from flairsearch.core.types import Frame, ImageFile
from flairsearch.engine import Engine
from flairsearch.indexing.lifecycle import create_index
from flairsearch.search.policy import DEFAULT_POLICY, SearchPolicy
from flairsearch.store.catalog import Catalog
from flairsearch.store.changeset import Changeset, NewView
from tests.support.bank_encoder import BankEncoder
from tests.support.fake import FakeEncoder, exif_of, expected_score, fake_engine, fake_settings, paint_red

ROOTS = ("/photos", "/photos/inner", "/photos2", "/other disk/ü", "/a")
FOLDERS = ("", "sub/", "sub/deep/", "sub2/", "SUB/", "s%b/", "s_b/", "sub./", "sub0/")
ENDINGS = ("jpg", "JPG", "Jpg", "jpeg", "png", "xjpg", "gif")


@dataclass(frozen=True)
class Photo:
    image: int
    content: int
    root: str
    path: str
    size: int
    taken: int | None
    mtime_ns: int
    sides: tuple[int, int]

    @property
    def absolute(self) -> str:
        return f"{self.root}/{self.path}"

    @property
    def date(self) -> datetime:
        """Return the EXIF date, or the file's modification time if there is none."""
        if self.taken is not None:
            return datetime(1970, 1, 1) + timedelta(seconds=self.taken)
        return datetime.fromtimestamp(self.mtime_ns // 10**9)

    def is_in(self, query_filter: Filter) -> bool:
        """Whether the photo meets each condition of the filter."""
        if query_filter.path is not None and not self.absolute.startswith(query_filter.path.rstrip("/") + "/"):
            return False
        if query_filter.taken_since is not None and self.date < query_filter.taken_since:
            return False
        if query_filter.taken_before is not None and self.date >= query_filter.taken_before:
            return False
        if query_filter.larger_than_bytes is not None and self.size <= query_filter.larger_than_bytes:
            return False
        width, height = query_filter.min_sides or (0, 0)
        if self.sides[0] < width or self.sides[1] < height:
            return False
        return not query_filter.extensions or self.path.rsplit(".", 1)[1].lower() in query_filter.extensions


@pytest.fixture(autouse=True, params=["UTC0", "XST-9:30XDT,M3.2.0,M11.1.0"])
def zone(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("TZ", request.param)
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


def random_moment(rng: random.Random) -> datetime:
    """Draw a time with few distinct minutes, so that bounds are hit exactly, and without changes of the clock."""
    return datetime(
        rng.choice((2019, 2023, 2024)), rng.choice((1, 5, 12)), rng.choice((1, 17, 31)), 0, rng.choice((0, 59))
    )


def random_filter(rng: random.Random) -> Filter:
    def maybe(make: Callable[[], str]) -> str | None:
        return make() if rng.random() < 0.4 else None

    def date() -> str:
        return random_moment(rng).strftime(rng.choice(("%Y", "%Y-%m", "%Y-%m-%d", "%Y-%m-%dT%H:%M")))

    under = maybe(lambda: rng.choice((*ROOTS, "/", "/photos/", "/other disk", "/photos/" + rng.choice(FOLDERS))))
    size = maybe(lambda: rng.choice(("2kB", "3k", "0", "640x480", "480x640", "100x500")))
    since, until = maybe(date), maybe(date)
    if since and until and since > until:
        since, until = until, since
    return Filter(under, since, until, size, [rng.choice(ENDINGS)] if rng.random() < 0.3 else ())


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Photo]]:
    """Make 600 images of 400 contents, a quarter of them undated; duplicates differ in folder, size and file time."""
    rng, folder = random.Random(3), tmp_path_factory.mktemp("index")
    catalog = Catalog(folder, create=True)
    for root in ROOTS:
        catalog.add_root(root)
    sides = [rng.choice(((640, 480), (480, 640), (100, 100), (4000, 500))) for _ in range(400)]
    taken = [None if rng.random() < 0.25 else clock_seconds(random_moment(rng)) for _ in range(400)]
    frames = [Frame(*pair, 0.0, 0.0, 1.0, 1.0) for pair in sides]
    hashes = [number.to_bytes(16, "big") for number in range(400)]
    views = [NewView(hashes[n], n, 0, frames[n], taken[n]) for n in range(400)]
    photos, added = [], []
    for number in range(600):
        content = number if number < 400 else rng.randrange(400)
        root, name = rng.choice(ROOTS), f"{rng.choice(FOLDERS)}{number}.{rng.choice(ENDINGS)}"
        mtime = int(random_moment(rng).timestamp()) * 10**9 + rng.choice((0, 0, 999_999_999))
        size = rng.choice((1999, 2000, 2001, 3000, 3001))
        added.append((ImageFile(root, name, size, mtime), hashes[content]))
        photos.append(Photo(number + 1, content, root, name, size, taken[content], mtime, sides[content]))
    catalog.commit(Changeset((1, 400, "fp16"), views, added))
    catalog.close()
    return folder, photos


@pytest.fixture
def catalog(filled: tuple[Path, list[Photo]]) -> Iterator[Catalog]:
    catalog = Catalog(filled[0])
    yield catalog
    catalog.close()


@pytest.mark.parametrize("seed", range(4))
def test_random_filters_in_the_catalogue(catalog: Catalog, filled: tuple[Path, list[Photo]], seed: int) -> None:
    rng, photos, sizes = random.Random(seed), filled[1], set()
    state = catalog.state()
    assert state.views is not None
    hashes = catalog.content_hashes(state.views.content.tolist())
    numbers = {content: int.from_bytes(digest, "big") for content, digest in hashes.items()}
    view_of = {numbers[c]: v for v, c in zip(state.views.id.tolist(), state.views.content.tolist(), strict=True)}
    for _ in range(60):
        query_filter = random_filter(rng)
        inside = [photo for photo in photos if photo.is_in(query_filter)]
        views = catalog.views_in(query_filter)
        assert views.dtype == np.int64
        assert views.tolist() == sorted({view_of[photo.content] for photo in inside}), query_filter
        sizes.add(len(inside))
        chosen = set(views.tolist())
        contents = [c for c in numbers if view_of[numbers[c]] in chosen]
        found = {numbers[c]: images for c, images in catalog.images_of(contents, query_filter).items()}
        assert found == {
            n: [(p.image, p.absolute) for p in inside if p.content == n] for n in {p.content for p in inside}
        }
    assert len(sizes) > 20


def test_only_a_folder_without_photos_gives_a_warning(catalog: Catalog) -> None:
    for folder in ("/nowhere", "/photos/su", "/photos/sub/1.jpg", "/photo", "/PHOTOS"):
        with pytest.raises(UsageError, match=f"{folder} holds no indexed photo - see flairsearch status"):
            catalog.views_in(Filter(folder=folder))
    assert len(catalog.views_in(Filter(since="2030"))) == 0
    assert len(catalog.views_in(Filter(folder="/photos/sub", since="2030"))) == 0


def test_far_dates_and_large_sizes_are_only_numbers(catalog: Catalog) -> None:
    everything = len(catalog.views_in(Filter(folder="/")))
    assert everything == 400
    for date in ("0001", "1600", "2600", "9998"):
        assert len(catalog.views_in(Filter(since=date))) == everything * (date < "2000")
        assert len(catalog.views_in(Filter(until=date))) == everything * (date > "2000")
    assert len(catalog.views_in(Filter(larger_than="999999999999999999GB"))) == 0
    assert len(catalog.views_in(Filter(larger_than="999999999GB"))) == 0
    assert len(catalog.views_in(Filter(larger_than="999999999x1"))) == 0


# -- whole searches


def save(path: Path, area: int, taken: datetime | None, saved: datetime, mark: int, size: int) -> None:
    """Save a photo with `area` red patches, an EXIF date and a file time; a larger `size` adds bytes."""
    paint_red(path.with_suffix(".png"), area, mark)
    picture = Image.open(path.with_suffix(".png"))
    picture.load()
    if path.suffix != ".png":
        path.with_suffix(".png").unlink()
    exif = exif_of({0x9003: taken.strftime("%Y:%m:%d %H:%M:%S")} if taken else {}, tag_0x010E="x" * size)
    picture.save(path, exif=exif, dpi=(72 + mark, 72), lossless=True)
    os.utime(path, (saved.timestamp(), saved.timestamp()))


@dataclass
class Album:
    engine: Engine
    photos: list[Photo]
    areas: dict[str, int]

    @property
    def dates(self) -> dict[str, datetime]:
        return {photo.absolute: photo.date for photo in self.photos}

    def expected(self, query_filter: Filter) -> list[str]:
        """Return the paths, best first; ties by image id."""
        inside = [photo for photo in self.photos if photo.is_in(query_filter)]
        return [p.absolute for p in sorted(inside, key=lambda p: (-self.areas[p.absolute], p.image))]


def make_album(folder: Path, encoder: FakeEncoder, policy: SearchPolicy = DEFAULT_POLICY) -> Album:
    """Make 90 photos under three roots, one inside another, and 20 duplicates in other folders with other times."""
    rng, dates, areas = random.Random(5), {}, {}
    roots = [folder / "one", folder / "one" / "in", folder / "two"]
    for number in range(90):
        name = f"{rng.choice(('', 'a/', 'b/'))}{number}.{rng.choice(('png', 'webp', 'tif'))}"
        path = rng.choice(roots) / name
        path.parent.mkdir(parents=True, exist_ok=True)
        taken = random_moment(rng) if rng.random() < 0.7 else None
        save(path, area := rng.randint(1, 64), taken, random_moment(rng), number, rng.choice((1, 2000)))
        areas[str(path)], dates[str(path)] = area, taken
        if number % 4 == 0:
            twin = rng.choice(roots) / "twins" / path.name
            twin.parent.mkdir(parents=True, exist_ok=True)
            twin.write_bytes(path.read_bytes())
            saved = random_moment(rng).timestamp()
            os.utime(twin, (saved, saved))
            areas[str(twin)], dates[str(twin)] = area, taken
    engine = fake_engine(folder / "index", encoder=encoder, policy=policy)
    engine.add(roots)
    photos = []
    for folder_of, number in engine._catalog.roots().items():
        for relative, known in engine._catalog.known(number).items():
            name = f"{folder_of}/{relative}"
            status, taken = os.stat(name), dates[name]
            seconds = None if taken is None else clock_seconds(taken)
            photos.append(
                Photo(known.image, 0, folder_of, relative, status.st_size, seconds, status.st_mtime_ns, (64, 64))
            )
    assert len(photos) == len(areas)
    return Album(engine, photos, areas)


def for_album(album: Album, rng: random.Random, query_filter: Filter) -> Filter:
    folders = sorted({os.path.dirname(path) for path in album.areas})
    folder = rng.choice(folders) if query_filter.path else None
    larger_than = rng.choice(("64x64", "65x64", "10x10")) if query_filter.min_sides else query_filter.larger_than
    return Filter(
        folder, query_filter.since, query_filter.until, larger_than, query_filter.extensions and ("png", "tif")
    )


@pytest.mark.parametrize("fitted", [False, True])
def test_random_filters_in_searches(tmp_path: Path, fitted: bool) -> None:
    """Whole rankings are compared; a shortlist of ten gives ten hits wherever ten photos match."""
    few, encoder = SearchPolicy(exhaustive_views=20, max_auto_views=5), BankEncoder() if fitted else FakeEncoder()
    album, rng = make_album(tmp_path, encoder, few if fitted else DEFAULT_POLICY), random.Random(8)
    album.engine.close()
    dates, full, narrow = album.dates, 0, 0
    assert (tmp_path / "index" / "fitted").exists() == fitted
    with fake_engine(tmp_path / "index", encoder=encoder, policy=few) as engine:
        for _ in range(20):
            query_filter = for_album(album, rng, random_filter(rng))
            expected = album.expected(query_filter)
            hits = engine.search("red", 200, shortlist="all", filter=query_filter)
            in_filter = hits.stats.views_in_filter
            assert [hit.path for hit in hits] == expected
            assert all(hit.date == dates[hit.path] for hit in hits)
            assert in_filter == len({(album.areas[p], os.path.basename(p)) for p in expected})
            assert [hit.rank for hit in hits] == list(range(1, len(hits) + 1))
            if not fitted:
                assert [hit.score for hit in hits] == pytest.approx(
                    [expected_score(album.areas[path]) for path in expected], abs=1e-3
                )
            for shortlist in ("auto", 10):
                some = engine.search("red", 10, shortlist=shortlist, filter=query_filter)
                assert len(some) == min(10, len(expected))
                assert {hit.path for hit in some} <= set(expected)
                if in_filter <= 10:
                    assert [hit.path for hit in some] == expected[:10]
            first = engine.search("red", 1, filter=query_filter)  # The shortlist is `auto`.
            if in_filter <= 20:  # These are few enough to rank all of them.
                assert [hit.path for hit in first] == expected[:1]
                assert first.stats.views_ranked == in_filter
            else:
                assert first.stats.views_ranked <= 5 + 0.02 * in_filter
            full += len(expected) >= 10
            narrow += 0 < in_filter <= 10
            together = engine.search_many(["red", "blue", "red"], 5, shortlist="all", filter=query_filter)
            assert [hit.path for hit in together[0]] == [hit.path for hit in together[2]] == expected[:5]
            assert {hit.path for hit in together[1]} <= set(expected)
    assert full > 3
    assert narrow > 3


def test_a_narrow_filter_fills_k(tmp_path: Path) -> None:
    """Twelve photos with the lowest scores: without the filter none of them is on the shortlist."""
    for number in range(12):
        save(
            tmp_path / "photos" / "few" / f"{number}.png",
            2,
            datetime(2020, 1, 1 + number),
            datetime(2024, 1, 1),
            number,
            1,
        )
    for number in range(60):
        paint_red(tmp_path / "photos" / f"{number}.png", 60, mark=100 + number)
    with fake_engine(tmp_path / "index") as engine:
        engine.add(tmp_path / "photos")
        assert not any("few" in hit.path for hit in engine.search("red", 10, shortlist=10))
        for query_filter in (
            Filter(folder=tmp_path / "photos" / "few"),
            Filter(until="2023"),
            Filter("/", "2020", "2020-01"),
        ):
            hits = engine.search("red", 10, shortlist=10, filter=query_filter)
            assert len(hits) == 10
            assert all("few" in hit.path for hit in hits)
            assert hits.stats.views_ranked == 10
            assert hits.stats.views_in_filter == 12
        assert len(engine.search("red", 10, filter=Filter(since="2020-01-03", until="2020-01-05"))) == 3


def test_a_filter_follows_the_index(tmp_path: Path) -> None:
    photos, old = tmp_path / "photos", datetime(2019, 5, 5)
    save(photos / "1.png", 10, None, old, 1, 1)
    save(photos / "2.png", 20, old, datetime(2024, 5, 5), 2, 1)

    def found(query_filter: Filter) -> list[str]:
        return [Path(hit.path).name for hit in engine.search("red", filter=query_filter)]

    with fake_engine(tmp_path / "index") as engine:
        engine.add(photos)
        assert found(Filter(until="2019")) == ["2.png", "1.png"]
        os.utime(photos / "1.png", (1.7e9, 1.7e9))  # The photo has no other date.
        os.utime(photos / "2.png", (1.7e9, 1.7e9))
        engine.add()
        assert found(Filter(until="2019")) == ["2.png"]
        (photos / "sub").mkdir()
        (photos / "2.png").rename(photos / "sub" / "3.png")
        engine.add()
        assert found(Filter(until="2019", folder=photos / "sub")) == ["3.png"]
        (photos / "sub" / "3.png").unlink()  # The folder may be missing as long as the index has a photo in it.
        (photos / "sub").rmdir()
        assert found(Filter(folder=photos / "sub")) == ["3.png"]
        engine.add()
        with pytest.raises(UsageError, match="sub holds no indexed photo"):
            found(Filter(folder=photos / "sub"))
        save(photos / "4.png", 20, old, datetime(2024, 5, 5), 2, 1)  # The bytes are those of 2.png, which is gone.
        list(engine.compact())
        engine.add()
        assert found(Filter(until="2019")) == ["4.png"]


def test_views_of_a_missing_segment_match_no_filter(tmp_path: Path) -> None:
    paint_red(tmp_path / "photos" / "1.png", 10)
    with fake_engine(tmp_path / "index") as engine:
        engine.add(tmp_path / "photos")
        paint_red(tmp_path / "photos" / "2.png", 20)
        engine.add()
        (tmp_path / "index" / "segments" / "000001.tokens").unlink()
    with fake_engine(tmp_path / "index") as engine:
        hits = engine.search("red", filter=Filter(extension="png"))
        assert [Path(hit.path).name for hit in hits] == ["2.png"]
        assert hits.stats.views_in_filter == 1


def test_a_filter_of_a_thousand_folders(tmp_path: Path) -> None:
    create_index(tmp_path / "index", fake_settings())
    with closing(Catalog(tmp_path / "index")) as catalog:
        for i in range(1200):
            catalog.add_root(f"/all/{i}")
        image = ImageFile("/all/700", "a.png", 1, 1)
        view = NewView(b"0" * 16, 0, 0, Frame(9, 9, 0, 0, 9, 9))
        catalog.commit(Changeset((1, 1, "fp16"), [view], [(image, view.hash)]))
        assert catalog.views_in(Filter(folder="/all")).tolist() == [1]
        assert catalog.views_in(Filter(folder="/all/700")).tolist() == [1]
        with pytest.raises(UsageError, match="holds no indexed photo"):
            catalog.views_in(Filter(folder="/all/70"))
        assert catalog.images_of([1], Filter(folder="/all")) == {1: [(1, "/all/700/a.png")]}


def test_filters_use_database_indexes(tmp_path: Path) -> None:
    """With a million photos, a query plan that scans another table takes several times as long."""
    create_index(tmp_path / "index", fake_settings())
    with closing(Catalog(tmp_path / "index")) as catalog:
        asked: list[str] = []
        catalog.add_root("/r")
        with catalog._database.read() as connection:
            connection.set_trace_callback(asked.append)
        for query_filter in (Filter(extension="png"), Filter(since="2024"), Filter(larger_than="2MB")):
            catalog.views_in(query_filter)
            catalog.images_of([1, 2], query_filter)
        catalog.images_of([1, 2], Filter(folder="/r/sub"))
        queries = [one for one in asked if "images" in one]
        assert len(queries) == 7
        with catalog._database.read() as connection:
            for query in queries:
                plan = [row[3] for row in connection.execute(f"EXPLAIN QUERY PLAN {query}")]
                if "INDEXED BY" in query:
                    assert any(step.startswith("SEARCH images USING INDEX ix_images_content") for step in plan), plan
                else:
                    assert any(step.startswith("SEARCH views USING COVERING INDEX") for step in plan), plan
