"""Settings of the wire: networks, certificates, and doing without mutual TLS."""

from __future__ import annotations

from ipaddress import ip_network
from pathlib import Path

import pytest

from stigmem_replicator.errors import LocalError
from stigmem_replicator.settings import Settings
from tests.unit.places import load, refused, refused_file, review, write

NODE_ID = "stigmem:node:5e2cd33f"
NETWORKS = "STIGMEM_REPLICATOR_ALLOWED_NETWORKS"
CERTIFICATE, KEY, ISSUERS = (
    "STIGMEM_TLS_CERT_PATH",
    "STIGMEM_TLS_KEY_PATH",
    "STIGMEM_TLS_CA_BUNDLE",
)
ALL_OF_TLS = {CERTIFICATE: "cert.pem", KEY: "key.pem", ISSUERS: "ca.pem"}
INSECURE = {"STIGMEM_FEDERATION_INSECURE": "1"}


# networks


@pytest.mark.parametrize(
    ("raw", "networks"),
    [
        ("", []),
        ("10.0.0.0/8", ["10.0.0.0/8"]),
        (" 10.0.0.0/8 , fd00::/8,192.168.7.1", ["10.0.0.0/8", "fd00::/8", "192.168.7.1/32"]),
        ("10.0.0.0/8,10.0.0.0/8", ["10.0.0.0/8"]),
        ("FD00:0::/8", ["fd00::/8"]),
    ],
)
def test_networks_are_a_text_with_commas(raw: str, networks: list[str], tmp_path: Path) -> None:
    settings = load({}, {NETWORKS: raw}, cwd=tmp_path)
    assert settings.allowed_networks == tuple(ip_network(text) for text in networks)


@pytest.mark.parametrize(
    "raw",
    [
        "10.0.0.1/8",
        "10.0.0.0/33",
        "10.0.0.0/-1",
        "10.0.0.0/255.0.0.0",
        "10.0.0.0/0.255.255.255",
        "10.0.0",
        "010.0.0.0/8",
        "fe80::%eth0/64",
        "10.0.0.0/8,",
        "10.0.0.0/8 fd00::/8",
        "node.example",
        "\u0661\u0660.0.0.0/8",
        "167772160",
    ],
)
def test_a_text_that_is_no_network_is_refused(raw: str, tmp_path: Path) -> None:
    """Nothing is guessed: bits past the prefix and masks may be a mistake in the prefix."""
    assert refused(tmp_path, **{NETWORKS: raw}) == (
        f"allowed_networks (from environment {NETWORKS}) is {raw!r}, but must be networks such as "
        "10.0.0.0/8, with no bits set past the prefix, in a list or with commas between them"
    )


def test_networks_may_be_a_list_in_toml_and_others_for_one_peer(tmp_path: Path) -> None:
    config = write(
        tmp_path / "a.toml",
        f'allowed_networks = ["10.0.0.0/8", "fd00::/8"]\n[peer."{NODE_ID}"]\n'
        'allowed_networks = "192.168.7.0/24"\n',
    )
    settings = load({}, {}, config_file=config, cwd=tmp_path)
    assert settings.allowed_networks == (ip_network("10.0.0.0/8"), ip_network("fd00::/8"))
    (own,) = settings.for_peer(NODE_ID).allowed_networks
    assert own == ip_network("192.168.7.0/24")
    described = {row.name: row.value for row in settings.describe()}
    assert described["allowed_networks"] == "10.0.0.0/8, fd00::/8"
    assert described["allowed_networks"] in repr(settings)


@pytest.mark.parametrize("value", ["1", "[1]", '[["10.0.0.0/8"]]', '["10.0.0.0/8,fd00::/8"]'])
def test_a_list_of_anything_but_networks_is_refused(value: str, tmp_path: Path) -> None:
    config = write(tmp_path / "a.toml", f"allowed_networks = {value}\n")
    assert "must be networks such as" in refused_file(config)


# mutual TLS


def test_without_certificates_there_is_no_mutual_tls(tmp_path: Path) -> None:
    """An empty text is as good as nothing, as for the node."""
    assert not Settings().mutual_tls
    settings = load({}, dict.fromkeys(ALL_OF_TLS, ""), cwd=tmp_path)
    assert not settings.mutual_tls
    assert settings.tls_cert_path is settings.tls_key_path is settings.tls_ca_bundle is None


def test_the_node_s_certificates_are_ours(tmp_path: Path) -> None:
    """Relative paths in its .env file start at that file."""
    node = tmp_path / "node"
    text = "".join(f"{name}=tls/{file}\n" for name, file in ALL_OF_TLS.items())
    env_file = write(node / ".env", text)
    settings = load({}, {}, env_file=env_file, cwd=tmp_path)
    assert settings.mutual_tls
    assert settings.tls_cert_path == node / "tls" / "cert.pem"
    assert settings.tls_key_path == node / "tls" / "key.pem"
    assert settings.tls_ca_bundle == node / "tls" / "ca.pem"


@pytest.mark.parametrize(
    ("without", "message"),
    [
        (KEY, f"tls_cert_path is set (from environment {CERTIFICATE}) but tls_key_path is not"),
        (CERTIFICATE, f"tls_key_path is set (from environment {KEY}) but tls_cert_path is not"),
        (
            ISSUERS,
            (
                f"tls_cert_path is set (from environment {CERTIFICATE}) and tls_key_path "
                f"(from environment {KEY}), but tls_ca_bundle is not"
            ),
        ),
    ],
)
def test_half_of_mutual_tls_is_refused(without: str, message: str, tmp_path: Path) -> None:
    environ = {**ALL_OF_TLS, without: ""}
    assert refused(tmp_path, **environ) == message
    with pytest.raises(LocalError) as caught:
        load({}, environ, cwd=tmp_path)
    assert without in caught.value.hint


def test_issuers_alone_are_no_mistake(tmp_path: Path) -> None:
    """The node starts so."""
    assert not load({}, {ISSUERS: "ca.pem"}, cwd=tmp_path).mutual_tls


@pytest.mark.parametrize(
    "text",
    ["A" * 43, "A" * 43 + "=", "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----"],
)
@pytest.mark.parametrize("name", ["federation_privkey_file", "tls_key_path"])
def test_a_key_in_place_of_its_path_is_not_repeated(name: str, text: str, tmp_path: Path) -> None:
    variable = f"STIGMEM_REPLICATOR_{name.upper()}"
    assert refused(tmp_path, **{variable: text}) == (
        f"{name} (from environment {variable}) must be the path of a file, not what is in it, "
        "or nothing"
    )
    read = review(tmp_path, {variable: text})
    assert "AAAA" not in repr(read)


def test_a_long_path_is_not_taken_for_a_key(tmp_path: Path) -> None:
    path = "/" + "a" * 42
    settings = load({}, {"STIGMEM_REPLICATOR_FEDERATION_PRIVKEY_FILE": path}, cwd=tmp_path)
    assert settings.federation_privkey_file == Path(path)


# without mutual TLS


@pytest.mark.parametrize(
    "url",
    ["http://localhost:8765", "http://LOCALHOST", "https://127.0.0.1", "http://[::1]:8765/x"],
)
def test_a_node_on_this_machine_may_do_without(url: str, tmp_path: Path) -> None:
    settings = load({}, {**INSECURE, "STIGMEM_NODE_URL": url}, cwd=tmp_path)
    assert settings.federation_insecure


@pytest.mark.parametrize(
    "url",
    ["http://node.example", "http://127.0.0.2", "http://localhost.example", "localhost:8765", ""],
)
def test_any_other_may_not(url: str, tmp_path: Path) -> None:
    """The hosts are the node's own, to the letter: it would not start."""
    message = refused(tmp_path, **INSECURE, STIGMEM_NODE_URL=url)
    assert message == (
        "federation_insecure is on (from environment STIGMEM_FEDERATION_INSECURE), but node_url is "
        f"{url} (from environment STIGMEM_NODE_URL), which is not this machine: the node does not "
        "start so"
    )


def test_who_logs_in_at_the_node_s_url_is_not_said(tmp_path: Path) -> None:
    url = "http://node:hush@node.example"
    assert "hush" not in refused(tmp_path, **INSECURE, STIGMEM_NODE_URL=url)


@pytest.mark.parametrize(
    "more", [ALL_OF_TLS, {"STIGMEM_LOCAL_DEV_ALLOW_INSECURE_NON_LOOPBACK": "1"}]
)
def test_the_node_says_itself_where_it_may(more: dict[str, str], tmp_path: Path) -> None:
    environ = {**INSECURE, "STIGMEM_NODE_URL": "https://node.example", **more}
    assert load({}, environ, cwd=tmp_path).federation_insecure


@pytest.mark.parametrize("name", ["federation_privkey_file", "tls_key_path", "tls_cert_path"])
@pytest.mark.parametrize(
    "key",
    [
        "Bc8msjGuzIIFs/+/ZqJ3cU3Zb0mAQ9m0kZl1y8xF2hA",
        "Bc8msjGuzIIFs/+/ZqJ3cU3Zb0mAQ9m0kZl1y8xF2hA=",
        '"Bc8msjGuzIIFs__-ZqJ3cU3Zb0mAQ9m0kZl1y8xF2hA"',
        "05cf26b231aecc8205b3ffbf66a277714dd96f498043d9b4919975cbcc45da10",
        "MC4CAQAwBQYDK2VwBCIEIAXPJrIxrsyCBbP/v2aid3FN2W9JgEPZtJGZdcvMRdoQ",
        "-----BEGIN PRIVATE KEY----- MC4CAQ -----END PRIVATE KEY-----",
    ],
)
def test_a_key_in_place_of_its_path_is_refused_and_not_repeated(
    tmp_path: Path, name: str, key: str
) -> None:
    """However it is spelled: a path is shown to everybody."""
    environ = {f"STIGMEM_REPLICATOR_{name.upper()}": key}
    read = review(tmp_path, environ)
    (problem,) = [item for item in read.problems if name in item.message]
    assert key.strip('"')[:16] not in f"{problem.message} {problem.hint}"
    assert "not what is in it" in problem.message


@pytest.mark.parametrize(
    "path", ["/etc/ssl/k", "keys/node.pem", "M/" + "k" * 60 + ".pem", "./M" * 30]
)
def test_a_path_is_no_key(tmp_path: Path, path: str) -> None:
    environ = {"STIGMEM_REPLICATOR_FEDERATION_PRIVKEY_FILE": path}
    found = review(tmp_path, environ).settings.federation_privkey_file
    assert found == tmp_path / path


@pytest.mark.parametrize(
    ("name", "value", "fits"),
    [
        ("REQUESTS_PER_S", "0", True),
        ("REQUESTS_PER_S", "0.01", True),
        ("REQUESTS_PER_S", "1e-5", False),
        ("PEER_REQUESTS_PER_S", "-1", False),
        ("BYTES_PER_S", "1024", True),
        ("PEER_BYTES_PER_S", "1", False),
    ],
)
def test_a_rate_by_which_nothing_moves_is_refused(
    tmp_path: Path,
    name: str,
    value: str,
    fits: bool,  # noqa: FBT001
) -> None:
    """A pull that waits for hours between two pages would only look hung."""
    read = review(tmp_path, {f"STIGMEM_REPLICATOR_{name}": value})
    assert (not read.problems) is fits
