#!/usr/bin/env python3
"""Calls the admin API with only its address: server reflection provides the service definition.

usage: grpc_reflection.py HOST:PORT [SECRET_FILE]

Prints the cluster's status as JSON. The exit code is 0 only if Status answers and names the node that answered. Needs
grpcio and grpcio-reflection from PyPI.
"""

import sys

# This file has the name of a package that it needs, so its own folder must not be searched for packages.
sys.path.pop(0)

import grpc
from google.protobuf import descriptor_pool, json_format, message_factory
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

SERVICE = "pontoon.admin.v1.Admin"
DEADLINE_S = 10


class Bearer(grpc.UnaryUnaryClientInterceptor, grpc.StreamStreamClientInterceptor):
    """Adds the cluster secret to every call, including those of reflection."""

    def __init__(self, secret):
        self.metadata = [("authorization", f"Bearer {secret}")]

    def _with_secret(self, details):
        return details._replace(metadata=list(details.metadata or []) + self.metadata)

    def intercept_unary_unary(self, continuation, details, request):
        return continuation(self._with_secret(details), request)

    def intercept_stream_stream(self, continuation, details, requests):
        return continuation(self._with_secret(details), requests)


def main():
    if len(sys.argv) not in (2, 3):
        sys.exit(__doc__)
    channel = grpc.insecure_channel(sys.argv[1])
    if len(sys.argv) == 3:
        with open(sys.argv[2], encoding="ascii") as file:
            channel = grpc.intercept_channel(channel, Bearer(file.read().strip()))

    reflected = ProtoReflectionDescriptorDatabase(channel)
    services = list(reflected.get_services())
    if SERVICE not in services:
        sys.exit(f"reflection lists {services}, not {SERVICE}")
    pool = descriptor_pool.DescriptorPool(reflected)
    method = pool.FindServiceByName(SERVICE).FindMethodByName("Status")
    request = message_factory.GetMessageClass(method.input_type)
    reply = message_factory.GetMessageClass(method.output_type)
    call = channel.unary_unary(
        f"/{SERVICE}/{method.name}",
        request_serializer=request.SerializeToString,
        response_deserializer=reply.FromString,
    )
    status = call(request(), timeout=DEADLINE_S)
    if status.answered_by == 0:
        sys.exit(f"the answer does not name a node: {status}")
    print(json_format.MessageToJson(status, preserving_proto_field_name=True))


if __name__ == "__main__":
    try:
        main()
    except grpc.RpcError as error:
        sys.exit(f"{error.code()}: {error.details()}")
