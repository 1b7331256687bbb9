from __future__ import annotations

import threading

import pytest

from stillroom.storage_specs.spans import listening, span


def test_listeners_hear_where_spans_begin_and_end_in_every_thread():
    heard = []

    def listener(name):
        heard.append((f"begin {name}", threading.current_thread().name))
        return lambda: heard.append((f"end {name}", threading.current_thread().name))

    def work():
        with span("outer"), span("inner"):
            pass

    with span("unheard"):
        pass
    with listening(listener):
        worker = threading.Thread(target=work, name="worker")
        worker.start()
        worker.join()
        with pytest.raises(KeyError), span("failing"):
            raise KeyError
    with span("unheard"):
        pass
    order = ["begin outer", "begin inner", "end inner", "end outer"]
    assert heard[:4] == [(one, "worker") for one in order]
    assert [one for one, _ in heard[4:]] == ["begin failing", "end failing"]
