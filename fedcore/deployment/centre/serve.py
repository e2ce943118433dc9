"""A command at the server's process: it reads what to do from its job folder, and reaches the sites by a carrier."""

from __future__ import annotations

import os
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path

from fedcore.config.recipe import read_recipe
from fedcore.config.shared_recipe import SharedRecipe
from fedcore.config.stages import QUERIES, load_function, server_of, stage_of
from fedcore.config.trust import trusting
from fedcore.deployment.centre.job_folder import JobFolder
from fedcore.errors import InputError
from fedcore.runs.folder import RunFolder
from fedcore.server.proposal import require_approved
from fedcore.transport.remote import Carrier, Remote, Restart


def serve(folder: JobFolder, carrier: Carrier) -> None:
    """Does the job, and notes in its folder how it ended."""
    printed, code = StringIO(), 0
    os.chdir(folder.arguments["folder"])
    try:
        with trusting(*folder.arguments["trust"]), redirect_stdout(printed):
            if folder.command in QUERIES:
                code = load_function(QUERIES[folder.command])(Remote(carrier), folder.arguments["words"]) or 0
            else:
                _train(folder, Remote(carrier))
    except Restart:
        folder.finish(ended="restart")
    except InputError as e:
        folder.finish(ended="failed", error=str(e))
    except KeyboardInterrupt:
        folder.finish(ended="stopped")
    except Exception as e:
        folder.finish(ended="failed", error=f"{type(e).__name__} in the server's process; see its log")
        raise
    else:
        folder.finish(ended="done", text=printed.getvalue(), code=code)


def _train(folder: JobFolder, transport: Remote) -> None:
    """A stage, from its beginning or from the last committed round."""
    command, out = folder.command, Path(folder.arguments["out"])
    recipe = read_recipe(stage_of(command), command, [str(folder.path / "recipe.yaml"), "--out", str(out)])
    shared = SharedRecipe.of(command, recipe.text)
    with RunFolder(out, recipe.text, resume=True, shared=shared.digest) as run:
        require_approved(transport, command, shared.text, shared.digest, run.name, bool(run.rounds()))
        server_of(command)(run, transport, recipe.build())
