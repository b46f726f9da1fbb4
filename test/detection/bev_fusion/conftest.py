"""A small exported detector, written once for all tests."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def small_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of the first stage of a small detector with random weights; its parts are beside it."""
    from test.detection.bev_fusion.small_models import write_models

    return write_models(tmp_path_factory.mktemp("models"))
