import os
import shutil
import tempfile
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import settings

from flairsearch.engine import Engine
from flairsearch.indexing.lifecycle import create_index
from flairsearch.model import checkpoints
from flairsearch.store.catalog import Catalog
from tests.support.command import run  # noqa: F401 - a fixture
from tests.support.fake import fake_settings, paint

pytest_plugins = ["tests.support.browsed"]
settings.register_profile("day", max_examples=15, deadline=None)
settings.register_profile("night", max_examples=300, deadline=None)
settings.load_profile("day")  # The option --hypothesis-profile=night overrides it.
NOBODY = 65534


@contextmanager
def ordinary_user():
    """Permissions mean nothing to root: be somebody else for a while. Does nothing for anybody who is not root."""
    if os.geteuid() != 0:
        yield
        return
    try:
        os.setresuid(NOBODY, NOBODY, 0)
    except OSError:
        pytest.skip("root that may not become an ordinary user")
    try:
        yield
    finally:
        os.setresuid(0, 0, 0)


@pytest.fixture
def as_user():
    """A context manager under which permissions count."""
    return ordinary_user


@pytest.fixture
def open_folder():
    """A folder that any user may enter (pytest's own may be entered by its owner only)."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    yield folder
    for path in [folder, *folder.rglob("*")]:
        if path.is_dir():
            path.chmod(0o755)
    shutil.rmtree(folder)


@pytest.fixture
def index(tmp_path):
    """The folder of an empty index for the fake encoder."""
    folder = tmp_path / "index"
    create_index(folder, fake_settings())
    return folder


@pytest.fixture
def catalog(index):
    """Its catalogue."""
    catalog = Catalog(index)
    yield catalog
    catalog.close()


@pytest.fixture(scope="session")
def served(tmp_path_factory):
    """The one server on painted photos and the fake encoder; some photos are spoilt after they were indexed."""
    pytest.importorskip("fastapi", reason='needs pip install "flairsearch[serve]"')
    from tests.support.served import make_index, serving_index, spoil

    index = make_index(tmp_path_factory.mktemp("served"))
    spoil(index.parent / "photos")
    with serving_index(index) as site:
        yield site


@pytest.fixture(scope="session")
def real_index(tmp_path_factory):
    """A small index of the bundled model."""
    folder = tmp_path_factory.mktemp("real")
    for colour in ("red", "green", "blue"):
        paint(folder / "photos" / f"{colour}.png", [("white", (8, 8, 40, 40))], colour, (96, 64))
    with Engine.open(folder / "index", checkpoints.BUNDLED, device="cpu") as engine:
        engine.add(folder / "photos")
    return folder / "index"
