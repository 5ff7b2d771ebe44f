"""What a person gets wrong is answered in a line that says what to do next, with the exit status of the docs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from support.looked_at import FABRIC, GROUP, WAITS, Object, made
from weft.api.names import ANNOTATION_MODE
from weft.api.resources import FABRICS, INFERENCE_GROUPS, LOGICAL_NODES, NAMESPACES
from weft.cli.look import plan
from weft.cli.look.commands import main
from weft.cli.look.reading import Asker, AskError, Ref, ref_of
from weft.cli.look.words import refusal
from weft.cli.main import main as command
from weft.cluster import ClusterError, ConflictError, NotFoundError, UnknownAddressError

ONE = "clusters: [{name: c, cluster: {server: 'http://127.0.0.1:1'}}], users: [{name: u, user: {}}]"
KUBECONFIG = f"{{current-context: x, contexts: [{{name: x, context: {{cluster: c, user: u}}}}], {ONE}}}"


@pytest.mark.parametrize(
    ("text", "options", "words"),
    [
        (None, (), "there is no file"),
        ("kind: [", (), "while parsing a flow node"),
        ("", (), "cannot be used"),
        ("[]", (), "cannot be used"),
        ("just words", (), "cannot be used"),
        ("{clusters: [{}]}", (), "cannot be used"),
        ("{contexts: [{name: x}], current-context: y}", (), "cannot be used"),
        ("just words", (), "it is no kubeconfig"),
        (KUBECONFIG, ("--context", "elsewhere"), "elsewhere"),
        (KUBECONFIG, (), "Cannot connect to host 127.0.0.1:1 ["),
    ],
)
def test_a_kubeconfig_that_leads_nowhere_is_named_with_what_is_wrong_of_it(
    text: str | None, options: tuple[str, ...], words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "kubeconfig"
    if text is not None:
        file.write_text(text)

    assert main("status", ["--kubeconfig", str(file), *options]) == 1
    told = capsys.readouterr()
    assert told.out == ""
    assert words in told.err
    assert len(told.err.splitlines()) == 1
    assert str(file) in told.err or "kubectl config view" in told.err


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (ClusterError(0, "NoAnswer", "GET /apis: no route"), "no route; does the cluster run"),
        (ClusterError(401, "Unauthorized", "Unauthorized"), "does not know who asks: log in again"),
        (
            ClusterError(403, "Forbidden", 'User "x" cannot patch'),
            'no right to do that: User "x" cannot patch;',
        ),
        (UnknownAddressError(404, "", "404 page not found"), "is Weft installed there?"),
        (NotFoundError(404, "NotFound", 'namespaces "x" not found'), 'namespaces "x" not found'),
        (ConflictError(409, "Conflict", "modified"), "nothing was written: try again"),
        (ClusterError(500, "InternalError", "webhook is down"), "the API server refuses it: webhook is down"),
    ],
)
def test_each_refusal_of_the_api_server_says_what_to_do_next(error: ClusterError, words: str) -> None:
    assert words in refusal(error)


LEADS: Object = {
    "spec": {"holderIdentity": "weft-1", "leaseDurationSeconds": 15, "renewTime": "9999-01-01T00:00:00Z"}
}


class One:
    """Has these objects, in all namespaces."""

    def __init__(self, *objects: Object) -> None:
        self.objects = objects
        self.patched: list[str] = []
        self.conflicts = 0

    async def list(self, resource: Any, *_: object) -> tuple[list[Object], int]:
        return [each for each in self.objects if each["kind"] == resource.kind], 1

    async def find(self, *_: object) -> tuple[Object, ...]:
        return (LEADS,)

    async def get(self, resource: Any, name: str, _: str = "") -> Object:
        for each in self.objects:
            if each["metadata"]["name"] == name:
                return each
        raise NotFoundError(404, "NotFound", f"{name} not found")

    async def patch(self, _: object, name: str, *__: object) -> None:
        self.conflicts -= 1
        if self.conflicts >= 0:
            raise ConflictError(409, "Conflict", "modified")
        self.patched.append(name)

    async def close(self) -> None: ...


async def test_an_object_of_another_namespace_is_pointed_to() -> None:
    asker = Asker(One(WAITS), "default")  # type: ignore[arg-type]

    said = await asker.missing(Ref(LOGICAL_NODES, "greedy", "default"))

    assert said == "there is no LogicalNode default/greedy, or no right to see it; team-a has one: -n team-a"


@pytest.mark.parametrize(
    ("ref", "words"),
    [
        (Ref(LOGICAL_NODES, "gredy", "team-a"), "or no right to see it; there is greedy"),
        (Ref(LOGICAL_NODES, "x", "team-a"), "or no right to see it (-n says in which namespace)"),
        (Ref(FABRICS, "rackb"), "or no right to see it; there is rack"),
        (Ref(FABRICS, "x"), "there is no Fabric x, or no right to see it"),
    ],
)
async def test_a_misspelt_name_is_answered_by_those_that_may_be_meant(ref: Ref, words: str) -> None:
    assert (await Asker(One(WAITS, FABRIC), "team-a").missing(ref)).endswith(words)  # type: ignore[arg-type]


def test_a_namespace_that_is_not_there_is_no_empty_answer(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    connected(monkeypatch, made(NAMESPACES, "team-a", {}))

    for verb in (["status"], ["why", "lnode/x"], ["report"]):
        assert main(verb[0], [*verb[1:], "-n", "tema-a"]) == 1
        assert capsys.readouterr().err == f"weft {verb[0]}: there is no namespace tema-a; there is team-a\n"


@pytest.mark.parametrize(
    ("words", "answer"),
    [
        ("trainer", "'trainer' has no kind: KIND/NAME, for example lnode/trainer."),
        ("pod/x", "'pod' is no kind of Weft's. There are: fabric (fab), "),
        ("lnode.apps/x", "'lnode.apps' is no kind of Weft's."),
        ("lnode/x?dryRun=All", "name one LogicalNode: logicalnode/NAME"),
    ],
)
def test_what_is_no_name_of_an_object_is_answered_by_how_one_is_named(words: str, answer: str) -> None:
    with pytest.raises(AskError) as told:
        ref_of([words], "team-a")
    assert str(told.value).startswith(answer)


@pytest.mark.parametrize("kind", ["logicalnode.weft.dev", "logicalnodes.v1alpha2.weft.dev", "LNODE"])
def test_objects_are_named_as_kubectl_prints_them(kind: str) -> None:
    assert ref_of([f"{kind}/x"], "a") == Ref(LOGICAL_NODES, "x", "a")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("status", "-n", "a/b"), "has to be the name of a namespace"),
        (("plan", "-f", "x", "--operator", "127.0.0.1:8080"), "has to begin with http:// or https://"),
        (("ui", "--prometheus", "prometheus:9090"), "has to begin with http:// or https://"),
        (("pause",), "name an object, or --all"),
    ],
)
def test_wrong_usage_is_refused_before_anything_is_asked(
    arguments: tuple[str, ...], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments[0], arguments[1:])
    assert ended.value.code == 2
    assert words in capsys.readouterr().err


NODE = "{kind: LogicalNode, apiVersion: weft.dev/v1alpha2, metadata: {name: x%s}, spec: {}}"


def test_definitions_that_cannot_be_written_are_an_answer_and_no_traceback(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")

    assert command(["crds", "--output", str(tmp_path / "file" / "crds")]) == 1
    assert capsys.readouterr().err == f"weft crds: {tmp_path}/file/crds cannot be written: Not a directory\n"


def test_a_plan_takes_files_and_folders_as_kubectl_does(tmp_path: Path) -> None:
    (tmp_path / "b.yaml").write_text(NODE % 2)
    (tmp_path / "a.yml").write_text(NODE % 1)
    (tmp_path / "notes.txt").write_text("{")
    more = tmp_path.parent / "more.json"
    more.write_text('{"kind": "Fabric", "apiVersion": "weft.dev/v1alpha2", "metadata": {"name": "rack"}}')

    found = plan.objects_in([tmp_path, more], "team-a")

    assert [(one["kind"], one["metadata"]["name"]) for one in found] == [
        ("LogicalNode", "x1"),
        ("LogicalNode", "x2"),
        ("Fabric", "rack"),
    ]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (f"{NODE % 1}\n---\n{NODE % 1}", "LogicalNode x1 is there twice"),
        (NODE % "/status", r"'x/status': no object and no namespace can be called so"),
        ("{kind: [x], metadata: {name: x}}", "without kind and metadata.name, as text"),
        ("{kind: LogicalNode, metadata: {name: x, namespace: 7}}", "without kind and metadata.name, as text"),
        ("[1]", "without kind and metadata.name, as text"),
        ("a: [", "it is not YAML"),
        ("\0", "it is not YAML"),
        (None, "No such file or directory"),
    ],
)
def test_a_file_that_cannot_be_planned_is_named_with_what_is_wrong_of_it(
    text: str | None, words: str, tmp_path: Path
) -> None:
    file = tmp_path / "file.yaml"
    if text is not None:
        file.write_text(text)
    with pytest.raises(AskError, match=words):
        plan.objects_in([file], "team-a")


@pytest.mark.parametrize(
    ("head", "verdict"),
    [
        ({"kind": "Deployment", "apiVersion": "apps/v1"}, "not looked at"),
        ({"kind": "LogicalNode", "apiVersion": "weft.dev/v1alpha1"}, "refused"),
        ({"kind": "logicalnode", "apiVersion": "weft.dev/v1alpha2"}, "refused"),
        ({"kind": "LogicalNode"}, "refused"),
    ],
)
async def test_a_misspelt_kind_or_version_of_wefts_is_refused_and_not_passed_over(
    head: Object, verdict: str
) -> None:
    answer = await plan.plan(One(), [{**head, "metadata": {"name": "x"}}], "weft-system", "weft", "")  # type: ignore[arg-type]

    assert [one.verdict for one in answer.objects] == [verdict]
    assert answer.refused == (verdict == "refused")


def connected(monkeypatch: pytest.MonkeyPatch, *objects: Object) -> One:
    client = One(*objects)

    async def configuration(*_: object) -> None: ...

    monkeypatch.setattr("weft.runtime.client.KubeClient", lambda _: client)
    monkeypatch.setattr("weft.runtime.client.load_configuration", configuration)
    return client


def test_a_pause_is_tried_again_where_the_operator_writes_at_the_same_time_and_gives_up_in_the_end(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    client = connected(monkeypatch, FABRIC)
    client.conflicts = 2

    assert main("pause", ["fabric/rack"]) == 0
    assert (client.patched, capsys.readouterr().err) == (["rack"], "")
    client.conflicts = 100
    assert main("pause", ["fabric/rack"]) == 1
    assert "nothing was written: try again" in capsys.readouterr().err


def test_a_pause_that_no_operator_carries_out_says_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(LEADS["spec"], "holderIdentity", "")
    connected(monkeypatch, FABRIC)

    for what in ("fabric/rack", "--all"):
        assert main("pause", [what]) == 0
        assert "weft pause: nobody leads: the last one ended" in capsys.readouterr().err


def test_resume_all_leaves_what_its_owner_paused_and_says_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    own, ours = (
        made(INFERENCE_GROUPS, name, {**GROUP["spec"], "rebalance": {"mode": "Paused"}})
        for name in ("own", "ours")
    )
    ours["metadata"]["annotations"] = {ANNOTATION_MODE: "Auto"}
    client = connected(monkeypatch, own, ours)

    assert main("resume", ["--all", "-n", "team-a"]) == 0
    told = capsys.readouterr()
    assert "InferenceGroup team-a/own stays Paused: its owner's spec says so" in told.out
    assert "InferenceGroup team-a/ours: Paused -> Auto" in told.out
    assert (client.patched, told.err) == (["ours"], "")
    # Of one object it is asked for what cannot be done.
    assert main("resume", ["infg/own", "-n", "team-a"]) == 1
    assert "edit spec.rebalance.mode to end it" in capsys.readouterr().err
