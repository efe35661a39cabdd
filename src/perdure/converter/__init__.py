"""Values, errors and bytes: how everything a workflow or activity takes and gives travels as payloads.

`DataConverter` is what a client is given: a payload converter (a chain of encodings, `perdure.converter.payloads`), a
failure converter (`perdure.converter.failures`), and, if wished, a payload codec (`perdure.converter.codec`) that
encrypts or compresses what leaves the process. The default reads and writes what Temporal's SDKs do.
"""

from __future__ import annotations

from perdure.api import messages as m
from perdure.converter.arguments import decode_arguments, encode_arguments
from perdure.converter.codec import CodecService, PayloadCodec, decode_message, encode_message
from perdure.converter.failures import FailureConverter, inconvertible
from perdure.converter.limits import DEFAULT_MAX_PAYLOAD_BYTES, limited
from perdure.converter.payloads import (
    BinaryNullEncoding,
    BinaryPlainEncoding,
    BinaryProtobufEncoding,
    Encoding,
    JsonPlainEncoding,
    JsonProtobufEncoding,
    PayloadConverter,
)

__all__ = [
    "BinaryNullEncoding",
    "BinaryPlainEncoding",
    "BinaryProtobufEncoding",
    "CodecService",
    "DEFAULT_MAX_PAYLOAD_BYTES",
    "DataConverter",
    "Encoding",
    "FailureConverter",
    "JsonPlainEncoding",
    "JsonProtobufEncoding",
    "PayloadCodec",
    "PayloadConverter",
    "decode_arguments",
    "decode_message",
    "default",
    "encode_arguments",
    "encode_message",
    "limited",
]


class DataConverter:
    """Converts values and failures; the `Converter` that replay, clients and workers use.

    Example::

        client = await Client.connect("orders.db", data_converter=DataConverter(payload_codec=MyEncryption(key)))
    """

    def __init__(
        self,
        *,
        payload_converter: PayloadConverter | None = None,
        failure_converter: FailureConverter | None = None,
        payload_codec: PayloadCodec | None = None,
    ) -> None:
        self.payload_converter = payload_converter or PayloadConverter()
        self.failure_converter = failure_converter or FailureConverter()
        self.payload_codec = payload_codec
        # Bound once: these calls are on the path of every step.
        self.to_payload = self.payload_converter.to_payload
        self.to_payloads = self.payload_converter.to_payloads
        self.to_payload_bytes = self.payload_converter.to_payload_bytes
        self.to_payloads_bytes = self.payload_converter.to_payloads_bytes
        self.from_payload = self.payload_converter.from_payload
        self.from_payload_bytes = self.payload_converter.from_payload_bytes
        self.from_payloads = self.payload_converter.from_payloads

    def to_failure(self, error: BaseException) -> m.Failure:
        """An error as a failure. Never raises, whatever a failure converter of one's own does."""
        try:
            return self.failure_converter.to_failure(error, self.payload_converter)
        except Exception as broken:
            return inconvertible(error, broken)

    def from_failure(self, failure: m.Failure) -> BaseException:
        """The error of a failure. Never raises."""
        return self.failure_converter.from_failure(failure, self.payload_converter)


_DEFAULT = DataConverter()


def default() -> DataConverter:
    """The default converter, shared: it keeps compiled decoders."""
    return _DEFAULT
