"""JSON that any reader can read."""

import json

import numpy as np
import pytest

from experiments.errors import RunError
from experiments.storage.writing import check_free, write_json


def test_what_json_has_no_number_for_is_null(tmp_path):
    value = {
        "loss": float("nan"),
        "rows": [1.5, float("inf"), (np.float32("-inf"), np.float64(2.5), np.int64(3))],
        "array": np.array([1.0, np.nan]).tolist(),
        "good": np.bool_(True),
        "name": "nan",
    }

    def refuse(token):
        raise AssertionError(token)

    write_json(tmp_path / "a.json", value)
    read = json.loads((tmp_path / "a.json").read_text(), parse_constant=refuse)
    assert read == {
        "loss": None, "rows": [1.5, None, [None, 2.5, 3]], "array": [1.0, None], "good": True, "name": "nan",
    }  # fmt: skip


def test_only_what_is_free_is_written(tmp_path):
    check_free(tmp_path, ("a",))
    check_free(tmp_path / "new", ("a",))
    (tmp_path / "a").symlink_to(tmp_path / "nowhere")
    with pytest.raises(RunError, match="already holds a, which would be written over"):
        check_free(tmp_path, ("a",))
