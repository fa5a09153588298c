"""Check within seconds whether a host is reachable."""

from __future__ import annotations

import threading
import urllib.error
import urllib.request


def is_reachable(url: str, *, timeout_s: float = 5.0) -> bool:
    """True if the server behind url answers anything at all. Proxies of the environment are honoured."""
    answered = threading.Event()
    done = threading.Event()

    def ask() -> None:
        try:
            urllib.request.urlopen(urllib.request.Request(url, method="HEAD"), timeout=timeout_s).close()
            answered.set()
        except urllib.error.HTTPError as error:
            error.close()
            answered.set()
        except OSError:
            pass
        finally:
            done.set()

    # in a thread of its own: looking up a name has no time limit
    threading.Thread(target=ask, daemon=True).start()
    done.wait(timeout_s)
    return answered.is_set()
