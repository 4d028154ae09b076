"""nats-servers with the shipped permissions, or all of `deploy/nats`: its TLS and users, and settings for each role."""

import os
import shutil
import signal
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from messaging.admin.manifests import Durability, conf, conf_fields, tenant_account, user_entry
from messaging.admin.nkeys import write_key
from messaging.admin.permissions import OPERATOR, ROLES, NatsRole, producer
from messaging.client.client import ServerAccess
from oneprotect.dev.nats_server import EmbeddedNats
from tests.kubernetes.certificates import Authority
from tests.support.waiting import until

SHIPPED: Final = Path(__file__).parents[2] / "deploy" / "nats"
HOST: Final = "127.0.0.1"
OF_TESTS: Final = {"ONEPROTECT_NATS_INBOX_PREFIX": OPERATOR.inbox_prefix}
"""For connections of tests: consumers may answer there."""
_ANYBODY: Final = "anybody"


class Keys:
    """The keys of all roles, and the authority of the server certificates.

    Each tenant of `producers` has an account of its own; `trusted` are further users of the product's account.
    """

    def __init__(self, directory: Path, producers: Sequence[str] = (), *, trusted: Sequence[NatsRole] = ()) -> None:
        directory.mkdir(parents=True)
        self.directory = directory
        self.authority = Authority(directory / "tls")
        self.producers = {tenant: producer(tenant) for tenant in producers}
        self.trusted = trusted
        self.certificate, self.key = self.authority.issue(HOST, "localhost")  # Node checks names only
        self.public = {name: write_key(self.seed(name)) for name in [*(role.name for role in self.roles), "sys"]}

    @property
    def roles(self) -> list[NatsRole]:
        """Return all roles of the installation."""
        return [*ROLES, *self.producers.values(), *self.trusted]

    def role(self, name: str) -> NatsRole:
        """Return the role with this name."""
        return next(role for role in self.roles if role.name == name)

    def seed(self, name: str) -> Path:
        """Return the file with the seed of a role."""
        return self.directory / f"{name}.nk"

    def settings(self, name: str, url: str) -> dict[str, str]:
        """Return the environment variables of a program with this role."""
        return {
            "ONEPROTECT_NATS_URL": url,
            "ONEPROTECT_NATS_NKEY_FILE": str(self.seed(name)),
            "ONEPROTECT_NATS_CA_FILE": str(self.authority.ca_file),
            "ONEPROTECT_NATS_INBOX_PREFIX": self.role(name).inbox_prefix,
        }

    def access(self, name: str, url: str, *, inbox_prefix: str | None = None) -> ServerAccess:
        """Return the access of this role, for `connect`."""
        return ServerAccess(
            url=url,
            nkey_file=self.seed(name),
            ca_file=self.authority.ca_file,
            inbox_prefix=inbox_prefix or self.settings(name, url)["ONEPROTECT_NATS_INBOX_PREFIX"],
        )


class NatsWithUsers(EmbeddedNats):
    """A server with a user for each role. Connections without a key, which are those of tests, may do everything."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._public = {role.name: write_key(self._seed(role)) for role in ROLES}
        self.environ: Final = {role.name: self._environ_of(role) for role in ROLES}
        """The environment variables of a program with a role."""

    @property
    def refusals(self) -> list[str]:
        """What the server has refused so far."""
        return [line for line in self.log_path.read_text().splitlines() if "Violation" in line]

    def _seed(self, role: NatsRole) -> Path:
        return self._directory / f"{role.name}.nk"

    def _environ_of(self, role: NatsRole) -> dict[str, str]:
        return {
            "ONEPROTECT_NATS_NKEY_FILE": str(self._seed(role)),
            "ONEPROTECT_NATS_INBOX_PREFIX": role.inbox_prefix,
        }

    def _config(self, port: int) -> dict[str, Any]:
        users = [{"nkey": self._public[role.name], "permissions": role.permissions()} for role in ROLES]
        anybody = {"user": _ANYBODY, "password": _ANYBODY}
        return super()._config(port) | {"authorization": {"users": [*users, anybody]}, "no_auth_user": _ANYBODY}


class ShippedServer(EmbeddedNats):
    """A server with `server.conf`, or with `cluster.conf` as a member of a cluster."""

    def __init__(
        self,
        directory: Path,
        keys: Keys,
        *,
        name: str = "n1",
        routes: dict[str, int] | None = None,
        durability: Durability = Durability.REPLICATED,
    ) -> None:
        super().__init__(directory)
        self.name = name
        self.shipped = directory / "shipped"
        self._keys = keys
        self._sync_interval = durability.sync_interval
        self.routes = routes or {}

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the server; SIGHUP reloads its configuration."""
        os.kill(self.pid, number)

    async def reload(self) -> None:
        """Reload the configuration, and wait until that has happened."""
        done = "Reloaded server configuration"
        before = self.log_path.read_text().count(done)
        self.signal(signal.SIGHUP)
        await until(lambda: self.log_path.read_text().count(done) > before)

    def check(self, tenants: str) -> str:
        """Return the error of a started server's configuration with this `tenants.conf`, or an empty string."""
        (self.shipped / "tenants.conf").write_text(tenants)
        command = [str(self._binary), "-t", "--config", str(self.shipped / "server.conf")]
        ran = subprocess.run(command, env=self._environ(), capture_output=True, text=True, check=False)
        return ran.stderr if ran.returncode else ""

    def _write_config(self, port: int) -> Path:
        shutil.copytree(SHIPPED, self.shipped, dirs_exist_ok=True)
        self._replace("server.conf", "0.0.0.0:4222", f"{HOST}:{port}")
        self._replace("server.conf", "127.0.0.1:8222", f"{HOST}:-1")
        self._replace("durability.conf", '"1s"', f'"{self._sync_interval}"')
        if self.routes:
            self._replace("cluster.conf", "0.0.0.0:6222", f"{HOST}:{self.routes[self.name]}")
        public = self._keys.public
        entries = "".join(f"{conf(user_entry(role, public[role.name]))}\n" for role in self._keys.trusted)
        mark = "      # During a key rotation"
        self._replace("accounts.conf", mark, entries + mark)
        accounts = [tenant_account(tenant, public[role.name]) for tenant, role in self._keys.producers.items()]
        (self.shipped / "tenants.conf").write_text("".join(f"{conf_fields(account)}\n" for account in accounts))
        config = self.shipped / ("cluster.conf" if self.routes else "server.conf")
        config.write_text(f'{config.read_text()}\nports_file_dir: "{self._directory}"\n')
        return config

    def _replace(self, name: str, old: str, new: str) -> None:
        path = self.shipped / name
        text = path.read_text()
        assert old in text, f"{name} has no {old}"
        path.write_text(text.replace(old, new))

    def _environ(self) -> dict[str, str]:
        certificate, key = str(self._keys.certificate), str(self._keys.key)
        return {
            "PATH": os.environ["PATH"],
            "NATS_SERVER_NAME": self.name,
            "NATS_STORE_DIR": str(self._directory / "store"),
            "NATS_ACCOUNT_STORE": "60GB" if self.routes else "20GB",
            "NATS_TLS_CERT": certificate,
            "NATS_TLS_KEY": key,
            "NATS_ROUTE_CERT": certificate,
            "NATS_ROUTE_KEY": key,
            "NATS_ROUTE_CA": str(self._keys.authority.ca_file),
            "NATS_ROUTES": f"[{', '.join(f'tls://{HOST}:{port}' for port in self.routes.values())}]",
            **{f"NATS_{name.upper()}_NKEY": public for name, public in self._keys.public.items()},
        }
