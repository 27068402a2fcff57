"""The columns of /proc/net: who listens, and how soon reading ends."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from ipvsproxy.dataplane import DataplaneError
from ipvsproxy.kernel.listeners import listeners, listening_sctp, listening_tcp, unconnected_udp
from ipvsproxy.model import Address, Listener, Protocol

HEADING = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid\n"
ENDPOINTS = " ENDPT     SOCK   STY SST HBKT LPORT   UID INODE LADDRS\n"

pytestmark = pytest.mark.skipif(
    sys.byteorder == "big", reason="the kernel prints words of the machine's byte order"
)


def row(local: str, state: str) -> str:
    other = "0" * local.index(":") + ":0000"
    return (
        f"   0: {local} {other} {state} 00000000:00000000 00:00000000 00000000     0        0 1\n"
    )


def listener(protocol: Protocol, address: str, port: int) -> Listener:
    return Listener(protocol, Address.parse(address), port)


@pytest.mark.parametrize(
    ("local", "address", "port"),
    [
        ("00000000:0016", "0.0.0.0", 22),
        ("0100007F:280A", "127.0.0.1", 10250),
        ("00000000000000000000000000000000:192B", "::", 6443),
        ("B80D0120000000000000000001000000:0050", "2001:db8::1", 80),
        ("0000000000000000FFFF00000200007F:0050", "127.0.0.2", 80),
    ],
)
def test_an_address_is_read_in_words(local: str, address: str, port: int) -> None:
    assert list(listening_tcp([row(local, "0A")])) == [listener(Protocol.TCP, address, port)]


def test_of_tcp_only_the_sockets_before_the_first_connection_are_read() -> None:
    def rows() -> Iterator[str]:
        yield row("00000000:0016", "0A")
        yield row("0100007F:0016", "01")
        raise AssertionError("a node has tens of thousands of these")

    assert list(listening_tcp(rows())) == [listener(Protocol.TCP, "0.0.0.0", 22)]


def test_of_udp_a_connected_socket_takes_nothing_from_others() -> None:
    rows = [row("0100007F:1000", "01"), row("00000000:0035", "07")]
    assert list(unconnected_udp(rows)) == [listener(Protocol.UDP, "0.0.0.0", 53)]


def test_an_endpoint_of_sctp_has_one_address_or_several() -> None:
    rows = [
        "ffff888003ac1000 ffff888003b2e000 2   10  29   80        0  8312 192.0.2.1 192.0.2.2 \n",
        "ffff888003ac2000 ffff888003b2f000 2   7   30   81        0  8313 0.0.0.0 \n",
        "0000000000000000 0000000000000000 2   10  31   82        0  8314 2001:db8::1 \n",
    ]
    assert list(listening_sctp(rows)) == [
        listener(Protocol.SCTP, "192.0.2.1", 80),
        listener(Protocol.SCTP, "192.0.2.2", 80),
        listener(Protocol.SCTP, "2001:db8::1", 82),
    ]


def test_a_table_that_this_kernel_has_not_is_empty(tmp_path: Path) -> None:
    assert listeners(tmp_path) == frozenset()
    (tmp_path / "tcp").write_text(HEADING + row("00000000:0016", "0A"))
    (tmp_path / "udp").write_text(HEADING)
    (tmp_path / "sctp").mkdir()
    (tmp_path / "sctp" / "eps").write_text(ENDPOINTS)
    assert listeners(tmp_path) == {listener(Protocol.TCP, "0.0.0.0", 22)}


def test_a_table_that_is_not_understood_is_an_error_and_not_a_node_without_sockets(
    tmp_path: Path,
) -> None:
    (tmp_path / "tcp").write_text(HEADING + "nonsense\n")
    with pytest.raises(DataplaneError, match="listening sockets cannot be read"):
        listeners(tmp_path)


def test_this_machine_is_read() -> None:
    assert all(0 < one.port < 65536 for one in listeners())
