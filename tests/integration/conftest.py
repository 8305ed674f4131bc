"""One cluster for all: its start and its end take longer than most of what runs on it."""

import uuid

import pytest

from tests.graphs_here import graphs_here
from tests.tiny_training import MARK, local_session


@pytest.fixture(scope="session")
def session():
    """A real local session, whose processes are told by what they inherit."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(MARK, uuid.uuid4().hex)
        with local_session() as session:
            session.start()
            yield session


@pytest.fixture
def here():
    """Run graphs in this process: what is tested is not their way to a worker."""
    with graphs_here():
        yield
