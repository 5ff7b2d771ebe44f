import pytest
from hypothesis import given
from hypothesis import strategies as st

from weft.fabric.errors import InvalidRequest, Transient
from weft.fabric.redfish.uris import canonical, last_segment, local_path, member_path, origin_of

ORIGIN = origin_of("https://fm.rack-a:8443")


@pytest.mark.parametrize(
    "link",
    [
        "https://elsewhere:8443/redfish/v1/Systems/1",
        "http://fm.rack-a:8443/redfish/v1/Systems/1",
        "https://fm.rack-a/redfish/v1/Systems/1",
        "//169.254.169.254/redfish/v1",
        "https://fm.rack-a:8443@elsewhere/redfish/v1",
        "https://user@fm.rack-a:8443/redfish/v1",
        "/redfish/v1/../../admin",
        "/redfish/v1/%2e%2e/admin",
        "/redfish/v1/a%2f..%2f..%2fadmin",
        "/redfish/v1/%2e%2e%2fadmin",
        "/redfish/v1/..%5cadmin",
        "/redfish/v1/a\\b",
        "/redfish/v1/a%00b",
        "/redfish/v1/a\tb",
        "/redfish/v1/a%ffb",
        "/redfish/v1/Systems#/Links",
        "/admin",
        "Systems/1",
        "file:///etc/passwd",
        "https://[::1/redfish/v1",
        "https://fm.rack-a:port/redfish/v1",
        "/redfish/v1/" + "x" * 3000,
        "",
        None,
        7,
        {"@odata.id": "/redfish/v1"},
    ],
)
def test_a_link_that_leaves_the_manager_is_refused(link: object) -> None:
    with pytest.raises(Transient):
        local_path(ORIGIN, link)


@pytest.mark.parametrize(
    ("link", "path"),
    [
        ("/redfish/v1/Systems/1", "/redfish/v1/Systems/1"),
        ("https://FM.rack-a:8443/redfish/v1/Systems?$skip=5", "/redfish/v1/Systems?$skip=5"),
        ("/redfish/v1/Systems/a%20b", "/redfish/v1/Systems/a%20b"),
        ("/redfish/v1/Systems/a b", "/redfish/v1/Systems/a%20b"),
        ("/redfish/v1/Systems/a%2fb%2C", "/redfish/v1/Systems/a%2Fb,"),
        ("/redfish/v1/Systems/Gerät", "/redfish/v1/Systems/Ger%C3%A4t"),
    ],
)
def test_a_link_within_the_manager_is_followed(link: str, path: str) -> None:
    assert local_path(ORIGIN, link) == path


@given(st.text(max_size=200) | st.integers() | st.none())
def test_any_text_as_a_link_stays_in_the_service_or_is_refused(link: object) -> None:
    try:
        path = local_path(ORIGIN, link)
    except Transient:
        return
    assert path.startswith("/redfish/")


@pytest.mark.parametrize(
    "endpoint",
    [
        "",
        "fm.rack-a",
        "ftp://fm",
        "https://",
        "https://u:p@fm",
        "https://fm/other",
        "https://fm?x=1",
        "https://f m",
    ],
)
def test_an_endpoint_that_is_no_origin_is_refused_with_an_example(endpoint: str) -> None:
    with pytest.raises(InvalidRequest, match="https://host:port"):
        origin_of(endpoint)


def test_ports_default_by_scheme() -> None:
    assert origin_of("https://fm") == ("https", "fm", 443)
    assert local_path(origin_of("https://fm"), "https://fm:443/redfish/v1/") == "/redfish/v1/"


def test_resources_compare_without_query_and_trailing_slash() -> None:
    assert canonical("/redfish/v1/Systems/?$expand=.") == "/redfish/v1/Systems"
    assert last_segment("/redfish/v1/Systems/a%20b/") == "a b"
    assert member_path("/redfish/v1/Systems/", "a b/c") == "/redfish/v1/Systems/a%20b%2Fc"
