"""What FLARE runs at the server for a job: a `Carrier` of bytes, over which `fedcore.deployment.centre.serve` works."""

from __future__ import annotations

import re
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from queue import Empty, Queue

from nvflare.apis.controller_spec import ClientTask, Task
from nvflare.apis.fl_constant import ReturnCode
from nvflare.apis.fl_context import FLContext
from nvflare.apis.impl.controller import Controller
from nvflare.apis.shareable import Shareable
from nvflare.apis.signal import Signal

from fedcore.deployment.centre.job_folder import JobFolder
from fedcore.deployment.centre.serve import serve
from fedcore.deployment.flare.executor import ANSWER, HEAD, MESSAGE, TASK

_TOKEN = re.compile(r"[a-z0-9-]{1,64}")


class RoundsController(Controller):
    """The one class that the server's kit allows."""

    def __init__(self, job: str):
        """
        Args:
            job: Name of a folder that the coordinator's command wrote into `jobs/` of the deployment. What is done is
                read from there, never from the job that was submitted.
        """
        super().__init__(task_check_period=0.05)
        if not _TOKEN.fullmatch(job):
            raise ValueError("the name of a job must have letters, digits and - only")
        self.job = job

    def start_controller(self, fl_ctx: FLContext) -> None:
        """Nothing is needed before `control_flow`."""

    def stop_controller(self, fl_ctx: FLContext) -> None:
        """The run folder is closed when `control_flow` ends."""

    def control_flow(self, abort_signal: Signal, fl_ctx: FLContext) -> None:
        deployment = Path(fl_ctx.get_engine().get_workspace().get_root_dir()).resolve().parent
        folder = JobFolder(deployment / "jobs" / self.job)
        connected = {client.name for client in fl_ctx.get_engine().get_clients()}
        serve(folder, FlareCarrier(self, fl_ctx, abort_signal, folder, connected))

    def process_result_of_unknown_task(
        self, client: object, task_name: str, client_task_id: str, result: Shareable, fl_ctx: FLContext
    ) -> None:
        """Requests stand until they are answered, so there is no such result."""


class FlareCarrier:
    """A `fedcore.transport.remote.Carrier`: each request is a task for one site."""

    def __init__(
        self, controller: Controller, fl_ctx: FLContext, abort: Signal, folder: JobFolder, connected: set[str]
    ):
        self._controller, self._fl_ctx, self._abort, self._folder = controller, fl_ctx, abort, folder
        self._connected = connected
        self._arrived: Queue[tuple[int, bytes | str]] = Queue()
        self._number, self._lock = 0, threading.Lock()

    def names(self) -> Sequence[str]:
        return self._folder.sites

    def send(self, site: str, head: bytes, message: bytes) -> int:
        self._number += 1
        data = Shareable()
        data[HEAD], data[MESSAGE] = head, message
        number, reason = self._number, ["it gave no answer"]

        def received(client_task: ClientTask, fl_ctx: FLContext) -> None:
            result = client_task.result
            answer = result.get(ANSWER) if result.get_return_code() == ReturnCode.OK else None
            client_task.result = None  # else the engine keeps it until the job ends
            if isinstance(answer, bytes | bytearray):
                reason.clear()
                self._arrived.put((number, bytes(answer)))
            else:
                reason[:] = [f"its engine answered {result.get_return_code()}"]

        def done(task: Task, fl_ctx: FLContext) -> None:
            if reason:
                self._arrived.put((number, reason[0]))

        task = Task(TASK, data, result_received_cb=received, task_done_cb=done)
        self._controller.broadcast(task, self._fl_ctx, targets=[site])
        return number

    def receive(self, timeout: float) -> tuple[int, bytes | str] | None:
        """Raises KeyboardInterrupt where the job was aborted."""
        if self._abort.triggered:
            raise KeyboardInterrupt("the run was stopped")
        try:
            return self._arrived.get(timeout=timeout)
        except Empty:
            return None

    def lost(self) -> Mapping[str, str]:
        absent = {site: "it was not connected when the job started" for site in self.names()
                  if site not in self._connected}  # fmt: skip
        return {**absent, **self._folder.lost()}
