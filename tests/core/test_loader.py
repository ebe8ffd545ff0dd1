"""What the loader says, as it is told to people."""

import pytest

from serve_core import loader


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 B"), (1023, "1023 B"), (1024, "1.0 KiB"), (1536, "1.5 KiB"), (100 * 2**10, "100 KiB"),
        (2**20, "1.0 MiB"), (2**30, "1.0 GiB"), (5 * 2**40, "5.0 TiB"), (5000 * 2**40, "5000 TiB"),
    ],
)  # fmt: skip
def test_a_size_is_told_in_the_unit_that_is_best_to_read(size: int, text: str) -> None:
    assert loader.size_text(size) == text


def test_what_a_loader_brought_is_told_as_far_as_it_says() -> None:
    assert loader.loaded_text({}) == loader.loaded_text({"bytes": 1}) == loader.code_text({}) == ""
    assert loader.loaded_text({"bytes": 2048, "seconds": 1}) == "2.0 KiB in 1.0 s"
    everything = {"bytes": 2048, "seconds": 1, "files": 1, "checked": 1, "signed": True, "digest": "sha256:0"}
    assert loader.loaded_text(everything) == (
        "2.0 KiB in 1 file in 1.0 s, 1 checked against the store's own checksum, its signature verified, sha256:0"
    )
