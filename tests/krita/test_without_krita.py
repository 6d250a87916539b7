"""What happens on a machine without Krita."""

import pytest

from tests.support.programs import need


def test_krita_is_never_required(monkeypatch: pytest.MonkeyPatch) -> None:
    """CI has the other programs and fails without one; Krita is for those who change the plugin."""
    monkeypatch.setenv("PATH", "")
    monkeypatch.setenv("CI", "true")
    with pytest.raises(pytest.skip.Exception, match="make test-krita"):
        need("Krita")
    with pytest.raises(pytest.fail.Exception, match="make test-programs"):
        need("Redis")
