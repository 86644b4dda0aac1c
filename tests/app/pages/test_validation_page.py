"""The validation page shows what the API answers."""

from app.api.answers.validation import NOT_MEASURED, validation
from app.pages.validation.view import context as validation_context
from app.presentation.format import deviation
from calculator.allocator.reserved_assumptions import RULE_ACCURACY


def test_every_estimated_figure_is_shown_in_a_table_with_its_address(client):
    text = client.get("/validation").text
    context = validation_context(validation().published)
    for row in (*context["whole"], *context["in_part"]):
        assert row.address in text
        assert f'value="{row.measured_bytes}"' in text
        assert f'value="{row.predicted_bytes}"' in text
        assert deviation(row.error) in text


def test_it_shows_peers_reasons_and_environments(client):
    text = client.get("/validation").text
    published = validation().published
    for peer in published.peers:
        assert f"{peer.name} {peer.version}" in text
    for reason in {reason for row in published.rows for reason in row.differs}:
        assert reason.replace("'", "&#39;") in text
    for environment in validation_context(published)["environments"]:
        assert environment.versions in text


def test_it_states_that_reserved_memory_is_by_replay_and_how_accurate_the_rule_is(client):
    page = client.get("/validation").text
    assert "The estimates here replay the allocator" in page
    assert RULE_ACCURACY in page


def test_a_remark_states_that_we_measured_nothing(client):
    assert (NOT_MEASURED in client.get("/validation").text) == (not validation().measured)


def test_every_page_links_to_it(client):
    for address in ("/", "/docs"):
        assert '<a href="/validation">Validation</a>' in client.get(address).text


def test_it_states_how_intervals_of_speed_compare_with_a_source_that_is_left_out(client):
    page = client.get("/validation").text
    every, *sources = validation().speeds.coverage
    assert f"contains {every.covered} of {every.runs} published speeds" in page
    for source in sources:
        assert f'<td class="figure" data-label="In the interval">{source.covered} of {source.runs}</td>' in page
    assert page.count("not possible: excluded") == sum(run.efficiency > 1 for run in validation().speeds.runs)
