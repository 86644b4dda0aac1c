"""The OpenAPI document is valid OpenAPI 3.1."""

from openapi_spec_validator import OpenAPIV31SpecValidator


def test_a_validator_finds_nothing_wrong_with_the_document(app):
    assert list(OpenAPIV31SpecValidator(app.openapi()).iter_errors()) == []


def test_every_tag_is_described(app):
    document = app.openapi()
    used = {tag for path in document["paths"].values() for operation in path.values() for tag in operation["tags"]}
    assert used == {tag["name"] for tag in document["tags"] if tag["description"]}


def test_examples_of_lines_are_the_text_of_lines(app):
    """OpenAPI's schema of a body is of the whole body, which lines of JSON are the text of."""
    content = app.openapi()["paths"]["/api/v1/sweep"]["post"]["responses"]["200"]["content"]["application/x-ndjson"]
    assert content["schema"]["type"] == "string"
    assert all(isinstance(example["value"], str) for example in content["examples"].values())


def test_a_validator_finds_a_response_without_a_description(app):
    broken = {**app.openapi(), "paths": {"/healthz": {"get": {"responses": {"200": {}}}}}}
    assert list(OpenAPIV31SpecValidator(broken).iter_errors()) != []
