"""What FLARE runs at a hospital: it passes bytes to `fedcore.site.host.SiteHost` and back."""

from __future__ import annotations

from pathlib import Path

from nvflare.apis.executor import Executor
from nvflare.apis.fl_constant import ReturnCode
from nvflare.apis.fl_context import FLContext
from nvflare.apis.shareable import Shareable, make_reply
from nvflare.apis.signal import Signal

from fedcore.site.home import SiteHome
from fedcore.site.host import SiteHost

TASK, HEAD, MESSAGE, ANSWER = "handle", "head", "message", "answer"
"""Name of the one task, and the keys of its data and of its result."""


class SiteExecutor(Executor):
    """The one class that a hospital's kit allows. It has no arguments: nothing of a job has an influence on it."""

    def __init__(self) -> None:
        super().__init__()
        self._host: SiteHost | None = None

    def execute(self, task_name: str, shareable: Shareable, fl_ctx: FLContext, abort_signal: Signal) -> Shareable:
        head, message = shareable.get(HEAD), shareable.get(MESSAGE)
        if task_name != TASK or not isinstance(head, bytes | bytearray) or not isinstance(message, bytes | bytearray):
            return make_reply(ReturnCode.BAD_TASK_DATA)
        if self._host is None:  # its process begins with the job
            workspace = fl_ctx.get_engine().get_workspace()
            self._host = SiteHost(SiteHome(Path(workspace.get_root_dir()).resolve().parent))
        reply = make_reply(ReturnCode.OK)
        reply[ANSWER] = self._host.handle(bytes(head) + bytes(message))
        return reply
