"""A server behind TLS whose certificate nobody but its owner has signed: --cacert and --insecure."""

import json
import shutil
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import uvicorn

from conformance.client import Journal, NoAnswer, Server
from conformance.session import _tls
from tests.conformance.suite import conformance, free_port

MODEL = {"id": "behind/tls", "object": "model", "created": 1_790_000_000, "owned_by": "somebody"}
SIGNING = (
    *("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"),
    *("-subj", "/CN=tier3a-test", "-addext", "subjectAltName=IP:127.0.0.1"),
)
pytestmark = pytest.mark.skipif(not shutil.which("openssl"), reason="needs openssl, to sign with")


class Behind(NamedTuple):
    """A server behind TLS, and the file with its certificate."""

    url: str
    certificate: Path


async def lists_a_model(scope: dict[str, Any], receive: Any, send: Any) -> None:
    """Answer everything with a list of one model."""
    body = json.dumps({"object": "list", "data": [MODEL]}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


@pytest.fixture(scope="module")
def behind(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Behind]:
    """Run uvicorn with a certificate that is signed by itself."""
    folder = tmp_path_factory.mktemp("tls")
    certificate, key = folder / "certificate.pem", folder / "key.pem"
    subprocess.run(
        [*SIGNING, "-keyout", str(key), "-out", str(certificate)],
        check=True,
        capture_output=True,
    )
    port = free_port()
    config = uvicorn.Config(
        lists_a_model,
        port=port,
        ssl_certfile=certificate,
        ssl_keyfile=key,
        lifespan="off",
        log_level="error",
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    deadline = time.monotonic() + 20
    while not server.started and time.monotonic() < deadline:
        time.sleep(0.01)
    yield Behind(f"https://127.0.0.1:{port}", certificate)
    server.should_exit = True
    thread.join(10)


def asked(behind: Behind, cacert: object, *, is_insecure: bool) -> int:
    """Return the status of one request, with the options of that run."""
    tls = _tls(cacert, is_insecure=is_insecure)
    return Server(behind.url, timeout_s=5, journal=Journal(), tls=tls).get("/v1/models").status


def test_certificate_that_nobody_signed_is_refused(behind: Behind) -> None:
    """Without an option it isn't taken, and the message says why."""
    with pytest.raises(NoAnswer, match="certificate verify failed"):
        asked(behind, None, is_insecure=False)


def test_insecure_takes_any_certificate(behind: Behind) -> None:
    """--insecure asks nobody who has signed it."""
    assert asked(behind, None, is_insecure=True) == 200


def test_suite_runs_with_cacert(behind: Behind) -> None:
    """With --cacert the whole way works, from the command line to a verdict on a requirement."""
    run = conformance(
        *("--base-url", behind.url, "--cacert", str(behind.certificate)),
        *("--profile", "openai-api", "-k", "models_are_a_list"),
    )

    assert "1 passed" in run.stdout, run.stdout + run.stderr
