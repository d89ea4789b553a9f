# C types for holding.py.
from proxyworker.gate.record cimport SessionRecorder
from proxyworker.postgres.pipeline cimport Pipeline
from proxyworker.postgres.requests cimport Requests
from proxyworker.postgres.ways_out cimport WaysOut


cdef class Holding:
    cdef object _approvals
    cdef object _journal
    cdef object _grant
    cdef object _course
    cdef SessionRecorder _recorder
    cdef Pipeline _pipeline
    cdef Requests _requests
    cdef WaysOut _ways_out
    cdef object _on_over
    cdef object _loop
    cdef object _question

    cpdef bint is_on(self) except -1
