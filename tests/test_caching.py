"""Values kept in memory up to a number of bytes."""

import os
import threading

from zoomldm.caching import Recent


def test_the_least_recently_used_goes_first_and_bytes_are_bounded() -> None:
    kept: Recent[str] = Recent(20)
    kept.put("a", "one", 8)
    kept.put("b", "two", 8)
    assert kept.get("a") == "one"
    kept.put("c", "three", 8)
    assert (kept.get("a"), kept.get("b"), kept.get("c")) == ("one", None, "three")
    assert kept.bytes == 16 and len(kept) == 2
    kept.put("a", "again", 8)
    assert kept.get("a") == "one" and kept.bytes == 16
    kept.put("d", "too large", 21)
    assert kept.get("d") is None and len(kept) == 2
    kept.clear()
    assert kept.get("a") is None and kept.bytes == 0


def test_eight_threads_keep_the_books_right() -> None:
    kept: Recent[int] = Recent(1000)

    def work(start: int) -> None:
        for i in range(2000):
            key = (start * i) % 97
            if kept.get(key) not in (None, key):
                raise AssertionError(key)
            kept.put(key, key, 30)

    threads = [threading.Thread(target=work, args=(k,)) for k in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert kept.bytes == 30 * len(kept) <= 1000


def test_a_lock_held_while_forking_is_free_in_the_child() -> None:
    kept: Recent[int] = Recent(10)
    with kept._lock:
        child = os.fork()
        if child == 0:
            kept.put("a", 1, 1)
            os._exit(0 if kept.get("a") == 1 else 1)
    assert os.waitpid(child, 0)[1] == 0
