"""The garbage collector is measured, and kept out of what must not stop."""

import gc

import pytest

from fastapi_websocket_stabilizer.runtime.gc_pauses import GcPauses, gc_paused


def test_full_collections_are_measured_between_start_and_stop() -> None:
    watch = GcPauses()
    gc.collect()
    watch.start()
    watch.start()
    gc.collect()
    gc.collect(0)
    watch.stop()
    watch.stop()
    gc.collect()
    pauses = watch.snapshot()
    assert (pauses.count, pauses.max_s > 0) == (1, True)


@pytest.mark.parametrize("was_enabled", [True, False])
def test_collector_is_off_in_the_block_and_then_as_before(was_enabled: bool) -> None:
    try:
        (gc.enable if was_enabled else gc.disable)()
        with gc_paused():
            assert not gc.isenabled()
        assert gc.isenabled() == was_enabled
    finally:
        gc.enable()
