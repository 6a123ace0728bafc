"""Each alert type is complete in its row, and all that depends on a type reads the row."""

import pickle
import re
from pathlib import Path

import pytest
from botocore.exceptions import ClientError

from worker.failures.alert_types import AlertType, Failure, HealthCheck, Severity
from worker.firehose.errors import PERMANENT_CODES, TRANSIENT_CODES, of_code
from worker.firehose.health import ANSWERED, of_error

ROOT = Path(__file__).parents[3]
SECTIONS = re.findall(r"^## (.+)$", (ROOT / "docs/alerts.md").read_text("utf-8"), re.MULTILINE)
CODES = [*TRANSIENT_CODES, *PERMANENT_CODES, "AccessDeniedException", "ThrottlingException", "Unheard-of"]


@pytest.mark.parametrize("alert_type", AlertType)
def test_a_type_has_a_severity_an_advice_and_whether_its_dead_letters_can_be_replayed(alert_type):
    assert alert_type.severity in Severity
    assert alert_type.advice
    assert alert_type.replayable in (True, False)


@pytest.mark.parametrize("alert_type", AlertType)
def test_a_type_names_a_check_that_can_fail_when_aws_answers_the_health_check_with_it(alert_type):
    assert alert_type.failed_check in {None, *(check.name for check in ANSWERED)}
    assert alert_type.test_advice


def test_the_docs_have_a_section_for_each_type_and_no_other():
    assert sorted(SECTIONS) == sorted(AlertType)


@pytest.mark.parametrize("code", sorted(CODES))
def test_the_health_check_reports_every_error_code_of_firehose_as_a_failed_check(code):
    answer = {"Error": {"Code": code, "Message": ""}, "ResponseMetadata": {"RequestId": "0001"}}
    error = ClientError(answer, "DescribeDeliveryStream")
    failed = of_error(error)[-1]
    assert not failed.ok
    assert failed.name == (of_code(code).failure.alert_type.failed_check or HealthCheck.ENDPOINT)


@pytest.mark.parametrize("alert_type", AlertType)
def test_a_type_is_found_by_its_name_and_survives_the_way_between_processes(alert_type):
    assert AlertType(str(alert_type)) is alert_type
    assert pickle.loads(pickle.dumps(Failure(alert_type, "code", ""))).alert_type is alert_type
