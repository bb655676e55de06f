"""Which real Redis servers do the tests run against? One, clusters, and one that sentinels watch.

Each is a context manager: entered, it is ready; left, its processes are gone.
"""

from __future__ import annotations

import binascii
import contextlib
import datetime
import ipaddress
import os
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Self

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from tests.servers import LOG_TAIL, find, free_port, reserved, wait_until

PASSWORD = "open/sesame"
QUOTED = "open%2Fsesame"
SERVICE = "counters"


class Redis:
    """A Redis that keeps nothing on disk.

    Attributes:
        port: Where it listens on this machine.
        url: With its password.
    """

    def __init__(
        self, cwd: Path, *options: str, password: str = "", tls: bool = False, port: int = 0
    ) -> None:
        self._program, self._cwd, self.port = find("redis-server"), cwd, port or free_port()
        self._password, self._tls = password, tls
        self._options = options
        self._log = cwd / f"redis-{self.port}.log"
        self._process: subprocess.Popen[bytes] | None = None
        login = f":{QUOTED}@" if password else ""
        scheme, query = ("rediss", f"?ssl_ca_certs={cwd / 'cert.pem'}") if tls else ("redis", "")
        self.url = f"{scheme}://{login}127.0.0.1:{self.port}/0{query}"

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self.go_on()
        self.kill()
        print(f"--- redis {self.port}\n{self._log.read_text(errors='replace')[-LOG_TAIL:]}")

    def start(self) -> None:
        """Start it, empty, and wait until it answers."""
        command = [
            self._program,
            *self._arguments(),
            "--bind",
            "127.0.0.1",
            "--dir",
            str(self._cwd),
        ]
        command += ["--save", "", "--appendonly", "no", *self._options]
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(command, cwd=self._cwd, stdout=log, stderr=log)
        try:
            wait_until(self._is_ready, f"the Redis on {self.port} answers")
        except BaseException:
            self.kill()
            raise

    def _arguments(self) -> list[str]:
        arguments = ["--port", str(self.port)]
        if self._tls:
            cert, key = certificate(self._cwd)
            arguments = ["--port", "0", "--tls-port", str(self.port), "--tls-auth-clients", "no"]
            arguments += ["--tls-cert-file", str(cert), "--tls-key-file", str(key)]
        return arguments + (["--requirepass", self._password] if self._password else [])

    def _is_ready(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, self._log.read_text(errors="replace")[-LOG_TAIL:]
        with contextlib.suppress(Exception), self.client() as client:
            return bool(client.ping())
        return False

    def client(self) -> Any:
        """Return a client that decodes answers; close it."""
        import redis

        return redis.Redis.from_url(
            self.url, decode_responses=True, protocol=2, socket_timeout=5, socket_connect_timeout=5
        )

    def ask(self, *command: object) -> Any:
        """Send one command on a connection of its own."""
        with self.client() as client:
            return client.execute_command(*command)

    def calls(self, command: str) -> int:
        """Tell how often a command was called, by other commands too."""
        stats = self.ask("INFO", "commandstats")
        return int(stats.get(f"cmdstat_{command}", {}).get("calls", 0))

    def kill(self) -> None:
        """End it without a goodbye."""
        if self._process is not None:
            self._process.kill()
            self._process.wait(10)

    def pause(self) -> None:
        """Let it hang."""
        assert self._process is not None
        os.kill(self._process.pid, signal.SIGSTOP)

    def go_on(self) -> None:
        """Let it go on."""
        if self._process is not None and self._process.poll() is None:
            os.kill(self._process.pid, signal.SIGCONT)


class Cluster:
    """Three masters that share all slots.

    Args:
        cwd: For its folders.
        replicas: Whether each has a replica.
        timeout: Milliseconds after which a node counts as failed.

    Attributes:
        nodes: The masters.
        replicas: Of each, its replica.
        url: Names all masters.
    """

    def __init__(self, cwd: Path, *, replicas: bool = False, timeout: int = 2000) -> None:
        made: list[Redis] = []
        for _ in range(6 if replicas else 3):
            port = _cluster_port()
            options = ("--cluster-enabled", "yes", "--cluster-node-timeout", str(timeout))
            options += ("--repl-diskless-sync-delay", "0", "--cluster-migration-barrier", "9")
            options += ("--cluster-require-full-coverage", "no")
            made.append(Redis(_folder(cwd, str(port)), *options, port=port))
        self.nodes, self.replicas = made[:3], made[3:]
        hosts = ",".join(f"127.0.0.1:{node.port}" for node in self.nodes)
        self.url = f"redis+cluster://{hosts}"
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as stack:
            for node in (*self.nodes, *self.replicas):
                stack.enter_context(node)
            self._join()
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *exc: object) -> None:
        self._stack.close()

    def _join(self) -> None:
        for number, node in enumerate(self.nodes):
            slots = range(number * 5462, min((number + 1) * 5462, 16384))
            node.ask("CLUSTER", "ADDSLOTS", *slots)
            node.ask("CLUSTER", "SET-CONFIG-EPOCH", number + 1)
        everybody = (*self.nodes, *self.replicas)
        for node in everybody[1:]:
            self.nodes[0].ask("CLUSTER", "MEET", "127.0.0.1", node.port)
        wait_until(lambda: all(map(self._is_joined, everybody)), "the cluster is ready")
        for master, replica in zip(self.nodes, self.replicas, strict=False):
            replica.ask("CLUSTER", "REPLICATE", master.ask("CLUSTER", "MYID"))
        for replica in self.replicas:
            wait_until(lambda r=replica: follows(r), "the replica follows")

    def _is_joined(self, node: Redis) -> bool:
        info, known = str(node.ask("CLUSTER", "INFO")), len(self.nodes) + len(self.replicas)
        return "cluster_state:ok" in info and f"cluster_known_nodes:{known}" in info

    def master_of(self, tag: str) -> Redis:
        """Return the master that keeps a tag, by what those that answer say."""
        slot = _slot(tag)
        for node in (*self.nodes, *self.replicas):
            with contextlib.suppress(Exception):
                for first, last, (_, port, *_), *_ in node.ask("CLUSTER", "SLOTS"):
                    if first <= slot <= last:
                        return next(n for n in (*self.nodes, *self.replicas) if n.port == port)
        raise AssertionError("no node knows")


def _slot(tag: str) -> int:
    return binascii.crc_hqx(tag.encode(), 0) % 16384


def feeds(master: Redis) -> bool:
    """Say whether a replica took what a master wrote: nothing is sent before it says that first."""
    with master.client() as client:
        return bool(client.info("replication").get("slave0", {}).get("offset"))


def follows(replica: Redis) -> bool:
    """Say whether a server is a replica whose master it hears."""
    with replica.client() as client:
        facts = client.info("replication")
    return facts["role"] == "slave" and facts["master_link_status"] == "up"


def _cluster_port() -> int:
    """Find a port for which the one of the cluster's own talk is free, too."""
    for _ in range(100):
        port = free_port()
        if port + 10000 < 65536:
            with contextlib.suppress(OSError):
                reserved(port + 10000)
                return port
    raise AssertionError("no free ports")


class Watched:
    """A master and a replica that a sentinel watches.

    Args:
        cwd: For its folders.
        password: Of all of them.
        options: Of both servers.

    Attributes:
        nodes: The first master, and its first replica.
        sentinel: Watches them.
        url: Names the sentinel.
    """

    def __init__(self, cwd: Path, *, password: str = "", options: Sequence[str] = ()) -> None:
        self._cwd, self._password = cwd, password
        auth = ("--masterauth", password) if password else ()
        auth += ("--repl-diskless-sync-delay", "0", *options)
        master = Redis(_folder(cwd, "master"), *auth, password=password)
        of = ("--replicaof", f"127.0.0.1 {master.port}")
        replica = Redis(_folder(cwd, "replica"), *auth, *of, password=password)
        self.nodes = [master, replica]
        port = free_port()
        folder = _folder(cwd, "sentinel")
        self._settings = folder / "sentinel.conf"
        self.sentinel = Sentinel(folder, self._settings, port=port, password=password)
        login = f":{QUOTED}@" if password else ""
        self.url = f"redis+sentinel://{login}127.0.0.1:{port}/{SERVICE}/0"
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as stack:
            for node in self.nodes:
                stack.enter_context(node)
            wait_until(lambda: follows(self.nodes[1]), "the replica follows")
            self._write_settings()
            stack.enter_context(self.sentinel)
            wait_until(self._knows_replica, "the sentinel knows the replica")
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *exc: object) -> None:
        self._stack.close()

    def master(self) -> int:
        """Return the port of who the sentinel says is the master."""
        return int(self.sentinel.ask("SENTINEL", "GET-MASTER-ADDR-BY-NAME", SERVICE)[1])

    def _knows_replica(self) -> bool:
        return len(self.sentinel.ask("SENTINEL", "REPLICAS", SERVICE)) == 1

    def _write_settings(self) -> None:
        lines = [f"monitor {SERVICE} 127.0.0.1 {self.nodes[0].port} 1"]
        lines += [f"down-after-milliseconds {SERVICE} 300", f"failover-timeout {SERVICE} 10000"]
        lines += [f"auth-pass {SERVICE} {self._password}"] if self._password else []
        self._settings.write_text("".join(f"sentinel {line}\n" for line in lines))


class Sentinel(Redis):
    """Watches others."""

    def __init__(self, cwd: Path, settings: Path, *, port: int, password: str = "") -> None:
        super().__init__(cwd, port=port, password=password)
        # A sentinel has no databases to choose from.
        self.url = self.url.removesuffix("/0")
        self._settings = settings

    def start(self) -> None:
        """Start it, and wait until it answers."""
        command = [self._program, str(self._settings), "--sentinel", "--port", str(self.port)]
        command += ["--bind", "127.0.0.1", "--dir", str(self._cwd)]
        command += ["--requirepass", self._password] if self._password else []
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(command, cwd=self._cwd, stdout=log, stderr=log)
        wait_until(self._is_ready, f"the sentinel on {self.port} answers")


def _folder(cwd: Path, name: str) -> Path:
    folder = cwd / name
    folder.mkdir()
    return folder


def certificate(cwd: Path) -> Sequence[Path]:
    """Write a certificate for 127.0.0.1, which is its own authority, and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.datetime.now(datetime.UTC)
    address = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))
    built = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([address]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    paths = cwd / "cert.pem", cwd / "key.pem"
    paths[0].write_bytes(built.public_bytes(serialization.Encoding.PEM))
    pkcs8, plain = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    paths[1].write_bytes(key.private_bytes(serialization.Encoding.PEM, pkcs8, plain))
    return paths


class Way:
    """A long way to a server: what is sent arrives later.

    Attributes:
        port: Where it begins.
        there: Seconds to the server.
        back: Seconds from the server.
    """

    def __init__(self, to: int, *, there: float = 0.0, back: float = 0.0) -> None:
        self._to, self.there, self.back = to, there, back
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]

    def __enter__(self) -> Self:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                server = socket.create_connection(("127.0.0.1", self._to))
                for one, other, way in ((client, server, "there"), (server, client, "back")):
                    threading.Thread(
                        target=self._carry, args=(one, other, way), daemon=True
                    ).start()

    def _carry(self, source: socket.socket, target: socket.socket, way: str) -> None:
        with contextlib.suppress(OSError), source, target:
            while data := source.recv(65536):
                time.sleep(getattr(self, way))  # the way itself, for which nobody waits
                target.sendall(data)


@contextlib.contextmanager
def junk_server(answer: bytes, *, dripping: float = 0) -> Iterator[int]:
    """Run what is no Redis on a port: it answers all it gets with the same bytes.

    Args:
        answer: What it sends, again and again where that is nothing.
        dripping: Seconds between its bytes, where it sends them one by one for ever.
    """
    listener = socket.create_server(("127.0.0.1", 0))
    is_over = threading.Event()

    def serve(client: socket.socket) -> None:
        with client, contextlib.suppress(OSError):
            while not is_over.is_set() and client.recv(65536):
                client.sendall(answer)
                while dripping and not is_over.wait(dripping):
                    client.sendall(answer)

    def accept() -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = listener.accept()
                threading.Thread(target=serve, args=(client,), daemon=True).start()

    thread = threading.Thread(target=accept, daemon=True)
    thread.start()
    try:
        yield listener.getsockname()[1]
    finally:
        is_over.set()
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join(5)
