"""The OpenAPI document is valid OpenAPI 3.1."""

from openapi_spec_validator import OpenAPIV31SpecValidator


def test_a_validator_finds_nothing_wrong_with_the_document(app):
    assert list(OpenAPIV31SpecValidator(app.openapi()).iter_errors()) == []


def test_a_validator_finds_a_response_without_a_description(app):
    broken = {**app.openapi(), "paths": {"/healthz": {"get": {"responses": {"200": {}}}}}}
    assert list(OpenAPIV31SpecValidator(broken).iter_errors()) != []
