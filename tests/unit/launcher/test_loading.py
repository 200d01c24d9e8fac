"""Loading a user's file: what is found, and what is said where it cannot be."""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from prefect_n8n.core.errors import ConfigurationError
from prefect_n8n.launcher.loading import load_file

HEAD = "from prefect import flow\nfrom prefect_n8n import webhook\n"

Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Iterator[Write]:
    """Writes modules; the interpreter forgets them afterwards."""
    path, modules = list(sys.path), set(sys.modules)

    def write(text: str, name: str = "user_flows.py") -> Path:
        file = tmp_path / name
        file.write_text(HEAD + textwrap.dedent(text))
        return file

    yield write
    sys.path[:] = path
    for name in set(sys.modules) - modules:
        if str(tmp_path) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]


def refusal(file: Path) -> str:
    with pytest.raises(ConfigurationError) as caught:
        load_file(file)
    return str(caught.value)


def test_flows_are_found_in_their_order(write: Write) -> None:
    file = write("""
        @webhook("orders")
        @flow
        def second(total: float): ...

        @webhook("refunds", scheme="hmac")
        @flow(name="first")
        async def a(event): ...

        @flow
        def no_webhook(): ...

        again = second
    """)
    flows = load_file(file).flows
    assert [f.deployment for f in flows] == ["second/orders", "first/refunds"]


def test_prefect_can_find_the_module_again(write: Write) -> None:
    file = write("@webhook()\n@flow\ndef a(): ...")
    (flow,) = load_file(file).flows
    assert sys.modules["user_flows"].a is flow
    assert flow.fn.__module__ == "user_flows"


def test_files_beside_it_can_be_imported(write: Write) -> None:
    write("NAME = 'from-beside'", "beside_it.py")
    file = write("""
        import beside_it

        @webhook(beside_it.NAME)
        @flow
        def a(): ...
    """)
    assert load_file(file).flows[0].endpoint == "from-beside"


def test_annotations_as_text_are_understood(write: Write, tmp_path: Path) -> None:
    file = tmp_path / "later.py"
    file.write_text(
        "from __future__ import annotations\n"
        + HEAD
        + "from prefect_n8n import WebhookEvent\n"
        + "@webhook()\n@flow\ndef a(it: WebhookEvent, total: float): ..."
    )
    assert load_file(file).flows[0].name == "a"


def test_missing_files(tmp_path: Path) -> None:
    for name in ("missing.py", ".", "missing"):
        assert "is not a Python file" in refusal(tmp_path / name)


def test_other_files(write: Write) -> None:
    file = write("@webhook()\n@flow\ndef a(): ...", "flows.txt")
    assert refusal(file) == f"{file} is not a Python file."


@pytest.mark.parametrize("text", ["", "@flow\ndef a(): ...", "webhook('orders')"])
def test_no_flow_with_webhook(write: Write, text: str) -> None:
    assert "has no flow with @webhook" in refusal(write(text))


def test_a_failing_file_is_named_with_its_line(write: Write) -> None:
    file = write("def f():\n    return 1 / 0\n\nf()\n")
    assert refusal(file) == f"{file}, line 4 failed: ZeroDivisionError: division by zero"
    assert "user_flows" not in sys.modules


def test_a_failing_import_names_the_line_of_the_users_file(write: Write) -> None:
    write("raise LookupError('deep')", "beside_it.py")
    file = write("x = 1\nimport beside_it\n")
    assert refusal(file) == f"{file}, line 4 failed: LookupError: deep"


def test_a_file_that_is_no_python(write: Write) -> None:
    text = refusal(write("def (:"))
    assert "SyntaxError" in text
    assert "line 3" in text


def test_a_wrong_decorator_is_a_sentence(write: Write) -> None:
    file = write("@flow\n@webhook('orders')\ndef a(): ...")
    assert refusal(file).endswith("failed: TypeError: @webhook stands above @flow, once.")


def test_two_flows_of_one_name(write: Write) -> None:
    file = write("""
        @webhook("orders")
        @flow(name="same")
        def a(): ...

        @webhook("orders", types=["b"])
        @flow(name="same")
        def b(): ...
    """)
    text = refusal(file)
    assert "same/orders" in text
    assert "another name" in text


def test_one_name_at_two_endpoints(write: Write) -> None:
    file = write("""
        @flow
        def a(): ...

        one, two = webhook("one")(a), webhook("two")(a)
    """)
    assert [f.deployment for f in load_file(file).flows] == ["a/one", "a/two"]


def test_an_endpoint_has_one_scheme(write: Write) -> None:
    file = write("""
        @webhook("orders")
        @flow
        def a(): ...

        @webhook("orders", scheme="hmac")
        @flow
        def b(): ...
    """)
    assert refusal(file) == "Endpoint 'orders' is given two schemes."


def test_outbound_endpoints_are_found(write: Write) -> None:
    file = write("""
        from prefect_n8n import OutboundEndpoint
        crm = OutboundEndpoint("crm", url="crm/contact")
        same = crm
    """)
    loaded = load_file(file)
    assert (loaded.path, loaded.flows) == (file.resolve(), [])
    assert [endpoint.slug for endpoint in loaded.endpoints] == ["crm"]


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ('OutboundEndpoint("CRM", url="crm")', "no slug"),
        ('OutboundEndpoint("crm", url="http://169.254.169.254/")', "169.254.169.254"),
        ('OutboundEndpoint("crm", url="crm", scheme="none")', "scheme"),
        ('OutboundEndpoint("crm", url="crm", retry_policy={"schedule": []})', "retry policy"),
        ('OutboundEndpoint("crm", url="crm", success_rule={"fields": 1})', "success rule"),
        ('OutboundEndpoint("crm", url="crm", fallback=[{"endpoint": "a", "x": 1}])', "step 1"),
    ],
)
def test_an_outbound_endpoint_that_cannot_be_is_said_so(
    write: Write, line: str, words: str
) -> None:
    assert words in refusal(write(f"from prefect_n8n import OutboundEndpoint\ncrm = {line}\n"))
