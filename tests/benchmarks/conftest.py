from __future__ import annotations

import pytest

from tests.benchmarks.test_suite import Saved, benchmarks, the_file


@pytest.fixture(scope="session")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Saved:
    storage = tmp_path_factory.mktemp("saved")
    done = benchmarks("--batch-size=1", "--benchmark-autosave", "-v", storage=storage)
    assert done.returncode == 0, done.stdout + done.stderr
    return Saved(done, the_file(storage))
