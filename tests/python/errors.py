"""What an error says beyond its status and message."""

from google.rpc import error_details_pb2
from grpc_status import rpc_status


def error_info(error):
    """The machine's part of an error: domain, reason, and what belongs to it."""
    return detail(error, error_details_pb2.ErrorInfo)


def retry_info(error):
    """When a retry can help; None: it cannot."""
    return detail(error, error_details_pb2.RetryInfo)


def violations(error):
    """What is wrong with a request: each field with its fault."""
    bad = detail(error, error_details_pb2.BadRequest)
    return {violation.field: violation.description for violation in bad.field_violations}


def detail(error, kind):
    for any_detail in rpc_status.from_call(error).details:
        found = kind()
        if any_detail.Unpack(found):
            return found
    return None
