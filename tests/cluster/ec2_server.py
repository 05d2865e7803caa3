"""EC2, IAM and S3 by moto, and the metadata service of instances, for hosts in namespaces.

`serve` runs in a process of its own, in the network of the hosts. A socket in the file system is
reached from every network namespace, so the test controls the server through that one.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from multiprocessing.connection import Client, Listener
from typing import Any
from urllib.parse import parse_qsl

REGION, ACCOUNT, PORT = "us-west-2", "123456789012", 5000
METADATA = "169.254.169.254"  # where every instance finds what concerns it
Respond = Callable[..., Any]


@dataclass(frozen=True)
class Instance:
    """A machine as EC2 lists it. key: public half of its key pair. place: its zone.

    first: the script that it runs when it starts.
    """

    id: str
    kind: str
    address: str
    public: str
    state: str
    place: str
    key: str
    tags: dict[str, str]
    first: str


@dataclass(frozen=True)
class Call:
    """A request of EC2. given: its parameters as they were sent. error: a code, empty: none."""

    action: str
    given: dict[str, str]
    source: str
    error: str = ""


@dataclass
class Cloud:
    """What the test controls.

    dry: whether there is no spot capacity. closed: whether instances are refused every call of EC2,
    as when a role's credentials are not valid. leaving: those with a notice. calls: so far.
    """

    dry: bool = False
    closed: bool = False
    leaving: set[str] = field(default_factory=set)
    calls: list[Call] = field(default_factory=list)

    def backend(self) -> Any:
        from moto.ec2.models import ec2_backends

        return ec2_backends[ACCOUNT][REGION]

    def set(self, name: str, value: bool) -> None:
        """Set `dry` or `closed`."""
        setattr(self, name, value)

    def give_notice(self, instance: str) -> None:
        self.leaving.add(instance)

    def terminate(self, instance: str) -> None:
        self.backend().terminate_instances([instance])

    def shut_down(self, instance: str) -> None:
        """What EC2 does where the system of an instance has shut itself down."""
        found = self.backend().get_instance(instance)
        if found.instance_initiated_shutdown_behavior == "terminate":
            self.terminate(instance)
        else:
            self.backend().stop_instances([instance])

    def recorded(self) -> list[Call]:
        return list(self.calls)

    def instances(self) -> list[Instance]:
        return [self._described(instance) for instance in self.backend().all_instances()]

    def open_ports(self, group: str) -> list[tuple[str, int | None, int | None, str]]:
        """(protocol, first port, last port, who may connect) of each rule of a security group."""
        rules = self.backend().get_security_group_from_id(group).ingress_rules
        return [
            (
                *(rule.ip_protocol, rule.from_port, rule.to_port),
                rule.ip_range.get("CidrIp") or rule.source_group["GroupId"],
            )
            for rule in rules
        ]

    def objects(self, bucket: str) -> dict[str, bytes]:
        """{key: content} of all that is in a bucket of S3."""
        from moto.s3.models import s3_backends

        keys = s3_backends[ACCOUNT]["aws"].get_bucket(bucket).keys
        return {name: keys[name].value for name in list(keys)}

    def volumes(self) -> list[dict[str, str]]:
        """Tags of the disks that there are."""
        return [
            {tag["key"]: tag["value"] for tag in volume.get_tags()}
            for volume in self.backend().describe_volumes()
        ]

    def _described(self, instance: Any) -> Instance:
        pair = self.backend().key_pairs.get(instance.key_name)
        return Instance(
            id=instance.id,
            kind="spot" if instance.lifecycle == "spot" else "on demand",
            address=instance.private_ip_address,
            public=instance.public_ip_address,
            state=instance.state,
            place=instance.availability_zone,
            key=pair.public_key if pair else "",
            tags={tag["key"]: tag["value"] for tag in instance.get_tags()},
            first=instance.user_data.decode() if instance.user_data else "",
        )


class Recorded:
    """A WSGI application that records calls of EC2, and refuses those that the cloud refuses."""

    def __init__(self, app: Callable[..., Iterable[bytes]], cloud: Cloud) -> None:
        self._app, self._cloud = app, cloud

    def __call__(self, environ: dict[str, Any], start: Respond) -> Iterable[bytes]:
        from io import BytesIO

        if "/ec2/" not in environ.get("HTTP_AUTHORIZATION", ""):
            return self._app(environ, start)
        body = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
        environ["wsgi.input"] = BytesIO(body)
        given = dict(parse_qsl(body.decode()))
        action, source = given.pop("Action", ""), environ["REMOTE_ADDR"]
        spot = given.get("InstanceMarketOptions.MarketType") == "spot"
        inside = any(i.private_ip == source for i in self._cloud.backend().all_instances())
        if self._cloud.closed and inside:
            status, code = "403 Forbidden", "UnauthorizedOperation"
        elif self._cloud.dry and spot and action == "RunInstances":
            status, code = "500 Internal Server Error", "InsufficientInstanceCapacity"
        else:
            self._cloud.calls.append(Call(action, given, source))
            return self._app(environ, start)
        self._cloud.calls.append(Call(action, given, source, code))
        start(status, [("Content-Type", "text/xml")])
        error = f"<Error><Code>{code}</Code><Message>as the test has it</Message></Error>"
        return [f"<Response><Errors>{error}</Errors></Response>".encode()]


def metadata(cloud: Cloud) -> Callable[..., Iterable[bytes]]:
    """The service that an instance finds at 169.254.169.254, by version 2 of its protocol."""

    def app(environ: dict[str, Any], start: Respond) -> Iterable[bytes]:
        found = [i for i in cloud.instances() if i.address == environ["REMOTE_ADDR"]]
        status, text = "404 Not Found", ""
        if environ["REQUEST_METHOD"] == "PUT":
            status, text = "200 OK", "the-token"
        elif environ.get("HTTP_X_AWS_EC2_METADATA_TOKEN") != "the-token":
            status = "401 Unauthorized"
        elif found and (answer := _answer(cloud, found[0].id, environ["PATH_INFO"])):
            status, text = "200 OK", answer
        start(status, [("Content-Type", "text/plain"), ("Content-Length", str(len(text)))])
        return [text.encode()]

    return app


def _answer(cloud: Cloud, instance: str, path: str) -> str:
    profiles = cloud.backend().iam_instance_profile_associations
    name = profiles[instance].iam_instance_profile.name if instance in profiles else ""
    roles = "/latest/meta-data/iam/security-credentials/"
    end = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + 6 * 3600))
    secret = {"AccessKeyId": "node", "SecretAccessKey": "node", "Token": "node"}
    answers = {
        "/latest/meta-data/placement/availability-zone/": f"{REGION}a",
        roles: name,
        roles + name: json.dumps({"Code": "Success", **secret, "Expiration": end}),
    }
    if instance in cloud.leaving:
        leaves = json.dumps({"action": "terminate", "time": end})
        answers["/latest/meta-data/spot/instance-action"] = leaves
    return answers.get(path, "")


def ask(socket: str, what: str, *arguments: Any) -> Any:
    """What method `what` of the server's Cloud returns.

    Raises: what it raised; OSError where nothing serves.
    """
    with Client(socket, "AF_UNIX") as connection:
        connection.send((what, arguments))
        answer = connection.recv()
    if isinstance(answer, Exception):
        raise answer
    return answer


def serve(address: str, socket: str) -> None:
    from moto.ec2.models.elastic_network_interfaces import NetworkInterface
    from moto.moto_server.werkzeug_app import (
        DomainDispatcherApplication,
        MotoRequestHandler,
        create_backend_app,
    )
    from werkzeug.serving import make_server

    def public_is_private(interface: Any) -> None:
        """Hosts have one address, which both the user and the head can reach."""
        if interface.public_ip_auto_assign:
            interface.public_ip = interface.private_ip_address

    NetworkInterface.check_auto_public_ip = public_is_private  # type: ignore[method-assign]
    cloud = Cloud()
    app = Recorded(DomainDispatcherApplication(create_backend_app), cloud)
    apps = ((address, PORT, app), (METADATA, 80, metadata(cloud)))
    for where, port, served in apps:
        server = make_server(where, port, served, True, request_handler=MotoRequestHandler)
        threading.Thread(target=server.serve_forever, daemon=True).start()
    with Listener(socket, "AF_UNIX") as listener:
        while True:
            with listener.accept() as connection:
                what, arguments = connection.recv()
                try:
                    connection.send(getattr(cloud, what)(*arguments))
                except Exception as error:
                    connection.send(error)
