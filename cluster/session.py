"""The one place that starts or joins Ray: an embedded local cluster, or a cluster that is there already."""

import atexit
import logging
import os
import secrets
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any, ParamSpec, Self, TypeVar

from cluster import watchdog
from cluster.definition import ClusterDefinition, RoleName
from cluster.environment import LOOPBACK, SESSION, environment_variable
from cluster.errors import UserError
from cluster.machine import local_limits, make_session_directory, object_store_bytes
from cluster.watchdog import SESSION_VARIABLE

P = ParamSpec("P")
R = TypeVar("R")


class Session:
    """A connection to Ray, started at the first need; one at a time in a process.

    Start it on the main thread: the embedded cluster dies with the thread that started it.

    Args:
        definition: The cluster.
        quiet: Keep Ray's own messages from the terminal.
    """

    def __init__(self, definition: ClusterDefinition, quiet: bool = True) -> None:
        self.definition = definition
        self.quiet = quiet
        self.started = False
        self.directory: Path | None = None
        self._watchdog: subprocess.Popen[bytes] | None = None
        self._handlers: dict[int, Any] = {}
        self._environment: dict[str, str | None] = {}

    def __enter__(self) -> Self:
        self._end_on_signals()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def start(self) -> None:
        """Start the embedded cluster, or join the one that the definition describes; again is free.

        Raises:
            UserError: The machine has less than the definition says, or there is no cluster to join.
        """
        if self.started:
            return
        self._end_on_signals()
        self._set_environment(SESSION | {"RAY_AUTH_MODE": self.definition.security.auth})
        if self.definition.is_local:
            self._start_local()
        else:
            self._join()
        # Ray takes SIGTERM for itself.
        self._end_on_signals()
        self.started = True
        atexit.register(self.stop)

    def stop(self) -> None:
        """End the session and all its processes; without a start it does nothing."""
        atexit.unregister(self.stop)
        ended = not self.started
        try:
            if self.started:
                import ray

                self.started = False
                ray.shutdown()
                ended = True
        finally:
            for number, handler in self._handlers.items():
                signal.signal(number, handler)
            self._handlers = {}
            if self.directory is not None:
                shutil.rmtree(self.directory, ignore_errors=True)
                self.directory = None
            if self._watchdog is not None:
                # Without the byte it ends what is left, as after a kill.
                self._watchdog.communicate(b"\n" if ended else None)
                self._watchdog = None
            for key, value in self._environment.items():
                os.environ.pop(key, None)
                if value is not None:
                    os.environ[key] = value
            self._environment = {}

    def resources(self, role: RoleName, alone: bool = False) -> dict[str, Any]:
        """Return what one actor of ``role`` asks of Ray, as keyword arguments of ``ray.remote``.

        Where it stands ``alone``, no other role's beside it, on the embedded cluster that is a whole core at least.
        """
        wanted = self.definition.role(role)
        cpus = max(1, wanted.cpus) if alone and self.definition.is_local else wanted.cpus
        asked: dict[str, Any] = {"num_cpus": cpus, "num_gpus": wanted.gpus}
        if wanted.memory is not None:
            asked["memory"] = wanted.memory
        if not self.definition.is_local:
            asked["label_selector"] = {"ray.io/node-group": wanted.group}
        return asked

    def num_threads(self, role: RoleName, actors: int) -> int:
        """Return how many threads one of ``actors`` actors of ``role`` computes with, at least 1.

        On the embedded cluster they share all its cores; elsewhere an actor has what its role says.
        """
        wanted = self.definition.role(role)
        if not self.definition.is_local:
            return max(1, int(wanted.cpus))
        cores, _ = local_limits(self.definition.group(wanted.group))
        return max(1, int(cores) // actors)

    def pool(self, role: RoleName) -> tuple[int, int]:
        """Return the fewest and the most actors of ``role``.

        The embedded cluster does not grow, so both are what fits, with a tokenising task beside each; of those as many
        as cores.
        """
        wanted, is_local = self.definition.role(role), self.definition.is_local
        group = self.definition.group(wanted.group)
        cpus, memory = local_limits(group) if is_local else (float(group.cpus), int(group.memory))
        share = wanted.cpus
        if is_local and role == "tokenize":
            share = max(1.0, share)
        elif is_local and self.definition.roles.tokenize is not None:
            share += self.definition.roles.tokenize.cpus
        fits = [cpus / share] if share else []
        fits += [group.gpus / wanted.gpus] if wanted.gpus else []
        fits += [memory / wanted.memory] if wanted.memory else []
        on_a_node = max(1, int(min(fits, default=1)))
        if not is_local:
            return wanted.pool or (max(1, group.min * on_a_node), max(1, group.max * on_a_node))
        most = min(on_a_node, wanted.pool[1]) if wanted.pool else on_a_node
        return most, most

    def run_on(self, role: RoleName, function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """Run ``function`` where ``role`` stands: in this process when the cluster is embedded in it."""
        if self.definition.is_local:
            return function(*args, **kwargs)
        import ray

        self.start()
        # Ray takes plain functions alone, neither methods nor cached ones.
        result: R = ray.get(ray.remote(**self.resources(role))(lambda: function(*args, **kwargs)).remote())
        return result

    def _start_local(self) -> None:
        group = self.definition.workers[0]
        cpus, memory = local_limits(group)
        # A local Ray would leave a token in ~/.ray; ours lives and dies with the session.
        self._set_environment(LOOPBACK | {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)})
        import ray

        if ray.is_initialized():
            raise UserError("Ray is already running in this process", fix="stop the other session first")
        _read_environment_again(loopback=True)
        self.directory = make_session_directory()
        self._watchdog = _start_watchdog(self.directory)
        store = object_store_bytes(memory)
        try:
            with (
                environment_variable(SESSION_VARIABLE, str(self.directory)),
                _native_output_to(self.directory / "start.log" if self.quiet else None),
            ):
                ray.init(
                    address="local",
                    num_cpus=int(cpus),
                    num_gpus=group.gpus,
                    object_store_memory=store,
                    include_dashboard=False,
                    log_to_driver=not self.quiet,
                    logging_level=logging.ERROR if self.quiet else logging.INFO,
                    _memory=max(memory - store, 2**20),
                    _temp_dir=str(self.directory),
                    _node_ip_address="127.0.0.1",
                )
        except BaseException:
            ray.shutdown()
            self.stop()
            raise

    def _join(self) -> None:
        import ray

        _read_environment_again(loopback=False)
        try:
            ray.init(
                address="auto",
                log_to_driver=not self.quiet,
                logging_level=logging.ERROR if self.quiet else logging.INFO,
            )
        except ConnectionError as error:
            raise UserError(
                "no Ray cluster to join",
                where=f"definition {self.definition.name}",
                got=str(error),
                expected=f"to run on the head of a {self.definition.provider.kind} cluster",
                fix="start the command on the head of that cluster, or take `--definition local`",
            ) from error

    def _set_environment(self, wanted: dict[str, str]) -> None:
        for key, value in wanted.items():
            self._environment.setdefault(key, os.environ.get(key))
            os.environ[key] = value

    def _end_on_signals(self) -> None:
        """End through ``SystemExit`` on SIGTERM and SIGHUP, so that ``stop`` runs; not under nohup."""
        if threading.current_thread() is not threading.main_thread():
            return
        for number in (signal.SIGTERM, signal.SIGHUP):
            before = signal.getsignal(number)
            if before is not signal.SIG_IGN:
                self._handlers.setdefault(number, before)
                signal.signal(number, _leave)

    def prepare_data(self) -> None:
        """Start the cluster if need be and set Ray Data up: silent, as stages draw progress of their own."""
        self.start()
        from ray.data import DataContext

        DataContext.get_current().enable_progress_bars = not self.quiet
        # Ray Data's own error in between would lose what, where and fix.
        DataContext.get_current().raise_original_map_exception = True
        if self.quiet:
            logging.getLogger("ray.data").setLevel(logging.ERROR)


@contextmanager
def _native_output_to(path: Path | None) -> Iterator[None]:
    """Let Ray's C++ core, which announces its own log level, write into a file instead of the terminal."""
    if path is None:
        yield
        return
    sys.stderr.flush()
    terminal = os.dup(2)
    with path.open("wb") as file:
        os.dup2(file.fileno(), 2)
    try:
        yield
    finally:
        sys.stderr.flush()
        os.dup2(terminal, 2)
        os.close(terminal)


def _read_environment_again(loopback: bool) -> None:
    """Let Ray see the environment: it reads these settings at import, which may have come first."""
    from ray._private import ray_constants
    from ray._raylet import AuthenticationTokenLoader, Config  # type: ignore[attr-defined]

    ray_constants.ENABLE_RAY_CLUSTER = not loopback
    Config.initialize("")
    AuthenticationTokenLoader.instance().reset_cache()


def _start_watchdog(directory: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-I", "-S", watchdog.__file__, str(directory)]
    return subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )


def _leave(number: int, _frame: FrameType | None) -> None:
    raise SystemExit(128 + number)
