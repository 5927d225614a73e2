"""SIGTERM ends a block as Ctrl-C does, and is as before after it."""

from __future__ import annotations

import signal
import threading

import pytest

from agents.utils.interrupts import terminated_as_interrupted


def test_sigterm_raises_keyboard_interrupt_within_alone():
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(KeyboardInterrupt), terminated_as_interrupted():
        signal.raise_signal(signal.SIGTERM)
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_thread_leaves_signals_alone():
    handlers = []

    def enter():
        with terminated_as_interrupted():
            handlers.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    assert handlers == [signal.getsignal(signal.SIGTERM)]
