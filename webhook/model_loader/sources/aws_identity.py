"""The pod's identity on AWS: IAM roles for service accounts, and the node's agent (EKS Pod Identity, ECS)."""

from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote, urlencode, urlsplit

from model_loader.http.network import Network
from model_loader.http.transport import Transport, redact
from model_loader.outcomes import Code, LoadError
from model_loader.plan.model import Context
from model_loader.sources import documents

# The addresses of the ECS and EKS agents. The AWS SDKs accept only these without TLS, too.
_AGENTS = ("169.254.170.2/32", "169.254.170.23/32", "fd00:ec2::23/128", "127.0.0.0/8", "::1/128")


_DOMAINS = {"cn-": "amazonaws.com.cn", "eusc-": "amazonaws.eu"}
"""The domains of partitions by the beginning of their regions' names."""


def domain(region: str) -> str:
    """Return the domain of the services in a region."""
    return next((name for start, name in _DOMAINS.items() if region.startswith(start)), "amazonaws.com")


class Keys(NamedTuple):
    """An access key, with the session token of a temporary one."""

    access: str
    secret: str
    token: str = ""

    def __repr__(self) -> str:
        return f"Keys({self.access!r})"  # never show the secret parts


def from_web_identity(context: Context, region: str) -> Keys:
    """Exchange the service account's token for keys. Raises LoadError.

    Source: https://docs.aws.amazon.com/STS/latest/APIReference/API_AssumeRoleWithWebIdentity.html
    """
    secret = context.secret
    service = context.service(f"https://sts.{region}.{domain(region)}", "AWS_ENDPOINT_URL_STS")
    form = {
        "Action": "AssumeRoleWithWebIdentity",
        "Version": "2011-06-15",
        "RoleArn": secret.get("AWS_ROLE_ARN"),
        "RoleSessionName": secret.get("AWS_ROLE_SESSION_NAME") or "kubectl-serve-model-loader",
        "WebIdentityToken": _text(secret.get("AWS_WEB_IDENTITY_TOKEN_FILE")),
    }
    try:
        response = context.transport.read(f"{service}/", form=urlencode(form, quote_via=quote))
    except LoadError as failure:
        if failure.transient or failure.code is Code.REFUSED:
            raise
        raise LoadError(Code.UNAUTHORIZED, f"the token service gave no keys: {failure.message}") from None
    space = "{https://sts.amazonaws.com/doc/2011-06-15/}"
    try:
        found = documents.from_xml(response).find(f".//{space}Credentials")
    except ValueError:
        found = None
    if found is None:
        raise LoadError(Code.UNAUTHORIZED, "the token service gave no keys")
    return Keys(
        *(found.findtext(f"{space}{name}") or "" for name in ("AccessKeyId", "SecretAccessKey", "SessionToken"))
    )


def from_container(context: Context) -> Keys:
    """Request keys from the node's agent. Raises LoadError."""
    secret = context.secret
    url = secret.get("AWS_CONTAINER_CREDENTIALS_FULL_URI")
    if context.store and urlsplit(url).scheme != "http":
        context.refuse("AWS_CONTAINER_CREDENTIALS_FULL_URI", redact(url), context.store)  # not an agent of the node
    token = secret.get("AWS_CONTAINER_AUTHORIZATION_TOKEN")
    file = secret.get("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE")
    headers = {"Authorization": _text(file) if file else token} if file or token else {}
    agent = Transport(Network.of(_AGENTS)) if urlsplit(url).scheme == "http" else context.transport
    try:
        found = documents.from_json(agent.read(url, headers))
        return Keys(str(found["AccessKeyId"]), str(found["SecretAccessKey"]), str(found["Token"]))
    except (ValueError, KeyError, TypeError):
        raise LoadError(Code.UNAUTHORIZED, "the node's agent gave no keys") from None
    finally:
        if agent is not context.transport:
            agent.close()


def _text(file: str) -> str:
    try:
        return Path(file).read_text().strip()
    except OSError:
        raise LoadError(Code.INVALID_SOURCE, f"the identity token {file} cannot be read") from None
