"""Waiting for the other threads of the process."""

import threading
import time

from guided_diffusion.system import threads


def spin(stop):
    while not stop.is_set():
        pass


def test_a_running_thread_is_waited_for():
    stop, begin = threading.Event(), time.monotonic()
    spinning, ending = threading.Thread(target=spin, args=(stop,)), threading.Timer(0.3, stop.set)
    spinning.start()
    ending.start()
    assert threads.wait_until_idle(limit=60)
    assert stop.is_set() and time.monotonic() - begin >= 0.3
    spinning.join()


def test_the_wait_has_an_end_and_threads_that_wait_are_not_waited_for():
    stop = threading.Event()
    spinning, waiting = threading.Thread(target=spin, args=(stop,)), threading.Thread(target=stop.wait)
    waiting.start()
    assert threads.wait_until_idle(limit=60)
    spinning.start()
    assert not threads.wait_until_idle(limit=0.2)
    stop.set()
    spinning.join()
    waiting.join()


def test_a_system_that_does_not_list_threads_waits_for_a_moment(monkeypatch):
    monkeypatch.setattr(threads.os.path, "isdir", lambda path: False)
    assert threads.wait_until_idle()
