"""Serves one release until Ctrl-C."""

import errno
import logging
import socket
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from cluster.errors import UserError
from cluster.session import Session
from serve.config import ServeConfig

if TYPE_CHECKING:
    from serve.guard import Access

_APPLICATION = "stope"


def serve_release(
    release_directory: Path, session: Session, config: ServeConfig, on_ready: Callable[[str], None]
) -> None:
    """Serve a release over HTTP; returns when Ctrl-C is pressed and everything has stopped.

    Args:
        release_directory: Holds release.json, model/, the index and documents.parquet.
        session: Where replicas run; it is started, and stopped again, unless it was running before.
        config: How the release is served.
        on_ready: Called with the URL once requests are answered.

    Raises:
        ModelError: The parts of the release do not belong together.
        UserError: The port is taken, the keys file cannot be used, or no replica came up.
    """
    from serve.guard import Access
    from serve.keys import load_keys
    from serve.release import check_release

    digests = load_keys(config.keys_file) if config.keys_file else ()
    check_port(config.host, config.port)
    release_directory = release_directory.resolve()
    check_release(release_directory, config)
    access = Access(digests, config.is_loopback and not digests, config.max_body_bytes)
    was_started = session.started
    try:
        session.start()
        _deploy(release_directory, session, config, access)
        on_ready(_url(config))
        threading.Event().wait()
    except KeyboardInterrupt:
        pass
    finally:
        _stop(session, keep=was_started)


def check_port(host: str, port: int) -> None:
    """Refuse an address that cannot be listened on.

    Ray's proxy listens with SO_REUSEPORT, so that it would share the port of another server in silence.

    Raises:
        UserError: The port is taken or the host is not this machine's.
    """
    where = f"{host}:{port}"
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as probe:
            # As servers do, or connections that were closed a moment ago would count as a taken port.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
            probe.listen()
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise UserError(
                "the port is taken",
                where,
                fix=f"stop the other server, or take another port: --port {port + 1}",
            ) from error
        raise UserError("cannot listen here", where, got=str(error), fix="set host to 127.0.0.1") from error


def _deploy(directory: Path, session: Session, config: ServeConfig, access: "Access") -> None:
    import ray.serve
    from ray.serve.config import HTTPOptions, ProxyLocation
    from ray.serve.schema import LoggingConfig

    from serve.app import build_application

    if session.quiet:
        logging.getLogger("ray.serve").setLevel(logging.ERROR)
    logs = LoggingConfig(enable_access_log=False, log_level="WARNING")
    is_one_machine = config.is_loopback or session.definition.is_local
    ray.serve.start(
        proxy_location=ProxyLocation.HeadOnly if is_one_machine else ProxyLocation.EveryNode,
        http_options=HTTPOptions(host=config.host, port=config.port),
        logging_config=logs,
    )
    application = build_application(
        directory, config, access, session.definition.role("serve"), session.resources("serve")
    )
    try:
        ray.serve.run(application, name=_APPLICATION, route_prefix="/", logging_config=logs)
    except RuntimeError as error:
        deployments = ray.serve.status().applications[_APPLICATION].deployments.values()
        # The replica's traceback, whose last line is the error itself.
        lines = [line for found in deployments for line in found.message.splitlines() if line.strip()]
        raise UserError(
            "no replica came up",
            f"release {directory.name}",
            got=lines[-1].strip() if lines else str(error),
            fix="run again with --debug to see the replica's log",
        ) from error


def _stop(session: Session, keep: bool) -> None:
    import ray
    import ray.serve

    try:
        if not ray.is_initialized():
            return
        if keep or not session.definition.is_local:
            ray.serve.shutdown()
        elif _APPLICATION in ray.serve.status().applications:
            # Lets requests in flight end; the session takes the rest down. A shutdown of Serve would leave an
            # alarm about its own controller on the terminal.
            ray.serve.delete(_APPLICATION)
    finally:
        if not keep:
            session.stop()


def _url(config: ServeConfig) -> str:
    host = f"[{config.host}]" if ":" in config.host else config.host
    return f"http://{host}:{config.port}"
