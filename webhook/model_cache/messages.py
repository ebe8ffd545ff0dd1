"""The few messages of CSI and of the kubelet's plugin registration, in protobuf's wire format.

Sources: the container-storage-interface specification 1.13, csi.proto; k8s.io/kubelet, pluginregistration/v1/api.proto;
https://protobuf.dev/programming-guides/encoding/
"""

from collections.abc import Iterable, Mapping
from typing import NamedTuple

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_MAX_VARINT = 10
Fields = dict[int, list[int | bytes]]
"""The values of a message, by the number of their field."""


class PublishRequest(NamedTuple):
    """NodePublishVolumeRequest. `block`: the volume is requested as a device."""

    volume_id: str
    target: str
    secrets: Mapping[str, str]
    attributes: Mapping[str, str]
    block: bool


class UnpublishRequest(NamedTuple):
    """NodeUnpublishVolumeRequest."""

    volume_id: str
    target: str


class RegistrationStatus(NamedTuple):
    """RegistrationStatus of the kubelet."""

    registered: bool
    error: str


def publish_request(data: bytes) -> PublishRequest:
    """Parse a NodePublishVolumeRequest. Raises ValueError."""
    fields = decode(data)
    capability = decode(_last(fields, 5))
    return PublishRequest(_text(fields, 1), _text(fields, 4), _map(fields, 7), _map(fields, 8), 1 in capability)


def unpublish_request(data: bytes) -> UnpublishRequest:
    """Parse a NodeUnpublishVolumeRequest. Raises ValueError."""
    fields = decode(data)
    return UnpublishRequest(_text(fields, 1), _text(fields, 2))


def registration_status(data: bytes) -> RegistrationStatus:
    """Parse a RegistrationStatus. Raises ValueError."""
    fields = decode(data)
    return RegistrationStatus(bool((fields.get(1) or [0])[-1]), _text(fields, 2))


def empty(data: bytes) -> bytes:
    """Return a request whose fields are not needed."""
    return data


def nothing(response: None) -> bytes:
    """Encode a response without fields."""
    return b""


def plugin_info(name: str, version: str) -> bytes:
    """Encode GetPluginInfoResponse."""
    return _strings((1, name), (2, version))


def node_info(node: str) -> bytes:
    """Encode NodeGetInfoResponse."""
    return _strings((1, node))


def registration_info(name: str, endpoint: str, versions: Iterable[str]) -> bytes:
    """Encode the kubelet's PluginInfo."""
    return _strings((1, "CSIPlugin"), (2, name), (3, endpoint), *((4, each) for each in versions))


def decode(data: bytes) -> Fields:
    """Return the fields of a message. Raises ValueError."""
    fields: Fields = {}
    at = 0
    while at < len(data):
        tag, at = _varint(data, at)
        kind = tag & 7
        value: int | bytes
        if kind == _VARINT:
            value, at = _varint(data, at)
        else:
            if kind == _BYTES:
                size, at = _varint(data, at)
            elif kind in (_FIXED64, _FIXED32):
                size = 8 if kind == _FIXED64 else 4
            else:
                raise ValueError("a field has an unknown type")
            if at + size > len(data):
                raise ValueError("a field is cut off")
            value, at = data[at : at + size], at + size
        fields.setdefault(tag >> 3, []).append(value)
    return fields


def encode(fields: Iterable[tuple[int, bytes]]) -> bytes:
    """Return a message with these fields: texts, bytes and messages."""
    return b"".join(_number(number << 3 | _BYTES) + _number(len(value)) + value for number, value in fields)


def _strings(*fields: tuple[int, str]) -> bytes:
    return encode((number, text.encode()) for number, text in fields)


def _last(fields: Fields, number: int) -> bytes:
    value = (fields.get(number) or [b""])[-1]
    if not isinstance(value, bytes):
        raise ValueError("a field has another type")
    return value


def _text(fields: Fields, number: int) -> str:
    return _last(fields, number).decode()


def _map(fields: Fields, number: int) -> dict[str, str]:
    found: dict[str, str] = {}
    for entry in fields.get(number, []):
        if not isinstance(entry, bytes):
            raise ValueError("a field has another type")
        pair = decode(entry)
        found[_text(pair, 1)] = _text(pair, 2)
    return found


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = 0
    for index in range(_MAX_VARINT):
        if at + index >= len(data):
            break
        byte = data[at + index]
        value |= (byte & 0x7F) << (7 * index)
        if byte < 0x80:
            return value, at + index + 1
    raise ValueError("a number is cut off or too long")


def _number(value: int) -> bytes:
    encoded = bytearray()
    while value >= 0x80:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*encoded, value])
