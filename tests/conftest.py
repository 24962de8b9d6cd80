import pytest

import recbole_persona  # noqa: F401  (first: without its repairs parts of recbole cannot be imported)

pytest.register_assert_rewrite("conformance")
