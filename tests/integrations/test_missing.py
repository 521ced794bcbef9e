"""Without a framework its module says what to install; the package and its command need none."""

from __future__ import annotations

import subprocess
import sys

import pytest

PROGRAM = """
import sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("langchain_core", "llama_index", "haystack", "dspy"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name.partition(".")[0])

sys.meta_path.insert(0, Absent())
import fastlane_st, fastlane_st.integrations, fastlane_st.cli.main
for module, extra in (
    ("langchain", "langchain"), ("llama_index", "llama-index"), ("haystack", "haystack"), ("dspy", "dspy")
):
    try:
        __import__(f"fastlane_st.integrations.{module}")
    except ImportError as error:
        assert f'pip install "fastlane-st[{extra}]"' in str(error), error
        assert "needs " in str(error), error
    else:
        raise AssertionError(module)
print("all are named")
"""


@pytest.mark.slow
def test_a_missing_framework_is_an_error_that_names_the_extra() -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "all are named\n"
