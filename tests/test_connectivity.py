from __future__ import annotations

import http.server
import threading

from attngraft.connectivity import is_reachable


def test_a_host_that_hangs_is_given_up_soon(monkeypatch):
    given_up = threading.Event()

    def hang(*_: object, **__: object) -> None:
        given_up.wait()
        raise OSError

    monkeypatch.setattr("urllib.request.urlopen", hang)
    assert not is_reachable("https://example.invalid", timeout_s=0.05)
    given_up.set()


def test_a_refused_connection_is_no_answer():
    assert not is_reachable("http://127.0.0.1:9", timeout_s=600)


def test_any_answer_counts_even_an_error():
    server = http.server.HTTPServer(("127.0.0.1", 0), http.server.BaseHTTPRequestHandler)  # answers 501 to everything
    thread = threading.Thread(target=server.handle_request, daemon=True)
    thread.start()
    try:
        assert is_reachable(f"http://127.0.0.1:{server.server_port}", timeout_s=600)
    finally:
        thread.join(600)
        server.server_close()
