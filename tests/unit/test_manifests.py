from __future__ import annotations

import json

import pytest

from ipvsproxy.model import Address
from ipvsproxy.objects import EndpointSlice, Node, ObjectReference, Service
from ipvsproxy.sources.manifests import Manifest, UnreadableManifest, read_manifest
from ipvsproxy.store import Put, Refused

SERVICE = """\
apiVersion: v1
kind: Service
metadata: {name: web, namespace: shop}
spec:
  clusterIP: 10.96.0.10
  ports: [{port: 80}]
"""
SLICE = """\
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata:
  name: web-1
  namespace: shop
  labels: {kubernetes.io/service-name: web}
addressType: IPv4
endpoints: [{addresses: [10.1.0.1]}]
ports: [{port: 8080}]
"""
NODE = "apiVersion: v1\nkind: Node\nmetadata: {name: n1}\n"


def read(text: str | bytes, origin: str = "/m/a.yaml") -> Manifest:
    return read_manifest(text.encode() if isinstance(text, str) else text, origin)


def unreadable(text: str | bytes, origin: str = "/m/a.yaml") -> str:
    with pytest.raises(UnreadableManifest) as error:
        read(text, origin)
    assert "\n" not in str(error.value)
    return str(error.value)


def services(manifest: Manifest) -> list[Service]:
    return [
        statement.object
        for statement in manifest.statements
        if isinstance(statement, Put) and isinstance(statement.object, Service)
    ]


def test_several_documents_give_their_objects_in_order() -> None:
    manifest = read(f"---\n# first\n{SERVICE}---\n---\n{SLICE}---\n{NODE}")
    assert all(isinstance(one, Put) and one.origin == "/m/a.yaml" for one in manifest.statements)
    kinds = [type(one.object) for one in manifest.statements if isinstance(one, Put)]
    assert kinds == [Service, EndpointSlice, Node]
    assert (manifest.problem, manifest.ignored) == ("", ())


def test_json_says_the_same_as_yaml() -> None:
    objects = [
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": "web", "namespace": "shop"},
            "spec": {"clusterIP": "10.96.0.10", "ports": [{"port": 80}]},
        }
    ]
    expected = services(read(SERVICE))
    listed = json.dumps({"apiVersion": "v1", "kind": "List", "items": objects}, indent=1)
    assert services(read(listed, "/m/a.json")) == expected
    assert services(read(listed, "/m/a.yaml")) == expected
    several = "\n".join([json.dumps(objects[0]), json.dumps(objects[0])])
    assert services(read(several, "/m/a.json")) == expected * 2


def test_a_byte_order_mark_and_windows_line_ends_do_no_harm() -> None:
    text = b"\xef\xbb\xbf" + SERVICE.replace("\n", "\r\n").encode()
    assert services(read(text)) == services(read(SERVICE))


def test_times_and_dates_stay_text() -> None:
    text = SERVICE.replace(
        "metadata: {name: web, namespace: shop}",
        "metadata: {name: 2024-01-01, creationTimestamp: 2024-01-01T00:00:00Z}",
    )
    (service,) = services(read(text))
    assert (service.name.name, service.created) == ("2024-01-01", 1704067200.0)


def test_an_annotation_that_yaml_takes_for_a_boolean_is_answered() -> None:
    text = SERVICE.replace("shop}", "shop, annotations: {ipvsproxy.io/x: on}}")
    (refused,) = read(text).statements
    assert isinstance(refused, Refused)
    assert refused.reason == (
        "metadata.annotations[ipvsproxy.io/x]: text is needed, not true or false (put it in quotes)"
    )


def test_anchors_and_merges_work() -> None:
    text = """\
apiVersion: v1
kind: List
items:
- &web
  apiVersion: v1
  kind: Service
  metadata: {name: a}
  spec: &spec {clusterIP: 10.96.0.1, ports: &ports [{port: 80}]}
- <<: *web
  metadata: {name: b}
  spec:
    <<: *spec
    clusterIP: 10.96.0.2
- <<: *web
  metadata: {name: c}
"""
    found = [(one.name.name, str(one.cluster_ips[0])) for one in services(read(text))]
    assert found == [("a", "10.96.0.1"), ("b", "10.96.0.2"), ("c", "10.96.0.1")]


def test_merges_of_merges_do_not_grow() -> None:
    levels = ["l0: &l0 {a: 1, b: 2, c: 3}"]
    levels += [f"l{i}: &l{i} {{<<: [{', '.join([f'*l{i - 1}'] * 20)}]}}" for i in range(1, 30)]
    assert read("\n".join(levels)).problem == "document at line 1: an object without kind"


def test_aliases_of_aliases_do_not_grow() -> None:
    levels = ["l0: &l0 [x]"]
    levels += [f"l{i}: &l{i} [{', '.join([f'*l{i - 1}'] * 20)}]" for i in range(1, 30)]
    text = "\n".join([*levels, "apiVersion: v1", "kind: List", "items: *l29"])
    assert read(text).problem.endswith("(and 19 more)")


def test_a_list_that_contains_itself_is_answered() -> None:
    text = "&a\napiVersion: v1\nkind: List\nitems: [*a]"
    assert read(text).problem == "document at line 1: items[0]: a list within a list"


@pytest.mark.parametrize("opening", ["[", "- ", "? ", '{"a": '])
@pytest.mark.parametrize("origin", ["/m/a.yaml", "/m/a.json"])
def test_deep_nesting_is_refused_and_crashes_nothing(opening: str, origin: str) -> None:
    assert unreadable(opening * 200_000, origin)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "the file is empty; delete it if it is to say nothing"),
        (" \n\n", "the file is empty; delete it if it is to say nothing"),
        ("a: [1\nb: 2", "line 2: did not find expected ',' or ']'"),
        ("kind: Service\nspec:\n\tports: []", "line 3: indented by a tab; YAML wants spaces"),
        ("a: 1\nb: 2\na: 3", "line 3: the key 'a' is written twice"),
        ("a: *b", "line 1: found undefined alias"),
        ("a: !python/name:os.system x", "line 1: could not determine a constructor for the tag"),
        ("{[1]: 2}", "line 1: found unhashable key"),
        ("a: \x01", "not YAML: unacceptable character #x0001"),
        ("a: !!bool x", "not YAML: "),
        ("a: !!int ''", "not YAML: "),
        (b"a: 1\nb: \xff", "line 2: not UTF-8 text"),
        ("a: 1".encode("utf-16"), "line 1: not UTF-8 text"),
        (f"{SERVICE}---\nspec: {{\n", "line 8: "),
    ],
)
def test_yaml_that_does_not_parse_is_named_by_line(text: str | bytes, reason: str) -> None:
    assert unreadable(text).startswith(reason)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ('{"a": 1,\n "b": }', "line 2: not JSON: Expecting value"),
        ('{"a": 1', "line 1: not JSON: Expecting ',' delimiter"),
        ('{}\n{"a": NaN}', "document at line 2: NaN is not JSON"),
        ('{}\n{"a": "\\ud800"}', "document at line 2: half a surrogate pair is no text"),
        ('[{"\\uDFFF": 1}]', "document at line 1: half a surrogate pair is no text"),
        ("apiVersion: v1", "line 1: not JSON: Expecting value"),
    ],
)
def test_json_that_does_not_parse_is_named_by_line(text: str, reason: str) -> None:
    assert unreadable(text, "/m/a.json") == reason


def test_a_whole_surrogate_pair_in_json_is_a_text() -> None:
    text = '{"apiVersion": "v1", "kind": "Service", "metadata": {"name": "\\ud83d\\ude00"}}'
    (statement,) = read_manifest(text.encode(), "/m/a.json").statements
    assert isinstance(statement, Refused)
    assert statement.reference.name == "\U0001f600"


def test_what_is_no_object_is_a_problem_and_the_rest_of_the_file_counts() -> None:
    manifest = read(f"- a list\n---\njust text\n---\nknd: Service\n---\n{SERVICE}")
    assert manifest.problem == ("document at line 1: an object is needed, not a list (and 2 more)")
    assert len(services(manifest)) == 1


def test_a_file_of_comments_says_nothing_and_is_no_problem() -> None:
    assert read("# nothing here yet\n") == Manifest()


def test_other_kinds_are_passed_over_with_a_count() -> None:
    deployment = "apiVersion: apps/v1\nkind: Deployment\n"
    manifest = read(f"{deployment}---\n{SERVICE}---\n{deployment}")
    assert manifest.ignored == (("apps/v1 Deployment", 2),)
    assert len(manifest.statements) == 1


def test_an_object_that_is_nonsense_is_refused_with_its_addresses() -> None:
    manifest = read(f"{SERVICE.replace('port: 80', 'port: 0')}---\n{SLICE}")
    refused, put = manifest.statements
    assert isinstance(put, Put)
    assert isinstance(refused, Refused)
    assert refused.reference == ObjectReference("Service", "shop", "web")
    assert refused.origin == "/m/a.yaml"
    assert refused.reason == "spec.ports[0].port: 0 is not a port (1-65535)"
    assert refused.addresses == frozenset({Address.parse("10.96.0.10")})


def test_a_fault_of_ours_is_kept_for_the_log(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr("ipvsproxy.objects.fields.unicast", broken)
    manifest = read(f"{SERVICE}---\n{NODE}")
    assert [type(one) for one in manifest.statements] == [Refused, Put]
    assert [type(one.__cause__) for one in manifest.faults] == [ZeroDivisionError]
