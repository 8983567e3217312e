"""Worker processes that are killed: Beam's embedded runner would wait for their answers for ever."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from oddsmill.schemas.errors import RunFailed, find_ending

_LOOKS_EVERY_S = 0.5


@contextmanager
def lost_workers_told() -> Iterator[None]:
    """Answers for a worker process that has ended by itself, with an error, all that it is asked while the body runs.

    Raises:
      RunFailed: One has.
    """
    from apache_beam.portability.api import beam_fn_api_pb2
    from apache_beam.runners.portability import local_job_service
    from apache_beam.runners.portability.fn_api_runner import worker_handlers

    # Beam has no hook for this, so two of its methods are replaced while the body runs.
    handlers: Any = worker_handlers.SubprocessSdkWorkerHandler
    workers: Any = local_job_service.SubprocessSdkWorker
    over, lost = threading.Event(), dict[Any, str]()
    start, run = handlers.start_worker, workers.run

    def run_noting(worker: Any) -> None:
        try:
            run(worker)
        except RuntimeError as error:  # it ended otherwise than by its own end
            lost[worker] = str(error)

    def start_watched(handler: Any) -> None:
        start(handler)
        threading.Thread(target=answer, args=(handler,), daemon=True).start()

    def answer(handler: Any) -> None:
        while not over.wait(_LOOKS_EVERY_S):
            if handler.worker not in lost:
                continue
            for future in list(handler.control_conn._futures_by_id.values()):
                if not future.is_done():
                    number = future.instruction_id
                    future.set(beam_fn_api_pb2.InstructionResponse(instruction_id=number, error="a worker was lost"))

    handlers.start_worker, workers.run = start_watched, run_noting
    try:
        yield
    except Exception as error:
        if not lost or find_ending(error) is not None:
            raise
        raise RunFailed(
            f"a worker process was lost ({next(iter(lost.values()))}). Was it killed for want of memory? Give fewer "
            "workers (--direct_num_workers), or --direct_running_mode=multi_threading, and run again"
        ) from None
    finally:
        over.set()
        handlers.start_worker, workers.run = start, run
