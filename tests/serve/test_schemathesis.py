"""The description of the API against the running server: requests made from it find no error of the server."""

from __future__ import annotations

from contextlib import suppress

import pytest

EXAMPLES = 60  # Each operation gets this number of requests that fit the description, and of ones that do not.


@pytest.mark.slow
def test_the_server_is_as_described(served):
    schemathesis = pytest.importorskip("schemathesis", reason="needs schemathesis")
    from hypothesis import HealthCheck, Phase, given, settings
    from hypothesis.errors import Unsatisfiable
    from schemathesis import checks
    from schemathesis.specs.openapi import checks as described

    wanted = [
        checks.not_a_server_error,
        described.status_code_conformance,
        described.content_type_conformance,
        described.response_schema_conformance,
    ]
    schema = schemathesis.openapi.from_url(f"{served.url}/api/v1/openapi.json")
    statuses = {}
    for found in schema.get_all_operations():
        operation = found.ok()
        for mode in schemathesis.GenerationMode:

            @settings(
                max_examples=EXAMPLES,
                deadline=None,
                derandomize=True,
                database=None,
                phases=[Phase.explicit, Phase.generate],
                suppress_health_check=list(HealthCheck),
            )
            @given(case=operation.as_strategy(generation_mode=mode))
            def ask(case):
                answer = case.call(timeout=20)
                statuses.setdefault(case.operation.path, set()).add(answer.status_code)
                case.validate_response(answer, checks=wanted)

            with suppress(Unsatisfiable):  # A request without parameters cannot be wrong.
                ask()
    assert len(statuses) == len(schema.raw_schema["paths"]) == 7
    assert {200, 400} <= statuses["/api/v1/search"]
    assert all(status < 500 for several in statuses.values() for status in several)
