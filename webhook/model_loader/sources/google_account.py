"""A Google service account, from its key file."""

import base64
import hashlib
import json
import time
from collections.abc import Callable
from urllib.parse import urlencode

from model_loader.http.transport import redact
from model_loader.outcomes import Code, LoadError
from model_loader.plan.model import Context
from model_loader.sources import documents

_SCOPE = "https://www.googleapis.com/auth/devstorage.read_only"
_GRANT = "urn:ietf:params:oauth:grant-type:jwt-bearer"
_SECONDS = 3600
_SERVICES = frozenset({"https://oauth2.googleapis.com/token", "https://accounts.google.com/o/oauth2/token"})
"""Google's token services, in new and old key files."""


def tokens(key_file: str, context: Context) -> Callable[[], tuple[str, float]]:
    """Return a function that exchanges a signed assertion for a token and its lifetime in seconds.

    Raises LoadError(InvalidSource) for a file that is not an account's key.

    Source: https://developers.google.com/identity/protocols/oauth2/service-account#authorizingrequests
    """
    try:
        from awscrt.crypto import RSA, RSASignatureAlgorithm  # noqa: PLC0415  # the standard library cannot sign
    except ImportError:
        raise _invalid("needs the library awscrt, which is not installed", hint="Use the loader's own image.") from None
    try:
        account = json.loads(key_file)
        if account["type"] != "service_account":
            raise _invalid("is not a service account's key", hint="Use a service account's key, or workload identity.")
        issuer, service, name = (str(account[field]) for field in ("client_email", "token_uri", "private_key_id"))
        private = RSA.new_private_key_from_pem_data(account["private_key"])
    except (ValueError, KeyError, TypeError, RuntimeError):
        raise _invalid("cannot be read") from None

    if context.store and service not in _SERVICES:
        context.refuse("token_uri of the account's key file", redact(service), context.store)

    def fetch() -> tuple[str, float]:
        now = int(time.time())
        header = {"alg": "RS256", "typ": "JWT", "kid": name}
        claims = {"iss": issuer, "scope": _SCOPE, "aud": service, "iat": now, "exp": now + _SECONDS}
        text = f"{_base64(json.dumps(header).encode())}.{_base64(json.dumps(claims).encode())}"
        digest = hashlib.sha256(text.encode()).digest()
        assertion = f"{text}.{_base64(private.sign(RSASignatureAlgorithm.PKCS1_5_SHA256, digest))}"
        form = urlencode({"grant_type": _GRANT, "assertion": assertion})
        found = documents.from_json(context.transport.read(service, form=form))
        return str(found["access_token"]), float(found["expires_in"])

    return fetch


def _base64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _invalid(why: str, *, hint: str = "") -> LoadError:
    return LoadError(Code.INVALID_SOURCE, f"the Google account's key file in the Secret {why}", hint=hint)
