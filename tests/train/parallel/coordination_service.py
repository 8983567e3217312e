"""JAX's coordination service as far as these rooms use it, for processes that are threads of a test."""

import threading
import time

import jax

from oddsmill.train.parallel import coordination, failures, processes


class Service:
    """A key-value store that all see."""

    def __init__(self):
        self.values = {}
        self._changed = threading.Condition()

    def key_value_set_bytes(self, key, value, allow_overwrite=False):
        with self._changed:
            assert allow_overwrite or key not in self.values
            self.values[key] = value
            self._changed.notify_all()

    key_value_set = key_value_set_bytes

    def blocking_key_value_get_bytes(self, key, timeout_in_ms):
        with self._changed:
            if not self._changed.wait_for(lambda: key in self.values, timeout_in_ms / 1000):
                raise jax.errors.JaxRuntimeError("DEADLINE_EXCEEDED: GetKeyValue() timed out")
            return self.values[key]

    def key_value_dir_get(self, folder):
        with self._changed:
            return [(key, value) for key, value in self.values.items() if key.startswith(folder)]

    def key_value_delete(self, folder):
        with self._changed:
            for key in [key for key in self.values if key.startswith(folder)]:
                del self.values[key]


class Joined:
    """Threads that are processes of one run to the modules of train/parallel/."""

    def __init__(self, monkeypatch, count):
        self.service, self._own, self._count = Service(), threading.local(), count
        monkeypatch.setattr(processes, "_LOOKS_EVERY_MS", 20)
        monkeypatch.setattr(failures, "_noticed", threading.Event())
        for module in (processes, failures):
            monkeypatch.setattr(module, "coordination_client", lambda: self.service)
            monkeypatch.setattr(module, "num_processes", lambda: count)
            monkeypatch.setattr(module, "process_index", lambda: self._own.index)
            monkeypatch.setattr(module, "is_joined", lambda: hasattr(self._own, "index"))
        monkeypatch.setattr(processes, "_gathered", self)
        assert coordination  # what these names stand for

    def __iter__(self):
        return self

    def __next__(self):
        self._own.gathered = getattr(self._own, "gathered", -1) + 1
        return self._own.gathered

    def run(self, *bodies):
        """Runs a function in each process; returns what each returned or raised, in their order."""
        ends = [None] * self._count

        def go(index, body):
            self._own.index = index
            try:
                ends[index] = body()
            except BaseException as error:
                ends[index] = error

        threads = [threading.Thread(target=go, args=each) for each in enumerate(bodies)]
        for thread in threads:
            thread.start()
        started = time.monotonic()
        for thread in threads:
            thread.join(20)
        assert time.monotonic() - started < 20, "a process waits for ever"
        return ends
