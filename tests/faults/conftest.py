from __future__ import annotations

import pytest
from outing import Outing, make_outing
from quick_charts import choose


@pytest.fixture(scope="session")
def outing(tmp_path_factory: pytest.TempPathFactory) -> Outing:
    """All verbs once, in a hostile place; made once for the tests of escaping, of secrets and of the network."""
    choose(drawn=True)
    return make_outing(tmp_path_factory.mktemp("outing"))
