"""Worker processes that are killed: Beam's embedded runner would wait for their answers for ever.

Workers whose run is killed end with it: see `worker_process`.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from oddsmill.pipeline.worker_process import worker_command
from oddsmill.schemas.errors import RunFailed, find_ending

_LOOKS_EVERY_S = 0.5


@contextmanager
def lost_workers_told() -> Iterator[None]:
    """Answers for a worker process that has ended by itself, with an error, all that it is asked while the body runs.

    Raises:
      RunFailed: One has.
    """
    import grpc
    from apache_beam.portability.api import beam_fn_api_pb2
    from apache_beam.runners.portability import local_job_service
    from apache_beam.runners.portability.fn_api_runner import worker_handlers

    # Beam has no hook for this, so two of its methods are replaced while the body runs.
    handlers: Any = worker_handlers.SubprocessSdkWorkerHandler
    workers: Any = local_job_service.SubprocessSdkWorker
    over, lost = threading.Event(), dict[Any, str]()
    start, run, hook = handlers.start_worker, workers.run, threading.excepthook

    def run_noting(worker: Any) -> None:
        worker._worker_command_line = worker_command()
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

    def print_others(error: threading.ExceptHookArgs) -> None:
        if not issubclass(error.exc_type, grpc.RpcError):  # the connection of a worker that has ended
            hook(error)

    handlers.start_worker, workers.run, threading.excepthook = start_watched, run_noting, print_others
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
        handlers.start_worker, workers.run, threading.excepthook = start, run, hook
